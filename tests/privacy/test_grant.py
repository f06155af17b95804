"""What an owner grants: the price of noised answers, held against the accountants that guarantees quote."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from fedrec.errors import ConfigError
from fedrec.privacy import Draws, epsilon
from fedrec.privacy.grant import Grant, epsilon_of_gaussian, epsilon_of_renyi

SIGMAS = (0.3, 0.6, 1.0, 2.0, 5.0, 20.0, 100.0)
DELTAS = (1e-3, 1e-5, 1e-8)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("delta", DELTAS)
def test_gaussian_releases_cost_no_more_than_a_guarantee_says_and_hardly_less(sigma: float, delta: float) -> None:
    """So that what an experiment states is what a grant of as much allows. PRV is some .1% above the exact value."""
    quoted, found = epsilon([Draws(sigma, 1.0)], delta), epsilon_of_gaussian(sigma**-2, delta)
    assert found <= quoted
    assert found == pytest.approx(quoted, rel=3e-3)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("delta", DELTAS)
def test_discrete_noise_costs_what_a_guarantee_says(sigma: float, delta: float) -> None:
    assert epsilon_of_renyi(sigma**-2, delta) == pytest.approx(epsilon([Draws(sigma, 1.0)], delta, "rdp"), rel=1e-12)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_delta_at_that_epsilon_is_the_hockey_stick_divergence_of_two_normals(sigma: float) -> None:
    """∫ max(0, p − e^ε q) for p = N(1, σ²) and q = N(0, σ²)."""
    one, other, bound = stats.norm(1, sigma), stats.norm(0, sigma), epsilon_of_gaussian(sigma**-2, 1e-4)
    start = sigma**2 * bound + 0.5  # where p = e^ε q
    delta, _ = integrate.quad(lambda x: one.pdf(x) - math.exp(bound) * other.pdf(x), start, start + 40 * sigma)
    assert delta == pytest.approx(1e-4, rel=1e-6)


@pytest.mark.parametrize("local", [(), (2.0,), (3.0, 0.9)])
@pytest.mark.parametrize("clients", [1, 3])
def test_delta_of_both_noises_together_is_no_more_than_granted(local: tuple[float, ...], clients: int) -> None:
    """By adding up: the loss of a sum with the discrete noise of some clients, for answers that differ by 8 steps, and
    that of Gaussian releases. δ = Σ_x P(x) δ_μ(ε − ln P(x)/Q(x)), δ_μ that of Gaussian noise alone."""
    steps, deviation = 8, 6.0
    places = np.arange(-400, 401)
    one = np.exp(-(places**2) / (2 * deviation**2))
    mass = one = one / one.sum()
    for _ in range(clients - 1):
        mass = np.convolve(mass, one, mode="same")
    there, moved = mass[steps:], mass[:-steps]
    kept = (there > 1e-280) & (moved > 1e-280)
    there, moved = there[kept], moved[kept]
    gaussian, discrete = sum(sigma**-2 for sigma in local), steps**2 / (clients * deviation**2)
    granted = Grant(8.0, 1e-5).spent(gaussian, discrete)
    left, mu = granted - np.log(there / moved), math.sqrt(gaussian)
    with np.errstate(over="ignore"):
        if mu:
            above = stats.norm.cdf(mu / 2 - left / mu) - np.exp(left) * stats.norm.cdf(-mu / 2 - left / mu)
        else:
            above = np.maximum(0.0, 1 - np.exp(left))
    delta = float((there * above).sum())
    assert 1e-7 < delta <= 1e-5
    alone = epsilon_of_gaussian(gaussian + discrete, 1e-5)  # what it would be if all noise were Gaussian
    assert alone < granted < 1.2 * alone


def test_nothing_costs_nothing_and_next_to_no_noise_everything() -> None:
    assert Grant(8.0).spent(0.0, 0.0) == 0.0
    assert epsilon_of_gaussian(1e-12, 1e-3) == 0.0  # all of it is in δ
    assert not Grant(1e300).allows(math.inf, 0.0)
    assert not Grant(1e300).allows(0.0, math.inf)
    with_one, with_both = Grant(8.0).spent(1.0, 0.0), Grant(8.0).spent(0.5, 0.5)
    assert with_both == pytest.approx(epsilon_of_renyi(1.0, 1e-5))
    assert with_one < with_both


def test_a_grant_is_kept_to_rounding() -> None:
    grant = Grant(epsilon_of_gaussian(2.0, 1e-5), 1e-5)
    assert grant.allows(2.0 * (1 + 1e-12), 0.0)
    assert not grant.allows(2.0 * (1 + 1e-6), 0.0)


@pytest.mark.parametrize(("bound", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (math.nan, 1e-5), (8.0, 0.0), (8.0, 1.0)])
def test_a_grant_of_no_sense_is_refused(bound: float, delta: float) -> None:
    with pytest.raises(ConfigError, match="a grant of epsilon"):
        Grant(bound, delta)
