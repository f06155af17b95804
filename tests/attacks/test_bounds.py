"""The bound of one run: values worked by hand, its coverage where it is tight, and its power."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

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
