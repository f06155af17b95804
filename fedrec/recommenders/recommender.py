"""What a recommender is, and what it is given while it trains.

Every arm of an experiment, central or federated, is a `Recommender`: it is fitted on `train` and scores every item for
the users it is asked about. Beside `train` it gets a `Training`: a seed, a validator that answers one number, and the
places to log and to save to. The test set is in neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from fedrec.components import Component, Registry
from fedrec.data.interactions import Interactions
from fedrec.errors import ModelError

Tensors = Mapping[str, Tensor]
Scorer = Callable[[Tensor], Tensor]
"""[n] int64 user codes -> [n, n_items] scores; larger is better."""

Validator = Callable[[Scorer], float]
"""A scorer's value of the one validation metric; larger is better. It holds the validation part, training does not."""

Disclosure = Literal["released", "simulation", "server"]
"""Whether a logged value left the devices through the ledger, is something that only a simulation can see, or is known
to the server of a deployment without being in the ledger: nodes that answered, bytes, sums without noise."""


class Checkpoints(Protocol):
    """Where an interrupted training continues from."""

    def load(self) -> tuple[Tensors, Mapping[str, object]] | None:
        """The last saved tensors and JSON-able facts, or None at a fresh start."""

    def save(self, tensors: Tensors, facts: Mapping[str, object]) -> None:
        """Replace the checkpoint, atomically."""


class NoCheckpoints:
    """Training that starts afresh and saves nothing."""

    def load(self) -> None:
        """Nothing to continue from."""

    def save(self, tensors: Tensors, facts: Mapping[str, object]) -> None:
        """Nothing is kept."""


def _ignore(*_: object) -> None:
    """Neither logs nor shows."""


@dataclass(frozen=True)
class Training:
    """What a recommender is given beside its training data.

    Attributes:
        seed: of every random stream of the fit.
        arm: the arm's name. It sets the noise of private arms apart: under one noise their difference would be bare.
        device: "cpu", "cuda" or "auto" (CUDA where there is one).
        validator: None if nothing is held out for validation; early stopping then has nothing to look at.
        steps: exactly this many epochs or rounds are done, which an earlier fit chose on validation; None leaves it to
            the recommender's settings. A recommender that does not learn in steps has nothing to heed.
        log: (step, name, value, disclosure), once for each logged value of an epoch or round.
        progress: (steps done, steps planned, best validation value or None), after each step.
        checkpoints: where to resume from and save to.
    """

    seed: int = 0
    arm: str = ""
    device: str = "auto"
    validator: Validator | None = None
    steps: int | None = None
    log: Callable[[int, str, float, Disclosure], None] = _ignore
    progress: Callable[[int, int, float | None], None] = _ignore
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)

    @property
    def torch_device(self) -> torch.device:
        """The device to compute on."""
        name = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        return torch.device(name)


class Recommender(Component, Protocol):
    """A model that ranks items for users.

    A class whose scores are predicted ratings says so with `rates = True`: their errors are then measured too.
    """

    def fit(self, train: Interactions, training: Training) -> None:
        """Learn from the training interactions, and from nothing else.

        Raises:
            ModelError: if training diverged (a parameter or a score is not finite).
        """

    def score(self, users: Tensor) -> Tensor:
        """Scores of every item: [n] int64 user codes -> [n, n_items] floating point, on any device.

        Training items are scored too; ranking leaves them out.
        """

    def tensors(self) -> Tensors:
        """The fitted model, as it is written to `model.safetensors`."""


RECOMMENDERS: Registry[Recommender] = Registry("method")
"""The recommenders that exist only centrally; `fedrec.federated.methods.METHODS` has the others."""


def require_finite(values: Tensor, what: str) -> Tensor:
    """`values`, if every one is finite.

    Raises:
        ModelError: otherwise; a diverged model must never be ranked.
    """
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise ModelError(f"{what}: {bad} of {values.numel()} values are not finite; training diverged: lower the rate")
    return values
