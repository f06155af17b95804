"""FedMF: matrix factorisation by the users' gradients (Chai et al. 2020, "Secure Federated Matrix Factorization").

The server holds the item vectors, each user its own. Each round users step on their own objective and send what it
does to the item vectors; the server steps along the sum. The paper adds this sum under homomorphic encryption, because
a single gradient gives away a user's ratings; here any engine may add it up (masked sums, or noise).

The paper factorises ratings. Of implicit interactions, all of which are ones, the constant is a perfect factorisation,
so the items of a user are told from sampled negatives. The objective stands in
`fedrec.federated.queries.factor_training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.method import METHODS, Ask, Federation
from fedrec.federated.queries import FactorTraining
from fedrec.federated.server_optimizer import ServerOptimizerConfig, server_step
from fedrec.privacy import PlannedRelease
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import Choice, LogUniform, Space


class FedMFConfig(Config):
    """Settings of `FedMF`; the defaults were chosen on the validation part of MovieLens-100K.

    Attributes:
        dim: d, the width of the vectors.
        rounds: the most rounds.
        loss: "squared", as in the paper, or "bce".
        local_steps: gradient steps on the device in a round.
        item_rate: learning rate of the local item rows; with one local step and Adam at the server its size is moot.
        user_rate: learning rate of the private user vector.
        negatives: sampled for each own item, once a round.
        activity_power: a user's loss is divided by its number of items to this power.
        l2: weight of ½ ‖·‖² of the user vector and of the touched item rows.
        initial_scale: standard deviation of all vectors before training.
        clip: norm that a user's change is clipped to under a guarantee.
        server: the server's optimiser.
        stopping: early stopping on validation.
    """

    dim: int = Field(64, ge=1)
    rounds: int = Field(200, ge=1)
    loss: Literal["squared", "bce"] = "bce"
    local_steps: int = Field(1, ge=1)
    item_rate: float = Field(1.0, gt=0)
    user_rate: float = Field(0.07, ge=0)
    negatives: int = Field(4, ge=1)
    activity_power: float = Field(0.5, ge=0, le=1)
    l2: float = Field(0.0006, ge=0)
    initial_scale: float = Field(0.06, gt=0)
    clip: float = Field(0.1, gt=0)
    server: ServerOptimizerConfig = ServerOptimizerConfig(rate=0.0065)
    stopping: Stopping = Stopping()

    space: ClassVar[Mapping[str, Space]] = {
        "dim": Choice((16, 32, 64)),
        "loss": Choice(("squared", "bce")),
        "user_rate": LogUniform(0.01, 1),
        "l2": LogUniform(1e-4, 1e-1),
        "initial_scale": LogUniform(0.01, 0.3),
        "server.rate": LogUniform(1e-3, 1e-1),
    }


@METHODS.register("fedmf")
class FedMF:
    """Matrix factorisation with private user vectors."""

    config_class: ClassVar[type[Config]] = FedMFConfig

    def __init__(self, config: FedMFConfig) -> None:
        self.config = config

    @property
    def rounds(self) -> int:
        """The most rounds it runs."""
        return self.config.rounds

    @property
    def stopping(self) -> Stopping:
        """Early stopping on validation."""
        return self.config.stopping

    def releases(self) -> tuple[PlannedRelease, ...]:
        """One sum of item-table changes a round."""
        return (PlannedRelease(query="factor-training", draws=self.config.rounds, clip=self.config.clip),)

    def start(self, federation: Federation) -> Tensors:
        """A random item table."""
        return {"items": federation.random_items(self.config.dim) * self.config.initial_scale}

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        """The clients step; the server steps along their mean change."""
        change = ask(self.memory(state)).sums["items"]
        return server_step(self.config.server, state, "items", gradient=-change / ask.expected)

    def memory(self, state: Tensors) -> FactorTraining:
        """Local training, which keeps each user's vector on the device."""
        config = self.config
        return FactorTraining(
            items=state["items"],
            loss=config.loss,
            steps=config.local_steps,
            item_rate=config.item_rate,
            user_rate=config.user_rate,
            negatives=config.negatives,
            activity_power=config.activity_power,
            l2=config.l2,
            initial_scale=config.initial_scale,
        )

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        """p_u · q_i for every item."""
        return private.dense["user"] @ state["items"].T
