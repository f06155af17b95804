"""From guesses to a lower bound on ε: how often may a guesser be right about an (ε, δ)-private mechanism?

In one run many canaries are each in or out by a coin of its own, and the auditor guesses about some of them: Steinke,
Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run". In many runs it guesses about the one canary of
each: Jagielski, Ullman & Oprea 2020, "Auditing Differentially Private Machine Learning". Either bound holds for every
mechanism and every guesser; a poor guesser only makes it low.

A mechanism that adds Gaussian noise promises more than an ε at one δ: it is μ-GDP, as private as telling N(0, 1) from
N(μ, 1) (Dong, Roth & Su 2022, "Gaussian Differential Privacy"). Guesses refute that far sooner, since it bounds every
test and not only those that are wrong less often than δ: Mahloujifar, Melis & Chaudhuri 2024, "Auditing f-Differential
Privacy in One Run", and Nasr et al. 2023, "Tight Auditing of Differentially Private Machine Learning", for many runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from scipy import optimize, stats
from scipy.special import ndtr, ndtri
from torch import Tensor

from fedrec.errors import DataError

_LARGEST = 50.0  # no number of guesses that fits into memory shows more
_TAILS = [2.0**-halvings / 40 for halvings in range(6, 0, -1)]  # more runs can count rarer alarms
_QUANTILES = [*_TAILS, *np.linspace(0.025, 0.975, 39), *(1 - tail for tail in reversed(_TAILS))]
"""Of a statistic, at which thresholds are tried; the chosen one need not be the best."""
_LARGEST_MU = 20.0  # of N(0, 1) and N(20, 1) nobody mistakes one for the other
_STEP = 0.05  # of the search for the least ε that is not refuted; between two steps it is refined


def one_run_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """How likely at least so many right guesses are, at most, if the mechanism is (ε, δ)-private.

    With W ~ Bin(r, e^ε/(e^ε + 1)) it is P[W ≥ v] + 2 m δ max_i P[v − i ≤ W < v] / i: theorem 5.2 of Steinke et al.

    Args:
        canaries: m, each in with probability ½, independently.
        guesses: r, how many of them are guessed about; for the others the guesser abstains.
        right: v, the right ones.
        epsilon, delta: what is refuted if this is small.

    Raises:
        DataError: unless 0 ≤ v ≤ r ≤ m.
    """
    _require_counts(canaries, guesses, right)
    w = stats.binom(guesses, 1 / (1 + math.exp(-epsilon)))
    worst = 0.0
    if right and delta > 0:
        below = np.cumsum(w.pmf(np.arange(right - 1, -1, -1)))  # P[v − i ≤ W < v] for i = 1, ..., v
        worst = float((below / np.arange(1, right + 1)).max())
    return min(1.0, float(w.sf(right - 1)) + 2 * canaries * delta * worst)


def one_run_bound(canaries: int, guesses: int, right: int, delta: float, confidence: float = 0.95) -> float:
    """The largest ε that so many right guesses refute: a lower bound that is wrong with probability 1 − confidence.

    Args:
        canaries, guesses, right: as in `one_run_p_value`.
        delta: δ.
        confidence: of the bound.

    Returns:
        0 if nothing is refuted.
    """

    def surplus(epsilon: float) -> float:
        return one_run_p_value(canaries, guesses, right, epsilon, delta) - (1 - confidence)

    return _first_unrefuted(surplus)


def _first_unrefuted(surplus: Callable[[float], float]) -> float:
    """The first zero of a function that grows, but for ripples, from below zero; 0 if it starts above."""
    low = 0.0
    if surplus(low) >= 0:
        return 0.0
    while surplus(low + _STEP) < 0:
        low += _STEP
        if low >= _LARGEST:
            return _LARGEST
    return float(optimize.brentq(surplus, low, low + _STEP, xtol=1e-6))


def one_run_mass(canaries: int, guesses: int, right: int, tail: float, mu: float) -> float:
    """The least that the probabilities of all numbers of right guesses sum to if the mechanism is μ-GDP.

    With p_i = P[W = i] of the number W of right guesses and G(x) = Φ(Φ⁻¹(x) − μ), every j has

        Σ_{i≥j} (r − i + 1)/m · p_{i−1} ≥ G(Σ_{i≥j} i/m · p_i).

    For a guess about one canary is right, and W ≥ j, on just those outputs on which it is wrong, and W ≥ j − 1, if that
    one coin is turned; μ-GDP holds for either coin and any coins of the others, the means of both sides over canaries
    and coins are the two sums, and G is convex. From P[W ≥ v] = `tail` downwards each p_{j−1} has a least value, with
    all of the tail at v; a larger one would not make the sum smaller.

    Args:
        canaries, guesses, right: m, r and v as in `one_run_p_value`.
        tail: how likely at least so many right guesses are assumed to be.
        mu: μ.

    Returns:
        A number of which those above 1 are alike: no such tail is possible.

    Raises:
        DataError: unless 0 ≤ v ≤ r ≤ m.
    """
    _require_counts(canaries, guesses, right)
    part = guesses / canaries
    mass, told = tail * part, tail * part * right / guesses  # Σ (r/m) p_i and Σ (i/m) p_i, for i ≥ j
    for j in range(right, 0, -1):
        least = (float(ndtr(ndtri(told) - mu)) + told - mass) * guesses / (guesses - j + 1)
        mass += max(0.0, least)
        told += max(0.0, least) * (j - 1) / guesses
        if mass > part:
            break
    return mass / part


def one_run_mu_bound(canaries: int, guesses: int, right: int, confidence: float = 0.95) -> float:
    """The largest μ of which so many right guesses refute μ-GDP, wrong with probability 1 − confidence.

    Args:
        canaries, guesses, right: as in `one_run_p_value`.
        confidence: of the bound.

    Returns:
        0 if nothing is refuted.
    """
    return _largest_refuted(lambda mu: one_run_mass(canaries, guesses, right, 1 - confidence, mu) > 1)


def _largest_refuted(refuted: Callable[[float], bool]) -> float:
    """By bisection: whoever refutes a μ refutes all below."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, _LARGEST_MU
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _require_counts(canaries: int, guesses: int, right: int) -> None:
    if not 0 <= right <= guesses <= canaries:
        raise DataError(
            f"{right} right of {guesses} guesses about {canaries} canaries; they must not exceed each other"
        )


