"""Discrete noise: its distribution, the price of a sum of it, and rounding counted in the sensitivity."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedrec.errors import PrivacyError
from fedrec.privacy import Draws, SeededNoise, SystemNoise, UniformSource, epsilon
from fedrec.privacy.discrete import device_deviation, discrete_gaussian, effective_noise_multiplier_of_sum
from fedrec.privacy.fixed_point import FixedPoint
from fedrec.streams import Streams

FALSE_ALARM = 1e-7
SOURCES: dict[str, UniformSource] = {"seeded": SeededNoise(Streams(0)), "system": SystemNoise()}


def probabilities(deviation: float, reach: int) -> np.ndarray:
    """N_Z(0, s²) from its definition, on −reach … reach."""
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_discrete_gaussian_has_its_distribution(source: UniformSource) -> None:
    n, deviation, reach = 1_000_000, 4.5, 12
    noise = discrete_gaussian(n, deviation, source, "x")
    assert noise.dtype == np.int64
    inside = noise[np.abs(noise) <= reach]
    counts = np.bincount(inside + reach, minlength=2 * reach + 1)
    exact = probabilities(deviation, 60)
    expected = exact[60 - reach : 60 + reach + 1]
    observed = np.append(counts, n - len(inside))
    statistic = stats.chisquare(observed, n * np.append(expected, 1 - expected.sum()))
    assert statistic.pvalue > FALSE_ALARM
    # The variance of 10⁶ numbers deviates by √(2/10⁶) = .14%: 1% is seven of these, once in 10¹¹ runs.
    variance = float((exact * np.arange(-60, 61) ** 2).sum())
    assert variance == pytest.approx(deviation**2, rel=1e-9)
    assert np.mean(noise.astype(float) ** 2) == pytest.approx(variance, rel=0.01)


def test_a_sum_is_as_private_as_it_says() -> None:
    """Rényi divergence of a sum of discrete Gaussians and its shift, from the definition, against α/2σ² for 1/ε = σ."""
    deviation, answers, shift = 4.0, 5, 3
    one = probabilities(deviation, 60)
    total = one
    for _ in range(answers - 1):
        total = np.convolve(total, one)
    moved, still = total[:-shift], total[shift:]
    sigma = effective_noise_multiplier_of_sum(deviation, answers, 1, shift)
    assert sigma == pytest.approx(math.sqrt(answers) * deviation / shift)
    middle = slice(150, -150)  # beyond lies nothing of note, and the numbers were cut at 15 deviations
    for order in (2.0, 4.0, 16.0):
        terms = order * np.log(moved[middle]) + (1 - order) * np.log(still[middle])
        divergence = math.log(np.exp(terms).sum()) / (order - 1)
        assert divergence == pytest.approx(order / (2 * sigma**2), rel=1e-6)
    # Its price by RDP is that of the Gaussian, which is what the ledger is told.
    assert epsilon([Draws(sigma, 1.0)], 1e-5, "rdp") > 0


def test_the_price_of_coarse_noise_is_counted() -> None:
    # τ = 10 · 4 exp(−π² s²): nothing at s = 4, and at s = .5 more than the noise itself is worth.
    assert effective_noise_multiplier_of_sum(0.5, 5, 1, 1.0) < 0.3 < math.sqrt(5) * 0.5
    assert effective_noise_multiplier_of_sum(0.5, 1, 1, 1.0) == 0.5  # one discrete Gaussian is no sum


@given(st.floats(0.3, 50.0), st.integers(2, 5000), st.integers(1, 10**8))
def test_each_devices_part_is_enough_for_the_least_number_of_answers(sigma: float, least: int, entries: int) -> None:
    sensitivity = 1e6
    deviation = device_deviation(sigma, sensitivity, least, entries)
    assert effective_noise_multiplier_of_sum(deviation, least, entries, sensitivity) >= sigma
    assert deviation == pytest.approx(sigma * sensitivity / math.sqrt(least), rel=1e-9)
    if least > 2:
        assert effective_noise_multiplier_of_sum(deviation, least - 1, entries, sensitivity) < sigma


def test_too_little_noise_a_device_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"a device's part of the noise is 0\.1 steps"):
        device_deviation(1.0, 1.0, 100, 10)
    with pytest.raises(PrivacyError, match=r"discrete noise of deviation 0\.1 steps"):
        discrete_gaussian(3, 0.1, SystemNoise(), "x")


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from([4, 40, 4000]))
def test_rounding_adds_no_more_to_the_norm_than_is_counted(entries: int, seed: int, answers: int) -> None:
    point = FixedPoint(bound=1.0, answers=2**18 * answers)  # few bits, so that rounding matters
    values = np.random.default_rng(seed).standard_normal(entries)
    values /= np.linalg.norm(values)
    rounded = point.decode(point.encode(values))
    assert np.linalg.norm(rounded) <= point.sensitivity(entries)
    assert point.sensitivity(entries) <= 1.0 + math.sqrt(entries) * point.resolution


def test_rounding_up_is_what_is_counted() -> None:
    # Each of 4 entries of .5 lies half a step below the next one: the norm grows by the whole √4 · step/2.
    point = FixedPoint(bound=1.0, answers=2**29)
    assert point.bits == 1
    assert point.sensitivity(4) == 1.0 + 2 * 0.25
    values = np.full(4, 0.25 + 1e-9)
    assert np.linalg.norm(point.decode(point.encode(values))) == 1.0 <= point.sensitivity(4)


def test_room_is_left_for_the_noise() -> None:
    # 2 (2^f + ½) + 6 · 2^f < 2^31 holds for f = 27 and fails for f = 28.
    point = FixedPoint(bound=1.0, answers=2, headroom=6.0)
    assert point.bits == 27
    largest = point.encode(np.array([1.0])) * np.uint32(2) + np.uint32(6 << 27)
    assert point.decode(largest).tolist() == [8.0]
