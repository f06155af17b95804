"""The bound of one run: values worked by hand, its coverage where it is tight, and its power."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from fedrec.attacks import bounds as of_bounds
from fedrec.attacks.bounds import (
    best_one_run_bound,
    gaussian_epsilon,
    many_runs_bound,
    one_run_bound,
    one_run_p_value,
    rates_bound,
)
from fedrec.errors import DataError


def test_p_values_by_hand() -> None:
    # Three right of three, each with chance e/(1 + e) at most.
    chance = math.e / (1 + math.e)
    assert one_run_p_value(5, 3, 3, 1.0, 0.0) == pytest.approx(chance**3)
    # Two of three at ε = 0: 4/8; with δ there is 2mδ · max(P[1 ≤ W < 2], P[0 ≤ W < 2]/2) = 2 · 10 · .01 · 3/8 more.
    assert one_run_p_value(10, 3, 2, 0.0, 0.0) == pytest.approx(0.5)
    assert one_run_p_value(10, 3, 2, 0.0, 0.01) == pytest.approx(0.5 + 20 * 0.01 * 3 / 8)


def enumerated(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2, term by term: β = P[W ≥ v], α = max over i ≤ m of (2/i) P[v > W ≥ v − i], and β + αmδ."""
    odds = math.exp(epsilon)
    chances = [math.comb(guesses, w) * odds**w / (1 + odds) ** guesses for w in range(guesses + 1)]
    worst = max(2 / i * sum(chances[max(0, right - i) : right]) for i in range(1, canaries + 1))
    return min(1.0, sum(chances[right:]) + worst * canaries * delta)


def test_p_values_are_those_of_the_theorem_term_by_term() -> None:
    numbers = np.random.default_rng(0)
    for epsilon in (0.0, 0.3, 1.0, 4.0):
        for delta in (0.0, 1e-5, 1e-3, 0.1):
            canaries = int(numbers.integers(1, 50))
            guesses = int(numbers.integers(1, canaries + 1))
            right = int(numbers.integers(0, guesses + 1))
            expected = enumerated(canaries, guesses, right, epsilon, delta)
            assert one_run_p_value(canaries, guesses, right, epsilon, delta) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
def test_more_right_guesses_never_lower_the_bound_and_every_smaller_epsilon_is_refuted(delta: float) -> None:
    found = [one_run_bound(60, 40, right, delta) for right in range(41)]
    assert found == sorted(found)
    assert found[0] == 0.0 < found[-1]
    for right, bound in enumerate(found):
        assert all(one_run_p_value(60, 40, right, epsilon, delta) < 0.05 for epsilon in np.arange(0.0, bound, 0.02))


def test_the_bound_is_where_the_p_value_meets_the_level() -> None:
    for right, delta in ((70, 0.0), (90, 1e-3), (100, 1e-5)):
        bound = one_run_bound(100, 100, right, delta)
        assert one_run_p_value(100, 100, right, bound, delta) == pytest.approx(0.05, abs=1e-4)
    # All of n right at δ = 0: q^n = .05.
    share = 0.05 ** (1 / 100)
    assert one_run_bound(100, 100, 100, 0.0) == pytest.approx(math.log(share / (1 - share)), abs=1e-4)
    assert one_run_bound(100, 100, 50, 0.0) == 0.0


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(DataError, match="4 right of 3 guesses"):
        one_run_p_value(5, 3, 4, 1.0, 0.0)


def test_randomised_response_is_covered_and_nearly_tight() -> None:
    # Each canary's coin is told right with probability e^ε/(1 + e^ε): ε-private, and the worst case of the theorem.
    numbers, epsilon, canaries = np.random.default_rng(0), 1.0, 400
    right = numbers.binomial(canaries, math.e / (1 + math.e), size=1500)
    bounds = {count: one_run_bound(canaries, canaries, count, 0.0) for count in set(right.tolist())}
    alarms = np.mean([bounds[count] > epsilon for count in right.tolist()])
    # At most .05 by the theorem, a little less as counts are whole; over 1,500 audits that deviates by .0056. Beyond
    # .07 by chance once in 5,000.
    assert 0.02 < alarms < 0.07
    assert np.mean(list(map(bounds.__getitem__, right.tolist()))) > 0.7