def best_one_run_bound(
    statistics: Sequence[Tensor],
    included: Tensor,
    delta: float,
    confidence: float = 0.95,
    shares: Sequence[float] = (0.1, 0.3, 1.0),
) -> float:
    """The best of the bounds on ε that several statistics give, guessing about several shares of the canaries.

    The canaries of the largest and of the least values are guessed to be in and out, as many of each; ties are broken
    by position. To try several guessers costs confidence: each is held to its part of 1 − confidence (Bonferroni).

    Args:
        statistics: [m] each, larger where a canary looks more like being in.
        included: [m] bool, the truth.
        delta: δ.
        confidence: of the best bound.
        shares: of the canaries that are guessed about.
    """
    each = 1 - (1 - confidence) / (len(statistics) * len(shares))
    counts = _guessed(statistics, included, shares)
    return max(one_run_bound(len(included), guesses, right, delta, each) for guesses, right in counts)


def best_one_run_mu_bound(
    statistics: Sequence[Tensor],
    included: Tensor,
    confidence: float = 0.95,
    shares: Sequence[float] = (0.03, 0.1, 0.3),
) -> float:
    """The best of the bounds on μ, as `best_one_run_bound` is on ε. Few guesses show the most of μ-GDP.

    Args:
        statistics, included, confidence, shares: as there.
    """
    each = 1 - (1 - confidence) / (len(statistics) * len(shares))
    counts = _guessed(statistics, included, shares)
    return max(one_run_mu_bound(len(included), guesses, right, each) for guesses, right in counts)


