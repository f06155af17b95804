"""How tuning searches: the `[tune]` section, which settings are tried next, and which trials are not worth finishing.

A suggestion is a pure function of the search, of the trials before it and of its number, so that a search that was
killed goes on as if it had not been. Tree-structured Parzen estimators (Bergstra et al. 2011) and the median rule
(Golovin et al. 2017) are Optuna's, asked anew for each trial.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from fedrec.components import Config
from fedrec.errors import ConfigError
from fedrec.spaces import Choice, Integers, LogUniform, Space, Value
from fedrec.streams import Streams

if TYPE_CHECKING:
    import optuna

Settings = Mapping[str, Value]
"""Values by dotted key, as a space has them."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]  # it is written as a 64-bit integer

State = Literal["finished", "pruned", "failed"]


_GRACE = 4  # looks before a trial may be given up: a low learning rate starts late and may still end high


class TuneConfig(Config):
    """How the arms of an experiment are tuned: by `evaluation.metric` on the validation part, before any test.

    Attributes:
        sampler: "grid" tries every combination, "random" draws each setting alone, "tpe" draws near what did well.
        trials: settings that are tried for an arm, its own first; a grid must not be larger.
        points: values of a grid for each range of numbers; a choice has its own.
        seeds: that a trial is fitted with, its value the mean; None is the experiment's first seed.
        pruner: "median" gives a trial up whose best look so far is below the median of earlier trials at the same
            epoch, "none" never does.
        arms: that are tuned; None is all that have a search space.
        unpaid: tune private arms too, although their epsilon does not pay for looking at the data so often.
    """

    sampler: Literal["grid", "random", "tpe"] = "tpe"
    trials: int = Field(20, ge=1)
    points: int = Field(3, ge=2)
    seeds: tuple[Seed, ...] | None = None
    pruner: Literal["median", "none"] = "median"
    arms: tuple[str, ...] | None = None
    unpaid: bool = False

    @field_validator("seeds", "arms")
    @classmethod
    def _some_and_distinct(cls, given: tuple[object, ...] | None) -> tuple[object, ...] | None:
        if given is not None and (not given or len(set(given)) < len(given)):
            raise ValueError("give at least one, and each once, or leave the key out")
        return given