Numbers = np.random.Generator
Mechanism = Callable[[np.ndarray, Numbers], list[np.ndarray]]
"""Coins -> the statistics that an observer makes of what is released."""


def responses(epsilon: float, delta: float, together: int) -> Mechanism:
    """Randomised response, which gives away the coins of so many canaries at once, with the chance that δ allows.

    A canary is among them with probability δ, so that it is exactly (ε, δ)-private; ties are broken three times over,
    so that there are nine guessers to choose among.
    """

    def release(included: np.ndarray, numbers: Numbers) -> list[np.ndarray]:
        told = np.where(numbers.random(len(included)) < 1 / (1 + math.exp(-epsilon)), included, ~included).astype(float)
        if numbers.random() < delta * len(included) / together:
            given_away = numbers.choice(len(included), together, replace=False)
            told[given_away] = np.where(included[given_away], 2.0, -1.0)
        return [told + 0.5 * numbers.random(len(included)) for _ in range(3)]

    return release


def gaussians(mu: float) -> Mechanism:
    """Each coin with noise of its own; three functions of it."""

    def release(included: np.ndarray, numbers: Numbers) -> list[np.ndarray]:
        told = mu * included + numbers.normal(size=len(included))
        return [told, told + 0.3 * numbers.normal(size=len(included)), np.round(told)]

    return release


