"""ε against reference numbers, the exact formula of one Gaussian, quadrature, and another library."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import PrivacyError
from fedrec.privacy import Accountant, Draws, effective_noise_multiplier, epsilon
from tests.privacy.exact import exact_epsilon


def pld_epsilon(history: list[Draws], delta: float, interval: float = 1e-3) -> float:
    """The same by dp-accounting's privacy loss distributions (Google), which share no code with Opacus."""
    total = privacy_loss_distribution.identity(interval)
    for sigma, rate, number in history:
        one = privacy_loss_distribution.from_gaussian_mechanism(
            sigma, sampling_prob=rate, value_discretization_interval=interval
        )
        total = total.compose(one.self_compose(number))
    return float(total.get_epsilon_for_delta(delta))


@pytest.mark.parametrize(
    ("accountant", "rate", "expected", "tolerance"),
    [("prv", 0.1, 9.98, 0.05), ("rdp", 0.1, 11.02, 0.01), ("rdp", 1.0, 166.0, 0.1)],
)
def test_reference_numbers(accountant: Accountant, rate: float, expected: float, tolerance: float) -> None:
    assert epsilon([Draws(1.0, rate, 200)], 1e-5, accountant) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize("sigma", [0.06, 0.3, 0.601, 1.0, 3.75, 30.0])
def test_one_gaussian_release_costs_what_the_exact_formula_says(sigma: float, delta: float) -> None:
    exact = exact_epsilon(sigma, delta)
    assert exact <= epsilon([Draws(sigma, 1.0)], delta) <= 1.005 * exact
    assert exact <= epsilon([Draws(sigma, 1.0)], delta, "rdp") <= 1.3 * exact


def test_draws_of_everyone_are_one_gaussian_release() -> None:
    # 1/3² + 1/4² = 1/2.4², and 16 releases of σ = 8 are one of σ = 2.
    assert epsilon([Draws(3.0, 1.0), Draws(4.0, 1.0)], 1e-5) == pytest.approx(exact_epsilon(2.4, 1e-5), rel=2e-3)
    assert epsilon([Draws(8.0, 1.0, 16)], 1e-5) == pytest.approx(exact_epsilon(2.0, 1e-5), rel=2e-3)


def test_releases_on_one_draw_by_quadrature() -> None:
    # From first principles: two releases on one draw are one look at a point of the plane, distributed as
    # P = (1-q) N(0, I) + q N(μ, I) with the user and as Q = N(0, I) without, μ = (1/σ₁, 1/σ₂).
    q, sigmas, delta = 0.2, (1.0, 1.5), 1e-3
    step = 0.02
    x, y = np.meshgrid(np.arange(-9, 10, step), np.arange(-9, 10, step), indexing="ij")
    without = np.exp(-(x**2 + y**2) / 2) / (2 * math.pi)
    present = np.exp(-((x - 1 / sigmas[0]) ** 2 + (y - 1 / sigmas[1]) ** 2) / 2) / (2 * math.pi)
    with_user = (1 - q) * without + q * present

    def true_delta(eps: float) -> float:
        def one_way(p: np.ndarray, r: np.ndarray) -> float:
            return float(np.maximum(p - np.exp(eps) * r, 0).sum()) * step**2

        return max(one_way(with_user, without), one_way(without, with_user))

    grouped = epsilon([Draws(effective_noise_multiplier(sigmas), q)], delta)
    assert true_delta(grouped) <= delta
    assert true_delta(0.99 * grouped) > delta
    # As if each had a draw of its own: an ε that the releases do not keep.
    apart = epsilon([Draws(sigma, q) for sigma in sigmas], delta)
    assert true_delta(apart) > 1.5 * delta


@pytest.mark.parametrize("seed", range(20))
def test_random_schedules_agree_with_privacy_loss_distributions(seed: int) -> None:
    random = np.random.default_rng(seed)
    history = [
        Draws(
            float(random.uniform(0.6, 4.0)),
            float(random.choice([0.003, 0.02, 0.1, 0.5, 1.0])),
            int(random.integers(1, 60)),
        )
        for _ in range(random.integers(1, 4))
    ]
    delta = float(random.choice([1e-4, 1e-5, 1e-7]))
    found = epsilon(history, delta)
    # The reference rounds privacy losses up to multiples of its interval, which is 3% of the smallest epsilon here.
    reference = pld_epsilon(history, delta, interval=1e-3 if found > 0.1 else 1e-4)
    assert found == pytest.approx(reference, rel=0.02)
    assert found <= epsilon(history, delta, "rdp")