@dataclass(frozen=True)
class Trial:
    """What came of one setting.

    Attributes:
        number: from 0.
        settings: what was tried.
        state: "pruned" if it was given up, "failed" if training diverged.
        value: of the validation metric, the mean over the tuning seeds; None unless it was finished.
        best_steps: the best epoch or round with each seed; none for a method that does not look at validation.
        looks: (epoch or round, validation value) of the first seed.
        note: why it failed, or which trial had the same settings and lends its result.
        seconds: of fitting.
    """

    number: int
    settings: Settings
    state: State
    value: float | None = None
    best_steps: tuple[int, ...] = ()
    looks: tuple[tuple[int, float], ...] = ()
    note: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Search:
    """The search for one arm's settings.

    Attributes:
        arm: its name; arms draw apart.
        spaces: by dotted key.
        own: the arm's own settings, of which those in `spaces` are tried first.
        sampler, trials, points, pruner: as in `TuneConfig`.
        seeds: that a trial is fitted with; the first is also that of what is random in the search.
    """

    arm: str
    spaces: Mapping[str, Space]
    own: Settings
    sampler: Literal["grid", "random", "tpe"]
    trials: int
    points: int
    pruner: Literal["median", "none"]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.sampler == "grid" and self.length > self.trials:
            raise ConfigError(
                f"the grid has {self.length:,} points and trials = {self.trials}; raise tune.trials, give the arm a "
                "smaller space, or take sampler = 'tpe'"
            )

    @property
    def length(self) -> int:
        """How many trials there are to be."""
        return math.prod(len(values) for values in self._axes) if self.sampler == "grid" else self.trials

    @property
    def _axes(self) -> list[tuple[Value, ...]]:
        return [space.grid(self.points) for space in self.spaces.values()]

    @property
    def warm_up(self) -> int:
        """Trials before any model of them: a quarter, and at least four."""
        return max(4, self.trials // 4)

    def suggest(self, past: Sequence[Trial]) -> Settings:
        """The settings of the next trial.

        Args:
            past: all trials before it, in order.
        """
        number = len(past)
        if self.sampler == "grid":
            point = next(itertools.islice(itertools.product(*self._axes), number, None))
            return dict(zip(self.spaces, point, strict=True))
        if number == 0 and all(value in self.spaces[key] for key, value in self.own.items()):
            return self.own
        if self.sampler == "random" or number < self.warm_up:
            return self._draw(number)
        return self._ask(past)

    def hopeless(self, past: Sequence[Trial], looks: Sequence[tuple[int, float]]) -> bool:
        """Whether a trial is not worth going on with, by its looks so far at the first tuning seed.

        Args:
            past: the trials before it.
            looks: (epoch or round, validation value).
        """
        if self.pruner == "none" or len(looks) < _GRACE:
            return False
        import optuna

        study = self._study(past, optuna.pruners.MedianPruner(n_startup_trials=self.warm_up))
        trial = study.ask()
        for step, value in looks:
            trial.report(value, step)
        return trial.should_prune()

    def _streams(self, number: int) -> Streams:
        return Streams(self.seeds[0]).at(number)

    def _draw(self, number: int) -> Settings:
        streams = self._streams(number)
        return {key: space.at(streams.numbers(f"tune/{self.arm}/{key}").random()) for key, space in self.spaces.items()}

    def _ask(self, past: Sequence[Trial]) -> Settings:
        import optuna

        seed = int(self._streams(len(past)).numbers(f"tune/{self.arm}").integers(2**32))
        study = self._study(past, sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=1))
        asked = study.ask({key: _distribution(space) for key, space in self.spaces.items()})
        return {key: _value(space, asked.params[key]) for key, space in self.spaces.items()}

    def _study(
        self,
        past: Sequence[Trial],
        pruner: optuna.pruners.BasePruner | None = None,
        sampler: optuna.samplers.BaseSampler | None = None,
    ) -> optuna.Study:
        """A study that has seen the past; the sampler matters only to what is asked of it."""
        import optuna

        logging.getLogger("optuna").setLevel(logging.WARNING)  # it announces every study
        study = optuna.create_study(
            direction="maximize", sampler=sampler or optuna.samplers.RandomSampler(seed=0), pruner=pruner
        )
        distributions = {key: _distribution(space) for key, space in self.spaces.items()}
        states = {
            "finished": optuna.trial.TrialState.COMPLETE,
            "pruned": optuna.trial.TrialState.PRUNED,
            "failed": optuna.trial.TrialState.FAIL,
        }
        for trial in past:
            study.add_trial(
                optuna.trial.create_trial(
                    state=states[trial.state],
                    value=trial.value,
                    params={key: _param(space, trial.settings[key]) for key, space in self.spaces.items()},
                    distributions=distributions,
                    intermediate_values=dict(trial.looks),
                )
            )
        return study


def _distribution(space: Space) -> optuna.distributions.BaseDistribution:
    """Optuna's word for a space; the options of a choice go by their positions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(space, Choice):
        return CategoricalDistribution(range(len(space.options)))
    if isinstance(space, Integers):
        return IntDistribution(space.low, space.high, log=space.log)
    return FloatDistribution(space.low, space.high, log=isinstance(space, LogUniform))


def _param(space: Space, value: Value) -> object:
    return space.options.index(value) if isinstance(space, Choice) else value


def _value(space: Space, param: object) -> Value:
    if isinstance(space, Choice):
        assert isinstance(param, int)
        return space.options[param]
    if isinstance(space, Integers):
        assert isinstance(param, int)
        return param
    assert isinstance(param, float)
    return space.rounded(param)
