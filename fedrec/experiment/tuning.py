"""Tuning: try settings of an arm, one trial after the other, and choose the best by validation.

A trial is handed training interactions and a validator that answers one number. The test part is in neither, so no
choice can have seen it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedrec.data import Interactions
from fedrec.errors import FedrecError, ModelError
from fedrec.experiment.arms import ArmConfig
from fedrec.experiment.fitting import Told, fit_arm, keep_going
from fedrec.experiment.search import Search, Settings, Trial
from fedrec.experiment.trials import TrialLog
from fedrec.federated import EngineConfig
from fedrec.recommenders import Validator


@dataclass(frozen=True)
class Tuned:
    """What a search came to.

    Attributes:
        search: how it looked.
        trials: all of them, in order.
        chosen: the finished one of the highest value, the earliest of equals.
    """

    search: Search
    trials: tuple[Trial, ...]
    chosen: Trial

    def as_dict(self, metric: str) -> dict[str, Any]:
        """JSON-able, for `summary.json`."""
        states = [trial.state for trial in self.trials]
        return {
            "sampler": self.search.sampler,
            "metric": metric,
            "seeds": list(self.search.seeds),
            "trials": len(self.trials),
            **{state: states.count(state) for state in ("finished", "pruned", "failed")},
            "chosen": self.chosen.number,
            "value": self.chosen.value,
            "settings": dict(self.chosen.settings),
            "seconds": sum(trial.seconds for trial in self.trials),
        }


class _Hopeless(Exception):  # noqa: N818 (it is no error)
    """Ends a fit that is not worth going on with."""


def tune(
    arm: ArmConfig,
    search: Search,
    train: Interactions,
    validators: Mapping[int, Validator],
    engine: EngineConfig,
    log: TrialLog,
    told: Callable[[int], Told],
) -> Tuned:
    """Search an arm's settings; trials that the log has already are not done again.

    Args:
        arm: with its own settings.
        search: where to look.
        train: what trials learn from.
        validators: by seed, for all of the search.
        engine: what a federated arm runs on.
        log: of the trials.
        told: of each trial's number; what it returns is told of each epoch or round.

    Raises:
        ModelError: if no trial was finished.
        FedrecError: if the data do not allow some settings; it names the trial.
    """
    trials = log.read()
    while len(trials) < search.length:
        number = len(trials)
        settings = search.suggest(trials)
        report = told(number)
        trial = _repeated(number, settings, trials) or _try(
            arm, search, number, settings, trials, train, validators, engine, log, report
        )
        log.add(trial)
        trials.append(trial)
    log.write_table(trials)
    finished = [trial for trial in trials if trial.value is not None]
    if not finished:
        raise ModelError(
            f"none of {len(trials)} trials was finished (the first: {trials[0].note}); give a space of milder settings"
        )
    chosen = max(finished, key=lambda trial: (trial.value, -trial.number))
    return Tuned(search, tuple(trials), chosen)


def _repeated(number: int, settings: Settings, trials: Sequence[Trial]) -> Trial | None:
    """The result of the trial that had the same settings, if there is one: it would come out the same again."""
    for trial in trials:
        if trial.settings == settings:
            return replace(trial, number=number, note=f"as trial {trial.number}", seconds=0.0)
    return None


def _try(
    arm: ArmConfig,
    search: Search,
    number: int,
    settings: Settings,
    past: Sequence[Trial],
    train: Interactions,
    validators: Mapping[int, Validator],
    engine: EngineConfig,
    log: TrialLog,
    report: Told,
) -> Trial:
    """Fit an arm with other settings, once a tuning seed."""
    tried = arm.with_settings(settings)
    looks: list[tuple[int, float]] = []

    def look(step: int, value: float) -> None:
        looks.append((step, value))
        if search.hopeless(past, looks):
            raise _Hopeless

    values, best_steps, seconds = [], [], 0.0
    for position, seed in enumerate(search.seeds):
        checkpoints = log.checkpoints(number, seed)
        try:
            fit = fit_arm(
                tried,
                seed,
                engine,
                train,
                validator=validators[seed],
                checkpoints=checkpoints,
                told=report,
                look=look if position == 0 else keep_going,  # later seeds make the value of a good trial surer
            )
        except _Hopeless:
            return Trial(number, settings, "pruned", looks=tuple(looks), seconds=checkpoints.seconds)
        except ModelError as error:
            seconds += checkpoints.seconds
            return Trial(number, settings, "failed", looks=tuple(looks), note=str(error), seconds=seconds)
        except FedrecError as error:  # no training that diverged: the settings do not fit the data
            said = ", ".join(f"{key} = {value}" for key, value in settings.items())
            raise type(error)(f"trial {number}, {said}: {error}") from error
        assert fit.value is not None  # there is a validator
        values.append(fit.value)
        best_steps += [] if fit.best_step is None else [fit.best_step]
        seconds += fit.seconds
    value = sum(values) / len(values)
    return Trial(number, settings, "finished", value, tuple(best_steps), tuple(looks), seconds=seconds)
