"""Noise is calibrated over everything that a method is going to release."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import PrivacyError
from fedrec.privacy import (
    Clip,
    Draws,
    Ledger,
    PlannedRelease,
    Release,
    Schedule,
    calibrate,
    effective_noise_multiplier,
)
from tests.privacy.exact import exact_epsilon

ONE_GRAM = Schedule((PlannedRelease(query="gram", draws=1, clip=1.0),))


def trained(rate: float = 0.1) -> Schedule:
    """Degrees counted once, 20 rounds of training, two validation sums in every fifth round."""
    return Schedule(
        (
            PlannedRelease(query="count", draws=1, clip=4.0, share=0.2),
            PlannedRelease(query="train", draws=20, clip=1.0, share=0.5),
            PlannedRelease(query="evaluate", draws=4, clip=2.0, share=0.3, per_draw=2, first=5, every=5),
        ),
        rate,
    )


def test_shares_of_a_draw_by_hand() -> None:
    sigmas = trained().noise_multipliers(1.2)
    assert sigmas == {
        "count": pytest.approx(1.2 / math.sqrt(0.2)),
        "train": pytest.approx(1.2 / math.sqrt(0.5)),
        "evaluate": pytest.approx(1.2 / math.sqrt(0.15)),  # each of two
    }


def test_a_plan_is_a_ledger_written_in_advance() -> None:
    schedule = trained()
    ledger = schedule.ledger(schedule.noise_multipliers(1.0))
    kinds = {draw: sorted(release.query for release in releases) for draw, releases in ledger.draws().items()}
    assert kinds[1] == ["count", "train"]
    assert kinds[2] == ["train"]
    assert kinds[5] == kinds[10] == kinds[15] == kinds[20] == ["evaluate", "evaluate", "train"]
    assert set(kinds) == set(range(1, 21))
    # 1/σ_eff² is the share that a draw spends: .7 in the first, .8 with validation, .5 in the other fifteen.
    assert ledger.history() == (
        Draws(pytest.approx(0.8**-0.5), 0.1, 4),  # type: ignore[arg-type]
        Draws(pytest.approx(0.7**-0.5), 0.1, 1),  # type: ignore[arg-type]
        Draws(pytest.approx(0.5**-0.5), 0.1, 15),  # type: ignore[arg-type]
    )
    half = schedule.ledger(schedule.noise_multipliers(1.0), through=10)
    assert half.within(ledger)
    assert max(half.draws()) == 10
    assert half.releases[0] == Release("count", 1, schedule.noise_multipliers(1.0)["count"], 4.0, 0.1)


@given(
    parts=st.lists(st.tuples(st.floats(0.05, 1.0), st.integers(1, 5)), min_size=1, max_size=4),
    sigma=st.floats(0.3, 30.0),
)
def test_a_draw_whose_shares_sum_to_one_spends_the_noise_multiplier(
    parts: list[tuple[float, int]], sigma: float
) -> None:
    total = sum(share for share, _ in parts)
    schedule = Schedule(
        tuple(
            PlannedRelease(query=f"kind {k}", draws=1, clip=1.0, share=min(1.0, share / total), per_draw=times)
            for k, (share, times) in enumerate(parts)
        )
    )
    (releases,) = schedule.ledger(schedule.noise_multipliers(sigma)).draws().values()
    assert len(releases) == sum(times for _, times in parts)
    assert effective_noise_multiplier(release.noise_multiplier for release in releases) == pytest.approx(sigma)


@pytest.mark.parametrize(("target", "expected"), [(8.0, 0.601), (4.0, 1.083), (2.0, 2.00), (1.0, 3.75)])
def test_one_gram_release(target: float, expected: float) -> None:
    sigma = calibrate(ONE_GRAM, target, 1e-5)["gram"]
    assert sigma == pytest.approx(expected, rel=0.01)
    assert 0.995 * target <= exact_epsilon(sigma, 1e-5) <= target


@pytest.mark.parametrize("target", [0.1, 50.0])
def test_strong_and_weak_targets(target: float) -> None:
    assert 0.99 * target <= exact_epsilon(calibrate(ONE_GRAM, target, 1e-5)["gram"], 1e-5) <= target


def test_the_whole_schedule_keeps_to_the_target() -> None:
    schedule = trained(rate=0.02)
    sigmas = calibrate(schedule, 2.0, 1e-5)
    assert 0.995 * 2.0 <= schedule.epsilon(sigmas, 1e-5) <= 2.0
    assert schedule.ledger(sigmas).epsilon(1e-5) == schedule.epsilon(sigmas, 1e-5)
    assert sigmas["count"] / sigmas["train"] == pytest.approx(math.sqrt(0.5 / 0.2), rel=1e-3)
    assert sigmas["evaluate"] / sigmas["train"] == pytest.approx(math.sqrt(2 * 0.5 / 0.3), rel=1e-3)
    # Noise that is right for the training alone would overspend.
    alone = Schedule((PlannedRelease(query="train", draws=20, clip=1.0, share=0.5),), 0.02)
    assert alone.epsilon(sigmas, 1e-5) < 0.9 * 2.0


def test_more_draws_take_more_noise() -> None:
    def sigma(draws: int, rate: float) -> float:
        return calibrate(Schedule((PlannedRelease(query="x", draws=draws, clip=1.0),), rate), 4.0, 1e-5, "rdp")["x"]

    assert sigma(1, 1.0) < sigma(4, 1.0)
    assert sigma(10, 0.1) < sigma(100, 0.1)
    assert sigma(10, 0.1) < sigma(10, 1.0)
    # n releases of σ√n to everyone are as private as one of σ.
    assert sigma(4, 1.0) == pytest.approx(2 * sigma(1, 1.0), rel=0.005)


def test_visible_samples_are_calibrated_without_amplification() -> None:
    planned = (PlannedRelease(query="x", draws=10, clip=1.0),)
    seen = calibrate(Schedule(planned, 0.1, "independent"), 4.0, 1e-5)
    assert seen == calibrate(Schedule(planned, 1.0), 4.0, 1e-5)
    assert seen["x"] > calibrate(Schedule(planned, 0.1), 4.0, 1e-5, "rdp")["x"]
    with pytest.raises(PrivacyError, match="sampling 'fixed-size' cannot be accounted for"):
        Schedule(planned, 0.1, "fixed-size")


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan, 301.0])
def test_an_impossible_target_is_refused(target: float) -> None:
    with pytest.raises(PrivacyError, match=r"epsilon = .* give a target above 0"):
        calibrate(ONE_GRAM, target, 1e-5)


def test_a_target_below_the_accountant_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"epsilon = 0.001 cannot be shown for this schedule with any noise"):
        calibrate(ONE_GRAM, 0.001, 1e-5, "rdp")


def test_a_schedule_without_releases_has_no_noise() -> None:
    with pytest.raises(PrivacyError, match="list what the method releases"):
        calibrate(Schedule(()), 8.0, 1e-5)


def test_a_schedule_that_overspends_a_draw_is_refused() -> None:
    count = PlannedRelease(query="count", draws=1, clip=1.0, share=0.5, first=3)
    train = PlannedRelease(query="train", draws=5, clip=1.0, share=0.7)
    with pytest.raises(PrivacyError, match=r"2 kinds released in draw 3 have shares that sum to 1.2"):
        Schedule((count, train))
    with pytest.raises(PrivacyError, match="lists 'count' 2 times"):
        Schedule((count, count))


@pytest.mark.parametrize(
    "change",
    [{"draws": 0}, {"per_draw": 0}, {"first": -1}, {"every": 0}, {"clip": 0.0}, {"share": 0.0}, {"share": 1.5}],
)
def test_an_impossible_plan_is_refused(change: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"query": "gram", "draws": 1, "clip": 1.0} | change
    with pytest.raises(PrivacyError, match=f"planned release of 'gram': {next(iter(change))} = "):
        PlannedRelease(**settings)


def test_only_planned_releases_are_made() -> None:
    schedule = trained()
    ledger = Ledger()
    for release in schedule.ledger(schedule.noise_multipliers(1.0)).releases:
        schedule.require_planned(release.query, release.draw, ledger)
        ledger.record(release)
    with pytest.raises(PrivacyError, match="'train' in draw 20: all 1 that were planned"):
        schedule.require_planned("train", 20, ledger)
    with pytest.raises(PrivacyError, match="'train' in draw 21 was not planned: it is in 20 draws, 1 to 20"):
        schedule.require_planned("train", 21, ledger)
    with pytest.raises(PrivacyError, match="'evaluate' in draw 6 was not planned"):
        schedule.require_planned("evaluate", 6, Ledger())
    with pytest.raises(PrivacyError, match="release of 'trian' was not planned; did you mean 'train'"):
        schedule.require_planned("trian", 1, Ledger())


def growing(growth: float, draws: int = 20) -> Schedule:
    return Schedule((PlannedRelease(query="train", draws=draws, clip=1.0),), 0.1, growth=growth)


def test_a_growing_budget_by_hand() -> None:
    schedule = growing(16.0, draws=5)
    assert [schedule.spending(draw) for draw in range(1, 6)] == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0])
    sigmas = [release.noise_multiplier for release in schedule.ledger({"train": 4.0}).releases]
    assert sigmas == pytest.approx([4.0, 4 / 2**0.5, 2.0, 2**0.5, 1.0])
    shrinking = growing(1 / 16, draws=5)
    assert [shrinking.spending(draw) for draw in (1, 5)] == pytest.approx([1.0, 1 / 16])
    assert growing(16.0, draws=1).spending(1) == 1.0
    assert len(growing(16.0, draws=100).ledger({"train": 1.0}).history()) == 8  # an accountant's few sorts of draws


@pytest.mark.parametrize("growth", [0.1, 8.0])
def test_a_growing_budget_keeps_to_the_target(growth: float) -> None:
    schedule = growing(growth)
    sigmas = calibrate(schedule, 3.0, 1e-5, "rdp")
    assert 0.99 * 3.0 <= schedule.epsilon(sigmas, 1e-5, "rdp") <= 3.0
    # The same noise in every draw, that of the first, costs more where the budget shrinks.
    assert (growing(1.0).epsilon(sigmas, 1e-5, "rdp") > 3.0) == (growth < 1)
    # Of everyone, all draws are one Gaussian release.
    everyone = Schedule(schedule.releases, growth=growth)
    sigmas = calibrate(everyone, 3.0, 1e-5)
    together = math.fsum(release.noise_multiplier**-2 for release in everyone.ledger(sigmas).releases) ** -0.5
    assert 0.99 * 3.0 <= exact_epsilon(together, 1e-5) <= 3.0


def test_the_one_repeated_query() -> None:
    schedule = trained()
    assert schedule.repeated("train", "x") == "train"
    with pytest.raises(PrivacyError, match="x: name the query; in several rounds there are: train, evaluate"):
        schedule.repeated(None, "x")
    with pytest.raises(PrivacyError, match="x = 'count': released in no two rounds"):
        schedule.repeated("count", "x")
    assert growing(1.0).repeated(None, "x") == "train"


def test_how_often_a_user_takes_part_is_bounded_by_cycles_alone() -> None:
    planned = trained().releases
    assert Schedule(planned, 0.25, "cyclic").cycle == 4
    assert Schedule(planned, 0.25, "poisson").cycle is None
    assert Schedule(planned, 1.0).cycle == Schedule(planned, 0.25, "independent").cycle == 1


@pytest.mark.parametrize("growth", [0.0, -1.0, math.inf])
def test_an_impossible_growth_is_refused(growth: float) -> None:
    with pytest.raises(PrivacyError, match="growth = "):
        growing(growth)


def test_clips_by_table_are_part_of_the_plan() -> None:
    planned = PlannedRelease(query="train", draws=1, clip=1.0).clipped_to(Clip.by_table({"a": 3.0, "b": 4.0}))
    assert planned.clip == 5.0
    assert planned.bound == Clip.by_table({"a": 3.0, "b": 4.0})
    (release,) = Schedule((planned,)).ledger({"train": 1.0}).releases
    assert release.tables == (("a", 3.0), ("b", 4.0))
    with pytest.raises(PrivacyError, match=r"clip = 6\.0 is not that of"):
        PlannedRelease(query="train", draws=1, clip=6.0, tables=(("a", 3.0), ("b", 4.0)))
