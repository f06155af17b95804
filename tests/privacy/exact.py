"""The exact price of one Gaussian release: Balle & Wang 2018, "Improving the Gaussian Mechanism", theorem 8."""

from __future__ import annotations

import numpy as np
from scipy import optimize, stats


def exact_delta(eps: float, sigma: float) -> float:
    """δ(ε) of one release of sensitivity 1: Φ(1/2σ − εσ) − e^ε Φ(−1/2σ − εσ)."""
    half, rest = 1 / (2 * sigma), eps * sigma
    return float(stats.norm.cdf(half - rest) - np.exp(eps + stats.norm.logcdf(-half - rest)))


def exact_epsilon(sigma: float, delta: float) -> float:
    """Its inverse, ε(δ)."""
    return float(optimize.brentq(lambda eps: exact_delta(eps, sigma) - delta, 0.0, 2000.0, xtol=1e-12))