def _guessed(statistics: Sequence[Tensor], included: Tensor, shares: Sequence[float]) -> list[tuple[int, int]]:
    """(guesses, right ones) of each statistic and share."""
    canaries, counts = len(included), []
    for statistic in statistics:
        truth = included[torch.argsort(statistic, stable=True)]
        for share in shares:
            half = max(1, min(canaries // 2, round(share * canaries / 2)))  # an odd canary is left over
            counts.append((2 * half, int((~truth[:half]).sum()) + int(truth[-half:].sum())))
    return counts


def rates_bound(caught: int, inside: int, alarms: int, outside: int, delta: float, confidence: float = 0.95) -> float:
    """The largest ε that a test's rates in many runs refute: ln((P[alarm | in] − δ) / P[alarm | out]) of the true ones.

    Args:
        caught, inside, alarms, outside: as in `least_favourable`.
        delta: δ.
        confidence: of the bound.

    Returns:
        0 if nothing is refuted.
    """
    least, most = least_favourable(caught, inside, alarms, outside, confidence)
    return max(0.0, math.log((least - delta) / most)) if least > delta else 0.0


def rates_mu_bound(caught: int, inside: int, alarms: int, outside: int, confidence: float = 0.95) -> float:
    """The largest μ of which a test's rates in many runs refute μ-GDP: Φ⁻¹(P[alarm | in]) − Φ⁻¹(P[alarm | out]).

    Args:
        caught, inside, alarms, outside: as in `least_favourable`.
        confidence: of the bound.

    Returns:
        0 if nothing is refuted.
    """
    least, most = least_favourable(caught, inside, alarms, outside, confidence)
    return max(0.0, float(ndtri(least) - ndtri(most))) if least > 0 and most < 1 else 0.0


def least_favourable(
    caught: int, inside: int, alarms: int, outside: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Of the rates P[alarm | in] and P[alarm | out] that counts leave, the least and the largest one.

    By Clopper & Pearson (1934), each held to half of 1 − confidence.

    Args:
        caught: runs in which the test says in and the canary was in, of so many `inside`.
        alarms: those in which it says so and the canary was out, of so many `outside`.
        confidence: of both together.
    """
    each = (1 - confidence) / 2
    least = float(stats.beta.ppf(each, caught, inside - caught + 1)) if caught else 0.0
    most = float(stats.beta.ppf(1 - each, alarms + 1, outside - alarms)) if alarms < outside else 1.0
    return least, most


def many_runs_bound(statistics: Sequence[Tensor], included: Tensor, delta: float, confidence: float = 0.95) -> float:
    """The bound on ε that the better half of many runs gives, by a test that the other half chose.

    A test says in above a threshold of a statistic, or out below one. The first half of the runs chooses statistic,
    side and threshold, all at once, by the bound that they would give; the second is the only one that counts, so that
    to choose costs no confidence.

    Args:
        statistics: [n] each, larger where the canary of a run looks more like being in.
        included: [n] bool, the truth.
        delta: δ.
        confidence: of the bound.
    """
    return _chosen_bound(statistics, included, partial(rates_bound, delta=delta, confidence=confidence))


def many_runs_mu_bound(statistics: Sequence[Tensor], included: Tensor, confidence: float = 0.95) -> float:
    """The bound on μ, as `many_runs_bound` is on ε, by a test that was chosen for it.

    Args:
        statistics, included, confidence: as there.
    """
    return _chosen_bound(statistics, included, partial(rates_mu_bound, confidence=confidence))


def _chosen_bound(
    statistics: Sequence[Tensor], included: Tensor, of_counts: Callable[[int, int, int, int], float]
) -> float:
    half = len(included) // 2

    def bound(test: tuple[Tensor, bool, float], runs: slice) -> float:
        statistic, out, threshold = test
        says = statistic[runs] <= threshold if out else statistic[runs] >= threshold
        truth = included[runs] != out
        return of_counts(int((says & truth).sum()), int(truth.sum()), int((says & ~truth).sum()), int((~truth).sum()))

    tests = [
        (statistic, out, float(threshold))
        for statistic in statistics
        for out in (False, True)
        for threshold in torch.quantile(statistic[:half].double(), torch.tensor(_QUANTILES, dtype=torch.float64))
    ]
    return bound(max(tests, key=lambda test: bound(test, slice(half))), slice(half, None))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """ε at δ of a mechanism that is exactly as private as telling N(0, 1) from N(μ, 1).

    δ(ε) = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2): corollary 2.13 of Dong, Roth & Su 2022, "Gaussian Differential Privacy".

    Args:
        mu: μ; 0 or less is no leak at all.
        delta: δ in (0, 1).
    """
    if mu <= 0:
        return 0.0

    def excess(epsilon: float) -> float:
        tail = float(np.exp(epsilon + stats.norm.logcdf(-epsilon / mu - mu / 2)))
        return float(stats.norm.cdf(-epsilon / mu + mu / 2)) - tail - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-9))
