"""The one training loop: epochs of a central model and rounds of a federated one alike.

It validates, stops early, keeps the best state and saves checkpoints, so that a run killed at any step is finished with
the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.errors import ModelError, RunError
from fedrec.recommenders.recommender import Disclosure, Tensors, Training


class Stopping(Config):
    """When to look at the validation metric, and when to stop.

    Attributes:
        every: steps between two looks.
        patience: looks without improvement after which training stops; 0 trains all steps and keeps the last state.
    """

    every: int = Field(5, ge=1)
    patience: int = Field(5, ge=0)


class Learner(Protocol):
    """Something that learns in steps, each a pure function of the state before it and of the step's number."""

    def step(self, number: int) -> Mapping[str, tuple[float, Disclosure]]:
        """Do step `number`, counted from 1, and return what is worth logging."""

    def score(self, users: Tensor) -> Tensor:
        """Scores of every item under the present state: [n, n_items]."""

    def state(self) -> Tensors:
        """Everything that a later step depends on."""

    def restore(self, state: Tensors) -> None:
        """Continue from a state."""

    def facts(self) -> Mapping[str, object]:
        """JSON-able facts that belong to the state (a privacy ledger)."""

    def restore_facts(self, facts: Mapping[str, object]) -> None:
        """Continue from saved facts; refuse those that do not fit the state."""


def copy_state(state: Tensors, saved: Tensors) -> None:
    """Overwrite the tensors of a learner's state, in place, by those of a checkpoint.

    Raises:
        RunError: if a tensor has another shape.
    """
    for name, tensor in state.items():
        if saved[name].shape != tensor.shape:
            raise RunError(
                f"the checkpoint's {name} has shape {list(saved[name].shape)} and this configuration needs "
                f"{list(tensor.shape)}; it was written for other data or settings: delete it and run again"
            )
        tensor.copy_(saved[name])


def require_facts(facts: Mapping[str, object], saved: Mapping[str, object]) -> None:
    """Refuse to continue what was begun with another seed or other settings.

    Raises:
        RunError: if the facts of a checkpoint are not those of the learner.
    """
    if dict(saved) != dict(facts):
        raise RunError(
            f"the checkpoint was written with {dict(saved)} and this run has {dict(facts)}; "
            "delete it and run again, or run with those settings"
        )


@dataclass
class _Progress:
    """How far training is: what a checkpoint holds beside the tensors."""

    step: int = 0
    best_step: int = 0
    best_value: float = -math.inf
    stale: int = 0  # looks since the best one


def train(
    learner: Learner,
    training: Training,
    *,
    steps: int,
    stopping: Stopping,
    save_every: int | None = None,
    disclosure: Disclosure = "simulation",
) -> None:
    """Run a learner's steps, from its checkpoint if there is one, and leave it in its best state.

    With a validator and patience the best state is that of the best validation value; otherwise it is the last one.
    `training.steps` takes the place of `steps` and of early stopping.

    Args:
        learner: in its initial state.
        training: validator, log, progress and checkpoints.
        steps: the most steps that are done.
        stopping: when to validate and when to stop.
        save_every: steps between two checkpoints; None saves one at each look.
        disclosure: what the validation metric is; "released" if it went through the ledger.

    Raises:
        ModelError: if a logged value or the validation metric is not finite.
        RunError: if the checkpoint does not belong to this learner.
    """
    if training.steps is not None:
        steps = training.steps
    watching = training.validator is not None and training.steps is None and stopping.patience > 0
    now, best, logged = _resume(learner, training)
    for row in logged:
        training.log(*row)
    while now.step < steps and not (watching and now.stale >= stopping.patience):
        now.step += 1
        rows: list[tuple[int, str, float, Disclosure]] = [
            (now.step, name, _finite(value, name, now.step), disclosure)
            for name, (value, disclosure) in learner.step(now.step).items()
        ]
        look = now.step % stopping.every == 0 or now.step == steps
        if look and training.validator is not None and watching:
            value = _finite(training.validator(learner.score), "validation", now.step)
            rows.append((now.step, "validation", value, disclosure))
            if value > now.best_value:
                now.best_value, now.best_step, now.stale = value, now.step, 0
                best = _copy(learner.state())
            else:
                now.stale += 1
        logged += rows
        # Saved first: a step of which somebody was told a number is not done again with other noise.
        if look if save_every is None else now.step % save_every == 0 or now.step == steps:
            _save(learner, training, now, best, logged)
        for row in rows:
            training.log(*row)
        training.progress(now.step, steps, now.best_value if watching and now.best_step else None)
    if watching and best:
        learner.restore(best)


def _finite(value: float, name: str, step: int) -> float:
    if not math.isfinite(value):
        raise ModelError(f"step {step}: {name} is {value}; training diverged: lower the learning rate")
    return value


def _copy(state: Tensors) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def _save(learner: Learner, training: Training, now: _Progress, best: Tensors, logged: list[Any]) -> None:
    tensors = {f"now/{name}": tensor for name, tensor in learner.state().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    # The value before the first look is -inf, which JSON has no word for.
    progress = asdict(now) | {"best_value": now.best_value if now.best_step else None}
    training.checkpoints.save(tensors, {"progress": progress, "logged": logged, "learner": dict(learner.facts())})


def _resume(learner: Learner, training: Training) -> tuple[_Progress, dict[str, Tensor], list[Any]]:
    saved = training.checkpoints.load()
    if saved is None:
        return _Progress(), {}, []
    tensors, facts = saved
    parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    if set(parts) != {"now", "best"} or not {"progress", "logged", "learner"} <= set(facts):
        raise RunError(
            f"the checkpoint has parts {sorted(parts)} and facts {sorted(facts)}, which this version did not write; "
            "delete it and run again"
        )
    expected, found = set(learner.state()), set(parts["now"])
    if not expected <= found:
        raise RunError(
            f"the checkpoint holds {sorted(found)} and this configuration needs {sorted(expected)}; "
            "it was written by another configuration: delete it and run again"
        )
    learner.restore(parts["now"])
    progress: Any = facts["progress"]
    learner_facts: Any = facts["learner"]
    logged: Any = facts["logged"]
    learner.restore_facts(learner_facts)
    now = _Progress(
        **(progress | {"best_value": -math.inf if progress["best_value"] is None else progress["best_value"]})
    )
    return now, parts["best"], [tuple(row) for row in logged]
