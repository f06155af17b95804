"""From guesses to a lower bound on ε: how often may a guesser be right about an (ε, δ)-private mechanism?

In one run many canaries are each in or out by a coin of its own, and the auditor guesses about some of them: Steinke,
Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run". In many runs it guesses about the one canary of
each: Jagielski, Ullman & Oprea 2020, "Auditing Differentially Private Machine Learning". Either bound holds for every
mechanism and every guesser; a poor guesser only makes it low.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import optimize, stats
from torch import Tensor

from fedrec.errors import DataError

_LARGEST = 50.0  # no number of guesses that fits into memory shows more
_THRESHOLDS = 41  # that are tried of a statistic; the chosen one need not be the best
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
    if not 0 <= right <= guesses <= canaries:
        raise DataError(
            f"{right} right of {guesses} guesses about {canaries} canaries; they must not exceed each other"
        )
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


def best_one_run_bound(
    statistics: Sequence[Tensor],
    included: Tensor,
    delta: float,
    confidence: float = 0.95,
    shares: Sequence[float] = (0.1, 0.3, 1.0),
) -> float:
    """The best of the bounds that several statistics give, guessing about several shares of the canaries.

    The canaries of the largest and of the least values are guessed to be in and out, as many of each; ties are broken
    by position. To try several guessers costs confidence: each is held to its part of 1 − confidence (Bonferroni).

    Args:
        statistics: [m] each, larger where a canary looks more like being in.
        included: [m] bool, the truth.
        delta: δ.
        confidence: of the best bound.
        shares: of the canaries that are guessed about.
    """
    canaries, allowed = len(included), (1 - confidence) / (len(statistics) * len(shares))
    bounds = []
    for statistic in statistics:
        truth = included[torch.argsort(statistic, stable=True)]
        for share in shares:
            half = max(1, min(canaries // 2, round(share * canaries / 2)))  # an odd canary is left over
            right = int((~truth[:half]).sum()) + int(truth[-half:].sum())
            bounds.append(one_run_bound(canaries, 2 * half, right, delta, 1 - allowed))
    return max(bounds)


def rates_bound(caught: int, inside: int, alarms: int, outside: int, delta: float, confidence: float = 0.95) -> float:
    """The largest ε that a test's rates in many runs refute: ln((P[alarm | in] − δ) / P[alarm | out]) of the true ones.

    The rates that are least favourable of those that Clopper & Pearson (1934) leave, each held to half of
    1 − confidence.

    Args:
        caught: runs in which the test says in and the canary was in, of so many `inside`.
        alarms: those in which it says so and the canary was out, of so many `outside`.
        delta: δ.
        confidence: of the bound.

    Returns:
        0 if nothing is refuted.
    """
    if not 0 < caught <= inside or not outside:
        return 0.0
    each = (1 - confidence) / 2
    least = float(stats.beta.ppf(each, caught, inside - caught + 1))
    most = 1.0 if alarms == outside else float(stats.beta.ppf(1 - each, alarms + 1, outside - alarms))
    return max(0.0, math.log((least - delta) / most)) if least > delta else 0.0


def many_runs_bound(statistics: Sequence[Tensor], included: Tensor, delta: float, confidence: float = 0.95) -> float:
    """The bound that the better half of many runs gives, by a test that the other half chose.

    A test says in above a threshold of a statistic, or out below one. The first half of the runs chooses statistic,
    side and threshold, all at once, by the bound that they would give; the second is the only one that counts, so that
    to choose costs no confidence.

    Args:
        statistics: [n] each, larger where the canary of a run looks more like being in.
        included: [n] bool, the truth.
        delta: δ.
        confidence: of the bound.
    """
    half = len(included) // 2

    def bound(test: tuple[Tensor, bool, float], runs: slice) -> float:
        statistic, out, threshold = test
        says = statistic[runs] <= threshold if out else statistic[runs] >= threshold
        truth = included[runs] != out
        counts = (int((says & truth).sum()), int(truth.sum()), int((says & ~truth).sum()), int((~truth).sum()))
        return rates_bound(*counts, delta, confidence)

    tests = [
        (statistic, out, float(threshold))
        for statistic in statistics
        for out in (False, True)
        for threshold in torch.quantile(statistic[:half].double(), torch.linspace(0, 1, _THRESHOLDS).double())
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
