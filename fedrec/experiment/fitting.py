"""Fit one arm with one seed on some interactions: what trials, final fits and refits have in common.

Nothing here knows of a test part. A fit sees what it learns from and, through a validator, one number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from fedrec.data import Interactions
from fedrec.experiment.arms import ArmConfig, method_class
from fedrec.experiment.store import FileCheckpoints, History
from fedrec.experiment.tracking import Logged, nobody
from fedrec.federated import EngineConfig, FederatedRecommender
from fedrec.recommenders import Disclosure, Recommender, Training, Validator

Told = Callable[[int, int, float | None], None]
"""(epochs or rounds done, planned, best validation value so far or None)."""

Look = Callable[[int, float], None]
"""(epoch or round, validation value); may raise, to end a fit that is not worth going on with."""


def build_arm(arm: ArmConfig, engine: EngineConfig) -> Recommender:
    """The recommender of an arm, not yet fitted."""
    method = method_class(arm.method.kind)(arm.method.settings)
    if not arm.method.federated:
        central: Recommender = method
        return central
    if engine.kind == "ray":
        import fedrec.flower.rays  # noqa: F401 (it offers that engine, and takes a while to import)

    return FederatedRecommender(
        method,
        population=arm.population,
        participation=arm.participation,
        privacy=arm.privacy,
        engine=engine,
    )


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted arm.

    Attributes:
        recommender: the model.
        history: rows (epoch or round, name, value, disclosure).
        value: of the validation metric, or None without a validator.
        best_step: the epoch or round of the best look at that metric; None if the method never looked.
        communication: rounds and megabytes a user; None for a central method.
        seconds: over all sessions.
    """

    recommender: Recommender
    history: History
    value: float | None
    best_step: int | None
    communication: dict[str, float] | None
    seconds: float


def keep_going(step: int, value: float) -> None:
    """Lets every fit go on."""


def fit_arm(
    arm: ArmConfig,
    seed: int,
    engine: EngineConfig,
    train: Interactions,
    *,
    validator: Validator | None,
    checkpoints: FileCheckpoints,
    told: Told,
    steps: int | None = None,
    look: Look = keep_going,
    logged: Logged = nobody,
) -> Fit:
    """Fit an arm, from its checkpoint if there is one.

    Args:
        arm: what is fitted.
        seed: of the fit.
        engine: what a federated arm runs on, and the device of any.
        train: what is learnt from.
        validator: None if nothing is held out.
        checkpoints: where to continue from and save to.
        told: of each epoch or round.
        steps: as in `Training`.
        look: is told of each look at the validation metric, those before a resumption again.
        logged: is told of each logged value likewise, "disclosure/name".

    Raises:
        ModelError: if training diverged.
    """
    history: History = []
    best: tuple[int, float] | None = None

    def log(step: int, name: str, value: float, disclosure: Disclosure) -> None:
        nonlocal best
        history.append((step, name, float(value), disclosure))
        logged(step, f"{disclosure}/{name}", float(value))
        if name == "validation":
            best = (step, float(value)) if best is None or value > best[1] else best
            look(step, float(value))

    recommender = build_arm(arm, engine)
    recommender.fit(
        train,
        Training(
            seed=seed,
            arm=arm.name,
            device=engine.device,
            validator=validator,
            steps=steps,
            log=log,
            progress=told,
            checkpoints=checkpoints,
        ),
    )
    seconds = checkpoints.seconds
    return Fit(
        recommender,
        history,
        None if validator is None else validator(recommender.score),
        best[0] if best else None,
        asdict(recommender.communication) if isinstance(recommender, FederatedRecommender) else None,
        seconds,
    )
