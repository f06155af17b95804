"""The bounds of one run and of many: values worked by hand, their coverage where they are tight, and their power."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from fedrec.attacks import bounds as of_bounds
from fedrec.attacks.bounds import (
    best_one_run_bound,
    best_one_run_mu_bound,
    gaussian_epsilon,
    many_runs_bound,
    many_runs_mu_bound,
    one_run_bound,
    one_run_mass,
    one_run_mu_bound,
    one_run_p_value,
    rates_bound,
    rates_mu_bound,
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
    with pytest.raises(DataError, match="4 right of 3 guesses"):
        one_run_mass(5, 3, 4, 0.1, 1.0)


def test_the_mass_of_a_gaussian_by_hand() -> None:
    normal, mu = stats.norm, 0.7
    # One canary, one guess: P[right] = t allows for P[wrong] ≥ Φ(Φ⁻¹(t) − μ), and Φ(μ/2) is the most there can be.
    assert one_run_mass(1, 1, 1, 0.4, mu) == pytest.approx(0.4 + normal.cdf(normal.ppf(0.4) - mu))
    assert one_run_mass(1, 1, 1, normal.cdf(mu / 2), mu) == pytest.approx(1.0)
    # One guess about two canaries, whichever looks plainer: each is guessed about half as often.
    assert one_run_mass(2, 1, 1, 0.4, mu) == pytest.approx(0.4 + 2 * normal.cdf(normal.ppf(0.2) - mu))
    # Two of two: p_2 = t, then p_1 ≥ 2 G(t) of j = 2, then p_0 of j = 1: p_0 + p_1/2 ≥ G(t + p_1/2).
    one = 2 * normal.cdf(normal.ppf(0.1) - mu)
    none = normal.cdf(normal.ppf(0.1 + one / 2) - mu) - one / 2
    assert one_run_mass(2, 2, 2, 0.1, mu) == pytest.approx(0.1 + one + none)
    # μ = 0 is no information: each guess is right by a fair coin, and 5 of 5 are so once in 32.
    assert one_run_mass(5, 5, 5, 1 / 32, 0.0) == pytest.approx(1.0)


@pytest.mark.parametrize(("tail", "mu"), [(0.05, 0.3), (0.2, 1.0), (0.6, 2.0)])
def test_no_other_probabilities_sum_to_less(tail: float, mu: float) -> None:
    # All of two right guesses or more of three: any part of them is of three, and p_1 may exceed what p_2 and p_3 need.
    normal = stats.norm
    three, more = np.meshgrid(np.linspace(0, tail, 101), np.concatenate([[0], np.geomspace(1e-6, 1, 400)]))
    two = tail - three
    needed = np.maximum(0, (normal.cdf(normal.ppf(three + two * 2 / 3) - mu) - two / 3) * 3 / 2)  # by j = 2
    feasible = two / 3 >= normal.cdf(normal.ppf(three) - mu)  # j = 3
    one = needed + more
    none = np.maximum(
        0, normal.cdf(normal.ppf(np.minimum(1, three + two * 2 / 3 + one / 3)) - mu) - two / 3 - one * 2 / 3
    )
    least = (tail + one + none)[feasible].min()
    assert one_run_mass(3, 3, 2, tail, mu) == pytest.approx(least, rel=1e-9)


def right_by_coins(canaries: int, mu: float) -> np.ndarray:
    """[canaries + 1] P[so many right] where each canary has an entry of its own."""
    return np.asarray(stats.binom.pmf(np.arange(canaries + 1), canaries, stats.norm.cdf(mu / 2)))


def right_together(canaries: int, mu: float) -> np.ndarray:
    """The same where all add μ to one entry, and are all guessed to be in or all out: right together or wrong."""
    inside = np.arange(canaries + 1)
    says_in = stats.norm.cdf(mu * (inside - canaries / 2))
    chance = stats.binom.pmf(inside, canaries, 0.5)
    return np.asarray(chance * says_in + (chance * (1 - says_in))[::-1])


@pytest.mark.parametrize("mechanism", [right_by_coins, right_together])
@pytest.mark.parametrize("mu", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("canaries", [5, 40])
def test_no_gaussian_mechanism_is_refuted_by_how_it_is_distributed(
    mechanism: Callable[[int, float], np.ndarray], mu: float, canaries: int
) -> None:
    tails = mechanism(canaries, mu)[::-1].cumsum()[::-1]
    masses = [one_run_mass(canaries, canaries, right, tails[right], mu) for right in range(1, canaries + 1)]
    assert max(masses) <= 1 + 1e-9
    if mechanism is right_by_coins:  # of a third of that μ the same numbers would be impossible, somewhere
        assert max(one_run_mass(canaries, canaries, v, tails[v], mu / 3) for v in range(1, canaries + 1)) > 1 + 1e-6


def test_the_bound_on_mu_is_where_the_mass_is_one() -> None:
    for canaries, guesses, right in ((100, 100, 70), (1000, 100, 80), (1000, 30, 30)):
        bound = one_run_mu_bound(canaries, guesses, right)
        assert bound > 0.1
        assert one_run_mass(canaries, guesses, right, 0.05, bound - 1e-3) > 1
        assert one_run_mass(canaries, guesses, right, 0.05, bound + 1e-3) < 1
    assert one_run_mu_bound(100, 100, 50) == 0.0
    # .05 = Φ(μ/2)^v needs Φ(μ/2) = .95 at v = 1, which nobody can refute with one guess: any μ allows P[right] ≥ ½.
    assert one_run_mu_bound(1, 1, 1) == 0.0


def test_gaussian_noise_is_refuted_sooner_than_epsilon() -> None:
    # Half of the noise that ε = 1 at δ = 1e-5 takes: μ = .536, ε = 2.15.
    claimed, generator = 0.26805, torch.Generator().manual_seed(2)
    assert gaussian_epsilon(claimed, 1e-5) == pytest.approx(1.0, abs=1e-4)
    assert gaussian_epsilon(2 * claimed, 1e-5) == pytest.approx(2.15, abs=0.01)
    included = torch.rand(6000, generator=generator) < 0.5
    noise = torch.randn(6000, generator=generator)
    half, sound = [noise + 2 * claimed * included], [noise + claimed * included]
    assert many_runs_mu_bound(half, included) > claimed > many_runs_mu_bound(sound, included) > 0
    assert many_runs_bound(half, included, 1e-5) < 1.0
    assert best_one_run_mu_bound(half, included) > claimed > best_one_run_mu_bound(sound, included) > 0
    assert best_one_run_bound(half, included, 1e-5) < 1.0


def test_one_run_of_gaussian_noise_is_covered() -> None:
    generator, mu, bounds = torch.Generator().manual_seed(3), 1.0, []
    for _ in range(100):
        included = torch.rand(400, generator=generator) < 0.5
        scores = torch.randn(400, generator=generator) + mu * included
        bounds.append(best_one_run_mu_bound([scores], included))
    # At most 5 of 100 by the theorem; beyond 13 once in 2,000.
    assert sum(bound > mu for bound in bounds) <= 13
    assert np.mean(bounds) > 0.3


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


@pytest.mark.parametrize(("mu", "kind"), [(0.5, "one run"), (2.0, "one run"), (0.5, "many runs"), (2.0, "many runs")])
def test_bounds_on_mu_hold_whatever_is_chosen_among(mu: float, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one_run_mu_bound", "rates_mu_bound"):
        monkeypatch.setattr(of_bounds, name, cache(getattr(of_bounds, name)))
    numbers, release, wrong, repeats = np.random.default_rng(2), gaussians(mu), 0, 300 if kind == "one run" else 100
    bound = best_one_run_mu_bound if kind == "one run" else many_runs_mu_bound
    for _ in range(repeats):
        included = numbers.random(101) < 0.5
        statistics = [torch.from_numpy(statistic) for statistic in release(included, numbers)]
        wrong += bound([torch.zeros(101), *statistics], torch.from_numpy(included)) > mu
    assert wrong <= stats.binom.ppf(0.999, repeats, 0.05)


@pytest.mark.parametrize(("canaries", "guesses", "right", "mu"), [(10, 10, 9, 0.5), (10, 6, 6, 1.0), (20, 10, 9, 0.3)])
def test_the_mass_is_one_at_the_largest_tail_that_all_inequalities_leave(
    canaries: int, guesses: int, right: int, mu: float
) -> None:
    # Maximise P[W ≥ v] over all distributions of W, G being the upper envelope of its tangents: a linear programme.
    normal, number = stats.norm, np.arange(guesses + 1)
    at = np.concatenate([np.geomspace(1e-14, 0.01, 60), np.linspace(0.01, 0.999, 150)]) * guesses / canaries
    value, slope = normal.cdf(normal.ppf(at) - mu), normal.pdf(normal.ppf(at) - mu) / normal.pdf(normal.ppf(at))
    rows, limits = [], []
    for j in range(1, guesses + 1):
        told = np.where(number >= j, number / canaries, 0.0)
        turned = np.where(number >= j - 1, (guesses - number) / canaries, 0.0)
        rows.append(slope[:, None] * told - turned)
        limits.append(slope * at - value)
    found = optimize.linprog(
        -(number >= right).astype(float),
        A_ub=np.concatenate(rows),
        b_ub=np.concatenate(limits),
        A_eq=np.ones((1, guesses + 1)),
        b_eq=[1.0],
    )
    assert found.fun is not None
    # Tangents lie below G, so that they leave a little more.
    assert 1.0 <= one_run_mass(canaries, guesses, right, -found.fun, mu) <= 1.001


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


def test_rates_of_gaussian_noise_by_hand() -> None:
    least, most = 0.025 ** (1 / 20), 1 - 0.025 ** (1 / 30)
    assert rates_mu_bound(20, 20, 0, 30) == pytest.approx(stats.norm.ppf(least) - stats.norm.ppf(most))
    assert rates_mu_bound(0, 20, 0, 30) == rates_mu_bound(5, 20, 30, 30) == rates_mu_bound(10, 20, 15, 30) == 0.0


def test_many_runs_of_gaussian_noise_are_covered() -> None:
    generator, mu, bounds = torch.Generator().manual_seed(4), 1.0, []
    for _ in range(150):
        included = torch.rand(600, generator=generator) < 0.5
        bounds.append(many_runs_mu_bound([torch.randn(600, generator=generator) + mu * included], included))
    assert sum(bound > mu for bound in bounds) <= 16  # as in the next test
    assert np.mean(bounds) > 0.5


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
