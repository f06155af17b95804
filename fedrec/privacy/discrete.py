"""Noise that devices add under masks: the distributed discrete Gaussian mechanism.

Masked sums are of integers, so the noise is of integers as well. Each device adds N_Z(0, s²), the normal distribution
restricted to the integers, and nobody ever sees a sum with less noise than all of them together have (Kairouz, Liu &
Steinke 2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation").

What it costs (their proposition 14, with n summands in d dimensions): α ε²/2 for the Rényi divergence of every order α,

    ε = Δ/(√n s) + τ√d,    τ = 10 Σ_{k=1}^{n−1} exp(−2π² s² k/(k+1)),

Δ the largest norm of an integer answer, rounding included. That is the Rényi divergence of a Gaussian of noise
multiplier 1/ε; τ is what the sum of discrete Gaussians differs from one by, and vanishes for s of a few steps. It is a
bound for RDP and no pair of distributions for PRV, so that ε is quoted by RDP.

Devices that drop out take their noise with them. s is set so that the least number of answers that a sum is opened for
has noise enough; with more there is more.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fedrec.errors import PrivacyError
from fedrec.privacy.mechanisms import UniformSource

Integers = npt.NDArray[np.int64]

LEAST_DEVIATION = 4.0
"""Steps of a device's noise below which it is refused: τ is at most 10 n exp(−π² s²), some 1e-67 n there."""
TAILS = 12.0
"""Deviations of the whole noise that a sum of words leaves room for; beyond lies less than 4e-33 of an entry's."""


def discrete_gaussian(size: int, deviation: float, source: UniformSource, purpose: str) -> Integers:
    """N_Z(0, s²): P(x) ∝ exp(−x²/2s²) on the integers.

    By rejection from the discrete Laplace distribution (Canonne, Kamath & Steinke 2020, "The Discrete Gaussian for
    Differential Privacy", algorithm 3), whose numbers are differences of two geometric ones. The probabilities are
    float64, so that it is exact but for their rounding.

    Args:
        size: how many.
        deviation: s, at least `LEAST_DEVIATION`.
        source: of uniform numbers.
        purpose: names the draw.

    Raises:
        PrivacyError: if the deviation is too small, or not finite.
    """
    if not LEAST_DEVIATION <= deviation < 2**40:
        raise PrivacyError(
            f"discrete noise of deviation {deviation:.3g} steps a device; it takes {LEAST_DEVIATION:g} for its sum to "
            "be as good as one discrete Gaussian: sum fewer answers at once, or take more noise"
        )
    scale = math.floor(deviation) + 1
    found, missing, attempt = [np.empty(0, dtype=np.int64)], size, 0
    while missing:
        tries = math.ceil(1.5 * missing) + 8
        up, down, chance = source.uniforms(3 * tries, f"{purpose}/{attempt}").reshape(3, tries)
        laplace = np.floor(-scale * np.log(up)) - np.floor(-scale * np.log(down))
        kept = laplace[chance <= np.exp(-((np.abs(laplace) - deviation**2 / scale) ** 2) / (2 * deviation**2))]
        found.append(kept[:missing].astype(np.int64))
        missing -= len(found[-1])
        attempt += 1
    return np.concatenate(found)


def effective_noise_multiplier_of_sum(deviation: float, answers: int, entries: int, sensitivity: float) -> float:
    """1/ε of the proposition above: the noise multiplier of the Gaussian that the sum is at least as private as.

    Args:
        deviation: s, of each device's noise, in steps.
        answers: n, the least number of devices whose noise is in the sum.
        entries: d, of an answer.
        sensitivity: Δ, the largest norm of an answer in steps.
    """
    # Every term is at most the one of k = 1, exp(−π² s²).
    excess = 10 * max(0, answers - 1) * math.exp(-(math.pi**2) * deviation**2)
    return 1.0 / (sensitivity / (math.sqrt(answers) * deviation) + excess * math.sqrt(entries))


def device_deviation(noise_multiplier: float, sensitivity: float, answers: int, entries: int) -> float:
    """The least s for which a sum of so many answers is as private as a Gaussian of that noise multiplier, in steps.

    Raises:
        PrivacyError: if it is below `LEAST_DEVIATION`.
    """
    deviation = noise_multiplier * sensitivity / math.sqrt(answers)
    if deviation >= LEAST_DEVIATION:
        # A millionth of a millionth more than without τ, which is far more than τ takes.
        deviation *= 1 + 1e-12
        assert effective_noise_multiplier_of_sum(deviation, answers, entries, sensitivity) >= noise_multiplier
        return deviation
    raise PrivacyError(
        f"a device's part of the noise is {deviation:.3g} steps of the fixed-point numbers, and {LEAST_DEVIATION:g} "
        "are needed: sum fewer answers at once, or take more noise"
    )
