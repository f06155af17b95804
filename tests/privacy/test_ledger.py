"""The ledger sees every release and groups them by participation draw."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedrec.errors import PrivacyError
from fedrec.privacy import Draws, Ledger, Release, counted_rate, epsilon


def sums(number: int, draws: int, sigma: float = 1.0, rate: float = 0.1) -> Ledger:
    """`number` sums on each of some draws."""
    return Ledger(Release(f"sum {k}", draw, sigma, 1.0, rate) for draw in range(1, draws + 1) for k in range(number))


def test_releases_on_one_draw_are_one_step() -> None:
    ledger = sums(7, 100)
    assert ledger.history() == (Draws(pytest.approx(7**-0.5), 0.1, 100),)  # type: ignore[arg-type]
    spent = ledger.epsilon(1e-5)
    assert spent == pytest.approx(61.1, abs=0.5)
    # Stepped one by one, as if each had a draw of its own, the same releases would be under-reported threefold.
    ungrouped = epsilon([Draws(1.0, 0.1, 700)], 1e-5)
    assert ungrouped == pytest.approx(20.2, abs=0.1)
    assert spent > 3 * ungrouped


def test_reference_numbers() -> None:
    ledger = sums(1, 200)
    assert ledger.epsilon(1e-5) == pytest.approx(9.98, abs=0.05)
    assert ledger.epsilon(1e-5, "rdp") == pytest.approx(11.02, abs=0.01)


def test_draws_with_different_kinds_are_different_steps() -> None:
    ledger = Ledger(
        [
            Release("train", 1, 4.0, 1.0, 0.5),
            Release("count", 1, 3.0, 5.0, 0.5),
            Release("train", 2, 4.0, 1.0, 0.5),
            Release("train", 3, 4.0, 1.0, 0.5),
        ]
    )
    assert ledger.history() == (Draws(pytest.approx(2.4), 0.5, 1), Draws(4.0, 0.5, 2))  # type: ignore[arg-type]
    assert [release.query for release in ledger.draws()[1]] == ["train", "count"]
    assert ledger.made("train", 1) == 1
    assert ledger.made("count", 2) == ledger.made("train", 9) == 0


def test_the_clip_is_not_part_of_the_price() -> None:
    # The noise is a multiple of the clip, so ε is the same whatever the clip is.
    small, large = (Ledger([Release("gram", 1, 1.0, clip)]) for clip in (0.1, 100.0))
    assert small.epsilon(1e-5) == large.epsilon(1e-5)


def test_a_sample_that_may_be_seen_is_no_amplification() -> None:
    seen = Ledger(Release("train", draw, 2.0, 1.0, 0.1, "independent") for draw in range(1, 5))
    everyone = Ledger(Release("train", draw, 2.0, 1.0, 1.0) for draw in range(1, 5))
    hidden = Ledger(Release("train", draw, 2.0, 1.0, 0.1) for draw in range(1, 5))
    assert seen.epsilon(1e-5) == everyone.epsilon(1e-5) > hidden.epsilon(1e-5)


def test_counted_rate() -> None:
    assert counted_rate(0.1, "poisson") == 0.1
    assert counted_rate(0.1, "independent") == 1.0
    with pytest.raises(
        PrivacyError, match=r"sampling 'fixed-size' cannot be accounted for: adding one user may change"
    ):
        counted_rate(0.1, "fixed-size")
    with pytest.raises(PrivacyError, match="rate = 0"):
        counted_rate(0.0, "poisson")


def test_a_draw_is_made_once() -> None:
    ledger = Ledger([Release("train", 1, 1.0, 1.0, 0.1)])
    with pytest.raises(PrivacyError, match=r"draw 1 was made by poisson sampling at rate 0.1, not poisson at 0.2"):
        ledger.record(Release("count", 1, 1.0, 1.0, 0.2))
    with pytest.raises(PrivacyError, match=r"not independent at 0\.1"):
        ledger.record(Release("count", 1, 1.0, 1.0, 0.1, "independent"))
    ledger.record(Release("count", 2, 1.0, 1.0, 0.2))
    assert len(ledger.releases) == 2  # a refused release is not in it


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"noise_multiplier": 0.0}, "release of 'gram' in draw 1: noise_multiplier = 0.0"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier = nan"),
        ({"clip": -1.0}, "clip = -1.0"),
        ({"rate": 1.5}, "rate = 1.5"),
        ({"sampling": "round-robin"}, "sampling 'round-robin' cannot be accounted for"),
    ],
)
def test_an_impossible_release_is_refused(change: dict[str, Any], reason: str) -> None:
    settings: dict[str, Any] = {"query": "gram", "draw": 1, "noise_multiplier": 1.0, "clip": 1.0} | change
    with pytest.raises(PrivacyError, match=reason):
        Release(**settings)


def test_json_round_trip_is_exact() -> None:
    ledger = Ledger([Release("gram", 1, 0.1 + 0.2, 1 / 3, 0.7), Release("count", 4, 1.083, 12.0)])
    restored = Ledger.from_dict(json.loads(json.dumps(ledger.as_dict(), allow_nan=False)))
    assert restored.matches(ledger)
    assert restored.releases == ledger.releases
    assert restored.epsilon(1e-5) == ledger.epsilon(1e-5)


@pytest.mark.parametrize(
    "saved",
    [{}, {"releases": None}, {"releases": [{"query": "gram"}]}, {"releases": [{"draw": 1, "sigma": 1.0}]}, []],
)
def test_a_saved_ledger_that_cannot_be_read_is_refused(saved: Any) -> None:
    with pytest.raises(PrivacyError, match="a saved privacy ledger cannot be read"):
        Ledger.from_dict(saved)


def test_a_resumed_ledger_has_to_match() -> None:
    a, b = Release("train", 1, 1.0, 1.0, 0.1), Release("train", 2, 1.0, 1.0, 0.1)
    assert Ledger([a, b]).matches(Ledger([b, a]))
    assert not Ledger([a, a]).matches(Ledger([a]))
    assert not Ledger([a]).matches(Ledger([Release("train", 1, 1.0 + 1e-9, 1.0, 0.1)]))
    assert Ledger([a]).within(Ledger([a, b]))
    assert not Ledger([a, b]).within(Ledger([a]))
    assert not Ledger([a, a]).within(Ledger([a, b]))


def test_an_empty_ledger_costs_nothing() -> None:
    assert Ledger().epsilon(1e-5) == 0.0
    assert Ledger().releases == ()


def test_in_cycles_a_user_pays_for_its_own_draws_alone() -> None:
    """Seven draws in cycles of three: classes of three, two and two; the first one costs the most."""
    ledger = Ledger(Release("train", draw, 2.0, 1.0, 1 / 3, "cyclic") for draw in range(1, 8))
    (draws,) = ledger.history()
    assert (draws.rate, draws.number) == (1.0, 1)
    assert draws.noise_multiplier == pytest.approx(2 / 3**0.5)
    seen = Ledger(Release("train", draw, 2.0, 1.0, 1 / 3, "independent") for draw in range(1, 8))
    assert ledger.epsilon(1e-5) < seen.epsilon(1e-5)
    # Another query costs what its own costliest class does, even if that is another class.
    both = Ledger([*ledger.releases, Release("count", 2, 2.0, 1.0, 1 / 3, "cyclic")])
    assert sum(d.number * d.noise_multiplier**-2 for d in both.history()) == pytest.approx(1.0)


def test_a_plan_cannot_know_a_clip_that_adapts() -> None:
    planned, made = (Release("train", 1, 1.0, clip, adaptive=True) for clip in (0.1, 0.37))
    assert Ledger([made]).matches(Ledger([planned]))
    assert Ledger([made]).within(Ledger([planned]))
    assert not Ledger([made]).matches(Ledger([Release("train", 1, 1.0, 0.1)]))
    assert not Ledger([Release("train", 1, 1.0, 0.37)]).within(Ledger([Release("train", 1, 1.0, 0.1)]))


def test_clips_by_table_survive_json() -> None:
    ledger = Ledger([Release("train", 1, 1.0, 5.0, tables=(("items", 3.0), ("network", 4.0)))])
    assert Ledger.from_dict(json.loads(json.dumps(ledger.as_dict()))).matches(ledger)


def test_spending_by_hand() -> None:
    ledger = Ledger([Release("train", 1, 2.0, 1.0), Release("train", 2, 1.0, 1.0), Release("count", 1, 2.0, 9.0)])
    assert ledger.spending() == {"count": pytest.approx(0.25 / 1.5), "train": pytest.approx(1.25 / 1.5)}