def test_neither_order_nor_bookkeeping_matters() -> None:
    tidy = [Draws(1.2, 0.1, 5), Draws(2.0, 0.3, 2), Draws(3.0, 1.0, 2)]
    messy = [Draws(3.0, 1.0), *[Draws(1.2, 0.1)] * 3, Draws(2.0, 0.3, 2), Draws(3.0, 1.0), Draws(1.2, 0.1, 2)]
    assert epsilon(tidy, 1e-5) == epsilon(messy, 1e-5)


@settings(max_examples=10, deadline=None)  # RDP at 160 orders takes a while
@given(sigma=st.floats(0.5, 20.0), rate=st.sampled_from([0.01, 0.04, 0.1]), number=st.integers(1, 50))
def test_more_noise_costs_less_and_more_draws_cost_more(sigma: float, rate: float, number: int) -> None:
    spent = epsilon([Draws(sigma, rate, number)], 1e-5, "rdp")
    assert epsilon([Draws(1.1 * sigma, rate, number)], 1e-5, "rdp") <= spent
    assert epsilon([Draws(sigma, rate, number + 10)], 1e-5, "rdp") >= spent
    assert epsilon([Draws(sigma, rate / 2, number)], 1e-5, "rdp") <= spent


def test_effective_noise_multiplier_by_hand() -> None:
    assert effective_noise_multiplier([3.0, 4.0]) == pytest.approx(2.4)
    assert effective_noise_multiplier([1.0] * 7) == pytest.approx(7**-0.5)
    assert effective_noise_multiplier([0.601]) == 0.601


@given(st.lists(st.floats(0.01, 100.0), min_size=2, max_size=8))
def test_another_release_on_the_draw_is_never_free(sigmas: list[float]) -> None:
    together = effective_noise_multiplier(sigmas)
    assert together < min(sigmas) * (1 + 1e-12)
    assert together == pytest.approx(
        effective_noise_multiplier([effective_noise_multiplier(sigmas[:-1]), sigmas[-1]]), rel=1e-9
    )


def test_nothing_released_costs_nothing() -> None:
    assert epsilon([], 1e-5) == epsilon([], 1e-5, "rdp") == 0.0


@pytest.mark.parametrize("sigmas", [[], [0.0], [1.0, -1.0], [math.inf], [math.nan]])
def test_noise_multipliers_are_positive_numbers(sigmas: list[float]) -> None:
    with pytest.raises(PrivacyError, match="noise multipliers"):
        effective_noise_multiplier(sigmas)


@pytest.mark.parametrize(
    ("accountant", "reason"),
    [("gdp", "under-reports: it says 9.11 where PRV finds 9.98"), ("pvr", "did you mean 'prv'")],
)
def test_other_accountants_are_refused(accountant: Accountant, reason: str) -> None:
    with pytest.raises(PrivacyError, match=reason):
        epsilon([Draws(1.0, 0.1)], 1e-5, accountant)


@pytest.mark.parametrize("delta", [0.0, -1e-5, 1.0, math.nan])
def test_delta_is_a_probability(delta: float) -> None:
    with pytest.raises(PrivacyError, match="is not a probability"):
        epsilon([Draws(1.0, 0.1)], delta)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_a_rate_is_a_probability(rate: float) -> None:
    with pytest.raises(PrivacyError, match="rate = "):
        epsilon([Draws(1.0, rate)], 1e-5)


def test_numbers_beyond_the_accountant_are_refused_rather_than_wrong() -> None:
    with pytest.raises(PrivacyError, match="no privacy and beyond the PRV accountant"):
        epsilon([Draws(0.0315, 1.0)], 1e-5)  # about 640, but its losses reach to 710
    with pytest.raises(PrivacyError, match="below the 1e-10 that PRV can resolve"):
        epsilon([Draws(1.0, 1.0)], 1e-11)
