"""What is tried next, and what is given up: pure functions of the search, of the trials before and of the number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest

from fedrec.errors import ConfigError
from fedrec.experiment.search import Search, Trial
from fedrec.spaces import Choice, Integers, LogUniform, Space, Uniform, Value

SPACES: Mapping[str, Space] = {
    "rate": LogUniform(1e-3, 1e-1),
    "dim": Integers(1, 64, log=True),
    "loss": Choice(("bpr", "softmax")),
}


def search(sampler: str, spaces: Mapping[str, Space] = SPACES, **changes: object) -> Search:
    how: dict[str, object] = {
        "arm": "a",
        "own": {"rate": 0.02, "dim": 8, "loss": "bpr"},
        "trials": 20,
        "points": 2,
        "pruner": "median",
        "seeds": (3,),
    }
    return Search(**(how | {"sampler": sampler, "spaces": spaces} | changes))  # type: ignore[arg-type]


def played(how: Search, value: Callable[[Mapping[str, Value]], float]) -> list[Trial]:
    trials: list[Trial] = []
    while len(trials) < how.length:
        settings = how.suggest(trials)
        trials.append(Trial(len(trials), settings, "finished", value(settings)))
    return trials


def test_a_grid_is_every_combination_once() -> None:
    trials = played(search("grid"), lambda settings: 0.0)
    assert [tuple(trial.settings.values()) for trial in trials] == [
        (rate, dim, loss) for rate in (0.001, 0.1) for dim in (1, 64) for loss in ("bpr", "softmax")
    ]
    with pytest.raises(ConfigError, match=r"the grid has 8 points and trials = 7; raise tune\.trials"):
        search("grid", trials=7)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_arms_own_settings_are_tried_first_where_the_space_has_them(sampler: str) -> None:
    assert search(sampler).suggest([]) == {"rate": 0.02, "dim": 8, "loss": "bpr"}
    assert search(sampler, own={"rate": 0.5, "dim": 8, "loss": "bpr"}).suggest([])["rate"] != 0.5


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_suggestion_depends_on_the_past_the_number_and_the_seed_alone(sampler: str) -> None:
    def value(settings: Mapping[str, Value]) -> float:
        return -abs(math.log(float(settings["rate"]) / 0.005))  # type: ignore[arg-type]

    trials = played(search(sampler), value)
    for number in (1, 7, 19):
        assert search(sampler).suggest(trials[:number]) == trials[number].settings
    assert all(trial.settings[key] in space for trial in trials for key, space in SPACES.items())
    others = [search(sampler, seeds=(4,)).suggest(trials[:7]), search(sampler, arm="b").suggest(trials[:7])]
    assert trials[7].settings not in others


def test_tpe_draws_near_what_did_well() -> None:
    """The false alarm rate is nil: everything is seeded."""

    def value(settings: Mapping[str, Value]) -> float:
        return -abs(float(settings["x"]) - 0.8)  # type: ignore[arg-type]

    trials = played(search("tpe", {"x": Uniform(0, 1)}, own={"x": 0.1}, trials=24), value)
    late = [float(trial.settings["x"]) for trial in trials[-8:]]  # type: ignore[arg-type]
    assert sum(0.6 <= x <= 1.0 for x in late) >= 6  # of 8; 3.2 if they were uniform
    away = played(search("tpe", {"x": Uniform(0, 1)}, own={"x": 0.1}, trials=24), lambda settings: -value(settings))
    assert sum(float(trial.settings["x"]) < 0.5 for trial in away[-8:]) >= 6  # type: ignore[arg-type]


def test_a_trial_below_the_median_is_given_up_after_a_few_looks() -> None:
    curves = [(0.1, 0.2, 0.3, top) for top in (0.4, 0.5, 0.6, 0.7, 0.8)]
    past = [
        Trial(n, {"x": 0.5}, "finished", max(curve), looks=tuple(enumerate(curve, start=1)))
        for n, curve in enumerate(curves)
    ]
    how = search("random", {"x": Uniform(0, 1)})
    assert how.warm_up == 5
    low, high = [(1, 0.1), (2, 0.1), (3, 0.1), (4, 0.59)], [(1, 0.1), (2, 0.1), (3, 0.1), (4, 0.61)]
    assert how.hopeless(past, low)
    assert not how.hopeless(past, high)
    assert not how.hopeless(past, [(1, 0.0), (2, 0.0), (3, 0.0)])  # it may be a late starter
    assert not how.hopeless(past[:4], low)
    assert not search("random", {"x": Uniform(0, 1)}, pruner="none").hopeless(past, low)
    failed = [*past[:4], Trial(4, {"x": 0.5}, "failed", note="diverged")]
    assert not how.hopeless(failed, low)  # one that failed says nothing about epochs
