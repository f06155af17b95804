"""What releases cost: from noise multipliers and sampling rates to (ε, δ), by Opacus' accountants.

The pieces, and why they may be put together:

- Releases that share one participation draw are one step. Given the draw, adaptive Gaussian releases of noise
  multipliers σ_j are as private as one Gaussian release with Σ_j 1/σ_j² = 1/σ_eff² (Dong, Roth & Su 2022, "Gaussian
  Differential Privacy", corollary 3.3), and the draw, made once, subsamples that one release. Stepping them one by one
  pretends that each had a draw of its own, and under-reports badly.
- A Poisson-subsampled Gaussian is dominated by the pair (1−q)N(0,σ²) + qN(1,σ²) against N(0,σ²), and its reverse
  (Zhu, Dong & Wang 2022, "Optimal Accounting of Differential Privacy via Characteristic Function", theorem 11). The PRV
  accountant composes their privacy losses by FFT (Gopi, Lee & Wutschitz 2021, "Numerical Composition of Differential
  Privacy"); the RDP accountant composes Rényi divergences (Mironov, Talwar & Zhang 2019, "Rényi Differential Privacy of
  the Sampled Gaussian Mechanism") and is looser.
- A draw of everyone (q = 1) hides nobody, so all such draws are one Gaussian release, by the first rule.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fedrec.errors import PrivacyError, did_you_mean

Accountant = Literal["prv", "rdp"]
"""PRV is the number that is quoted, RDP stands beside it."""

# Opacus has the orders up to 63, which is too low for the small ε of strong noise.
ORDERS = [*(1 + tenth / 10 for tenth in range(1, 100)), *range(12, 65), 96, 128, 192, 256, 384, 512, 768, 1024]
_LARGEST_LOSS = 700.0  # PRV takes exp of a privacy loss, and float64 ends at exp(709)
_SMALLEST_DELTA = 1e-10  # not far below it PRV's FFT is rounding noise
_LARGEST_GRID = 1 << 20  # points of PRV's discretisation: about a second


class Draws(NamedTuple):
    """Participation draws that look alike to an accountant.

    Attributes:
        noise_multiplier: σ_eff of everything released on one of the draws.
        rate: q, the probability that a user is drawn, as far as it may be counted on.
        number: of such draws.
    """

    noise_multiplier: float
    rate: float
    number: int = 1


def effective_noise_multiplier(sigmas: Iterable[float]) -> float:
    """The one noise multiplier that releases on the same participation draw amount to: (Σ_j σ_j⁻²)^(−1/2).

    Raises:
        PrivacyError: if there is none, or one is not a finite number above 0.
    """
    values = sorted(sigmas)
    if not values or not all(math.isfinite(sigma) and sigma > 0 for sigma in values):
        raise PrivacyError(f"noise multipliers {values}: give at least one, each a finite number above 0")
    if len(values) == 1:
        return values[0]  # itself, to the last bit
    return 1.0 / math.sqrt(math.fsum(sigma**-2 for sigma in values))


def epsilon(history: Iterable[Draws], delta: float, accountant: Accountant = "prv") -> float:
    """The ε that draws cost together at δ, under adding or removing one user; an upper bound.

    PRV's bound is some .1% above the exact value, or 3e-5·√draws where that is more; it takes about a second.

    Args:
        history: the draws; their order does not matter.
        delta: δ in (0, 1).
        accountant: "prv" or "rdp".

    Raises:
        PrivacyError: if the accountant is not one of the two, or the numbers are beyond its range.
    """
    _require_known(accountant)
    if not 0 < delta < 1:
        raise PrivacyError(f"delta = {delta} is not a probability; give one between 0 and 1, such as 1e-5")
    merged = _merged(history)
    if not merged:
        return 0.0
    return _prv(merged, delta) if accountant == "prv" else _rdp(merged, delta)


def _require_known(accountant: str) -> None:
    if accountant == "gdp":
        raise PrivacyError(
            "accountant 'gdp' is a limit theorem and under-reports: it says 9.11 where PRV finds 9.98; use 'prv'"
        )
    if accountant not in ("prv", "rdp"):
        raise PrivacyError(f"unknown accountant '{accountant}'; {did_you_mean(accountant, ('prv', 'rdp'))}")


def _merged(history: Iterable[Draws]) -> tuple[Draws, ...]:
    """The same draws with equal ones counted together, and all draws of everyone as one; sorted, so that it caches."""
    sampled: Counter[tuple[float, float]] = Counter()
    everyone: list[float] = []
    for noise_multiplier, rate, number in history:
        if not 0 < rate <= 1:
            raise PrivacyError(f"rate = {rate} is not a sampling rate; give one above 0 and at most 1")
        if rate == 1:
            everyone += [noise_multiplier] * number
        else:
            sampled[effective_noise_multiplier([noise_multiplier]), rate] += number
    merged = [Draws(sigma, rate, number) for (sigma, rate), number in sorted(sampled.items())]
    return (*merged, Draws(effective_noise_multiplier(everyone), 1.0)) if everyone else tuple(merged)


def _rdp(history: tuple[Draws, ...], delta: float) -> float:
    from opacus.accountants.analysis.rdp import get_privacy_spent  # takes seconds, which no node has to spend

    curve = sum(draws.number * _renyi(draws.noise_multiplier, draws.rate) for draws in history)
    with warnings.catch_warnings():
        # True at either end of the range of noise, and harmless: any order gives a valid bound.
        warnings.filterwarnings("ignore", "Optimal order is the (smallest|largest) alpha", UserWarning)
        spent, _ = get_privacy_spent(orders=ORDERS, rdp=curve, delta=delta)
    return max(0.0, float(spent))


@lru_cache(maxsize=4096)
def _renyi(noise_multiplier: float, rate: float) -> npt.NDArray[np.float64]:
    """Rényi divergence of one draw, by order."""
    from opacus.accountants.analysis.rdp import compute_rdp

    return np.asarray(compute_rdp(q=rate, noise_multiplier=noise_multiplier, steps=1, orders=ORDERS))


@lru_cache(maxsize=1024)
def _prv(history: tuple[Draws, ...], delta: float) -> float:
    from opacus.accountants import PRVAccountant

    if delta < _SMALLEST_DELTA:
        raise PrivacyError(f"delta = {delta} is below the {_SMALLEST_DELTA} that PRV can resolve; take a larger one")
    largest_loss = _rdp(history, delta / 4000) + 3.0  # as Opacus chooses its domain: at a quarter of δ/1000
    if largest_loss > _LARGEST_LOSS:
        raise PrivacyError(
            f"epsilon is about {_rdp(history, delta):.0f}, which is no privacy and beyond the PRV accountant; "
            "take a larger noise multiplier, or none"
        )
    # Opacus adds its error to ε. Its default, .01, is a lot at ε = .1 and slow at ε = 100, so we ask for .1% of ε, or
    # for what the largest grid allows: the grid's step is error / √(draws · log(12 · 1000/δ) / 2).
    draws = sum(number for _, _, number in history)
    per_step = math.sqrt(draws * math.log(12_000 / delta) / 2)
    error = max(1e-3 * _rdp(history, delta), 2 * largest_loss * per_step / _LARGEST_GRID)
    accountant = PRVAccountant()
    accountant.history = list(history)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is the (smallest|largest) alpha", UserWarning)
        # log(1 - q) at q = 1; minus infinity is what is meant.
        warnings.filterwarnings("ignore", "divide by zero encountered in log$", RuntimeWarning)
        try:
            spent = float(accountant.get_epsilon(delta, eps_error=error))
        except (RuntimeError, ValueError) as reason:
            raise PrivacyError(
                f"PRV cannot account for {history} at delta = {delta} ({reason}); take a larger delta"
            ) from reason
    if not math.isfinite(spent):
        raise PrivacyError(f"PRV finds epsilon = {spent} for {history} at delta = {delta}; take a larger delta")
    return max(0.0, spent)
