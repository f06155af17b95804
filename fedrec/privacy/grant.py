"""What the owner of some users' data lets noised answers cost, and what they have cost so far.

A guarantee is computed by the server that asks. `Grant` is the other side: who answers adds up what it was asked for,
by user, and stops where an owner's ε would be exceeded, whatever the server says of it.

Every answer is one Gaussian release, or one as good, of noise multiplier σ, the deviation over what one user moves the
sum by. That is 2C where any two answers of it are neighbours (trust `local`), and C, rounding included, where an answer
and zeros are (`distributed`). Where both were asked, what is said is about the latter, by which `local` costs a quarter
of what is counted. Nobody's participation is hidden from who asks, so that there is no amplification.

Σ 1/σ² adds up, also where each question depends on the answers before it and a user's last one is refused for what it
would come to (Smith & Thakurta 2022, "Fully Adaptive Composition for Gaussian Differential Privacy"; Feldman & Zrnic
2021, "Individual Privacy Accounting via a Rényi Filter"). With μ² = Σ 1/σ²:

- Gaussian noise alone is μ-GDP, which is (ε, δ)-differential privacy for δ = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ), exactly
  (Balle & Wang 2018, "Improving the Gaussian Mechanism for Differential Privacy", theorem 8).
- Of discrete noise under masks the Rényi divergence of order α is bounded, by α μ²/2 (`discrete`), and
  ε = α μ²/2 + ln((α − 1)/α) − (ln δ + ln α)/(α − 1) for any α > 1 (Canonne, Kamath & Steinke 2020, proposition 12).

With both, the second holds for all of it. Who lets the answers so far decide whether to ask for discrete noise at all
is held to (ε, δ) where there is some and to (ε, δ) where there is none, which is (ε, 2δ) together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedrec.errors import ConfigError
from fedrec.privacy.accounting import ORDERS

_NO_PRIVACY = 1e6  # of Σ 1/σ²: ε is half a million


@dataclass(frozen=True)
class Grant:
    """The most that a user's noised answers may cost together.

    Attributes:
        epsilon: ε, above 0.
        delta: δ, between 0 and 1.

    Raises:
        ConfigError: if one of them is not.
    """

    epsilon: float
    delta: float = 1e-5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0 and 0 < self.delta < 1):
            raise ConfigError(
                f"a grant of epsilon = {self.epsilon} at delta = {self.delta}; give a finite number above 0, such as "
                "8, and a probability, such as 1e-5"
            )

    def spent(self, gaussian: float, discrete: float) -> float:
        """ε at this δ of Σ 1/σ² over releases with Gaussian noise, and over those with discrete noise under masks."""
        if discrete:
            return epsilon_of_renyi(gaussian + discrete, self.delta)
        return epsilon_of_gaussian(gaussian, self.delta)

    def allows(self, gaussian: float, discrete: float) -> bool:
        """Whether that is within ε; a billionth more is rounding."""
        return self.spent(gaussian, discrete) <= self.epsilon * (1 + 1e-9)


def epsilon_of_gaussian(squared: float, delta: float) -> float:
    """The least ε at δ of Gaussian releases with Σ 1/σ² = `squared`."""
    if squared == 0:
        return 0.0
    if squared > _NO_PRIVACY:
        return math.inf
    from scipy.special import log_ndtr  # takes a tenth of a second, which a node without a grant has not to spend

    mu = math.sqrt(squared)

    def log_delta(epsilon: float) -> float:
        one, other = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
        return float(one + math.log1p(-math.exp(min(other - one, -1e-16))))

    goal = math.log(delta)
    if log_delta(0.0) <= goal:
        return 0.0
    low, high = 0.0, squared / 2 + mu * math.sqrt(-2 * goal)  # Φ(μ/2 − ε/μ) alone is below δ there, by Chernoff
    while high - low > 1e-12 * high:  # δ falls with ε; SciPy's solvers take longer to import than all of this
        middle = (low + high) / 2
        low, high = (low, middle) if log_delta(middle) <= goal else (middle, high)
    return high


def epsilon_of_renyi(squared: float, delta: float) -> float:
    """ε at δ of releases whose Rényi divergence of every order α is at most α · `squared`/2 together.

    The least over the orders that a guarantee's accountant looks at, so that both find the same.
    """
    goal = math.log(delta)

    def at(order: float) -> float:
        return order * squared / 2 + math.log1p(-1 / order) - (goal + math.log(order)) / (order - 1)

    return max(0.0, min(map(at, ORDERS)))