@pytest.mark.parametrize(
    ("release", "epsilon", "delta"),
    [
        (responses(0.0, 0.0, 1), 0.0, 0.0),
        (responses(1.0, 0.0, 1), 1.0, 0.0),
        (responses(1.0, 1e-3, 20), 1.0, 1e-3),
        (responses(0.2, 1e-3, 60), 0.2, 1e-3),
        (gaussians(0.5), gaussian_epsilon(0.5, 0.01), 0.01),
    ],
)
@pytest.mark.parametrize("kind", ["one run", "many runs"])
def test_bounds_hold_whatever_is_chosen_among(
    release: Mechanism, epsilon: float, delta: float, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one_run_bound", "rates_bound"):  # of few numbers, each asked for again and again
        monkeypatch.setattr(of_bounds, name, cache(getattr(of_bounds, name)))
    numbers, wrong, repeats = np.random.default_rng(1), 0, 500 if kind == "one run" else 100
    for _ in range(repeats):
        included = numbers.random(101) < 0.5  # one is left over by either kind
        statistics = [torch.from_numpy(statistic) for statistic in release(included, numbers)]
        bound = best_one_run_bound if kind == "one run" else many_runs_bound
        wrong += bound([torch.zeros(101), *statistics], torch.from_numpy(included), delta) > epsilon
    assert wrong <= stats.binom.ppf(0.999, repeats, 0.05)  # 41 of 500, 13 of 100


def test_the_runs_that_choose_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 31 runs the first 15 are told exactly, and of the other 16 nothing is told.
    included = torch.arange(31) % 2 == 0
    told = torch.where(torch.arange(31) < 15, included.double(), 0.5)
    assert many_runs_bound([told], included, 0.0) == 0.0
    assert many_runs_bound([included.double()], included, 0.0) == rates_bound(8, 8, 0, 8, 0.0)
    # Nor does what the others say change the choice: every threshold that is tried is of the first half.
    tried: list[tuple[float, ...]] = []

    def counted(*counts: float, **_: float) -> float:
        tried.append(counts[:4])
        return 0.0

    monkeypatch.setattr(of_bounds, "rates_bound", counted)
    many_runs_bound([torch.cat([torch.zeros(15), torch.arange(16) + 1.0])], included, 0.0)
    assert set(tried) == {(8, 8, 7, 7), (7, 7, 8, 8), (8, 8, 8, 8)}  # all of zeros either way, and all or none above


@pytest.mark.parametrize(("mu", "least", "most"), [(0.0, 0.0, 0.0), (0.267, 0.0, 1.0), (2.67, 2.0, 14.4)])
def test_gaussian_canaries_are_bounded_from_below(mu: float, least: float, most: float) -> None:
    generator = torch.Generator().manual_seed(1)
    included = torch.rand(600, generator=generator) < 0.5
    statistics = [torch.randn(600, generator=generator) + mu * included, torch.randn(600, generator=generator)]
    bound = best_one_run_bound(statistics, included, 1e-5)
    # The first refutes ε = 0 by chance in one of 20 audits; the seed is not one of them.
    assert least <= bound <= most
    assert gaussian_epsilon(mu, 1e-5) <= most


def test_several_guessers_cost_confidence() -> None:
    included = torch.arange(200) % 2 == 0
    perfect = included.float()
    alone = best_one_run_bound([perfect], included, 0.0, shares=(1.0,))
    assert alone == pytest.approx(one_run_bound(200, 200, 200, 0.0))
    among = best_one_run_bound([perfect, torch.zeros(200)], included, 0.0)
    assert among == pytest.approx(one_run_bound(200, 200, 200, 0.0, 1 - 0.05 / 6))
    # Small values must mean out: turned over, nothing is shown.
    assert best_one_run_bound([-perfect], included, 0.0) == 0.0


def test_of_an_odd_number_one_canary_is_left_over() -> None:
    included = torch.arange(11) % 2 == 0
    assert best_one_run_bound([included.float()], included, 0.0, shares=(1.0,)) == one_run_bound(11, 10, 10, 0.0)


def test_gaussian_epsilon_inverts_the_profile() -> None:
    # Dong, Roth & Su: at ε = 1 and μ = 1, δ = Φ(−½) − e Φ(−1½) = .30854 − 2.71828 · .06681 = .12693.
    assert gaussian_epsilon(1.0, 0.126937) == pytest.approx(1.0, abs=1e-4)
    assert gaussian_epsilon(-0.3, 1e-5) == 0.0


@pytest.mark.parametrize("mu", [0.05, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("delta", [1e-6, 1e-3, 0.1])
def test_gaussian_epsilon_is_that_of_the_best_event(mu: float, delta: float) -> None:
    # δ(ε) = ∫ max(0, φ(x − μ) − e^ε φ(x)) dx, summed up without the corollary.
    x = np.linspace(-12.0, 12.0 + mu, 400_001)
    epsilon = gaussian_epsilon(mu, delta)
    gap = np.exp(-((x - mu) ** 2) / 2) - np.exp(epsilon - x**2 / 2)
    profile = float(gap.clip(min=0).sum() * (x[1] - x[0]) / math.sqrt(2 * math.pi))
    assert profile == pytest.approx(delta, rel=1e-3) if epsilon > 0 else profile <= delta


def test_rates_by_hand() -> None:
    # 20 of 20 caught and none of 30 alarmed, each rate held to 2.5%: at least .025^(1/20), at most 1 − .025^(1/30).
    least, most = 0.025 ** (1 / 20), 1 - 0.025 ** (1 / 30)
    assert rates_bound(20, 20, 0, 30, 0.0) == pytest.approx(math.log(least / most))
    assert rates_bound(20, 20, 0, 30, 0.1) == pytest.approx(math.log((least - 0.1) / most))
    assert rates_bound(20, 20, 0, 30, 0.9) == 0.0  # δ alone explains it
    assert rates_bound(0, 20, 0, 30, 0.0) == rates_bound(5, 20, 30, 30, 0.0) == 0.0


def test_many_runs_of_randomised_response_are_covered() -> None:
    # In and out are told apart by one bit that is right with probability e/(1 + e): ε = 1 exactly.
    numbers, bounds = np.random.default_rng(0), []
    for _ in range(150):
        included = torch.from_numpy(numbers.random(600) < 0.5)
        told = included ^ torch.from_numpy(numbers.random(600) > math.e / (1 + math.e))
        bounds.append(many_runs_bound([told.double()], included, 0.0))
    # Each of two rates is wrong in 2.5% of audits at most: 7.5 alarms of 150 by the theorem, beyond 16 once in 600.
    assert sum(bound > 1.0 for bound in bounds) <= 16
    assert np.mean(bounds) > 0.5


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_many_runs_find_the_side_that_tells(sign: float) -> None:
    # Told from one side alone: half of those who are in (or out) show it, and nobody else does.
    included = torch.arange(2000) % 2 == (0 if sign > 0 else 1)
    told = sign * (included if sign > 0 else ~included).double() * (torch.arange(2000) % 4 < 2)
    # 250 of 500 caught, and none of 500 alarmed.
    assert many_runs_bound([torch.zeros(2000), told], included, 1e-5) > math.log(0.45 / 0.0075)
    assert many_runs_bound([torch.zeros(2000)], included, 1e-5) == 0.0
