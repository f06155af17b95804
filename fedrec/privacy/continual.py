"""Noise that is correlated over rounds, for sums that are added up: the matrix mechanism (DP-FTRL).

A server that steps along released sums G_1, G_2, ... uses their prefix sums A G, A the lower triangular matrix of ones.
The matrix mechanism factors A = B C, and B (C G + Z) = A G + B Z is released, which is G_t + (C⁻¹Z)_t in round t: noise
that later rounds partly take back (Kairouz et al. 2021, "Practical and Private (Deep) Learning without Sampling or
Shuffling"; Denisov et al. 2022, "Improved Differential Privacy for SGD via Optimal Private Linear Operators on Adaptive
Streams", where theorem 2.1 lets a round's sum depend on what was released before).

C here is the banded square root of A: the Toeplitz matrix of the first p of the coefficients 4^(−k) (2k choose k), of
the power series (1 − x)^(−1/2) (Fichtenberger, Henzinger & Upadhyay 2023, "Constant Matters"; banded by Kalinin &
Lampert 2024, "Banded Square Root Matrix Factorization for Differentially Private Model Training").

What it costs: with z of deviation s on C G, a user moves C G by at most sens(C)·clip, so that the whole run is one
Gaussian release of noise multiplier s/(sens(C)·clip), 1/2σ²-zCDP, whatever the number of rounds. A user who takes part
in the rounds of a pattern π moves it by ‖Σ_{t∈π} C_{·t} u_tᵀ‖_F with ‖u_t‖ ≤ clip, whose square is Σ_{s,t∈π}
C_{·s}ᵀC_{·t} u_sᵀu_t. C has no negative entry, so that this is most where all u_t are equal (Choquette-Choo et al.
2023, "Multi-Epoch Matrix Factorization Mechanisms for Private Machine Learning"), ‖Σ_{t∈π} C_{·t}‖²·clip², and as its
columns fall, the earliest and densest pattern is the worst (Kalinin & Lampert 2024, theorem 2). Participation must be
bounded: once in every b rounds. No amplification by sampling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.errors import PrivacyError
from fedrec.privacy.schedule import Schedule


class ContinualConfig(Config):
    """Correlated noise for the one query whose sums the server adds up.

    Attributes:
        band: p, rounds over which the noise is correlated; the server keeps p − 1 noise tables. None is the cycle of
            participation: a longer band lets a user's own rounds add up in the sensitivity.
        query: its kind; None is the only one that is asked in more than one round.
    """

    band: int | None = Field(None, ge=1)
    query: str | None = None


def square_root(band: int) -> npt.NDArray[np.float64]:
    """[band] the first coefficients of (1 − x)^(−1/2): c_0 = 1, c_k = c_(k−1) (2k − 1)/2k."""
    steps = np.arange(1, band)
    return np.concatenate([[1.0], np.cumprod((2 * steps - 1) / (2 * steps))])


def sensitivity(coefficients: npt.NDArray[np.float64], rounds: int, cycle: int) -> float:
    """sens(C) for a user of norm 1 who takes part in every `cycle`-th round at most.

    Args:
        coefficients: [p] of the Toeplitz matrix C, not negative and falling.
        rounds: its size.
        cycle: b, rounds from one participation to the next at least.

    Returns:
        ‖Σ_j C_{·, 1+jb}‖₂ over the ⌈rounds/b⌉ participations.
    """
    # One column of C, shifted by each participation and cut at the last round.
    total = np.zeros(rounds)
    for start in range(0, rounds, cycle):
        length = min(len(coefficients), rounds - start)
        total[start : start + length] += coefficients[:length]
    return float(np.linalg.norm(total))


@dataclass(frozen=True)
class Correlation:
    """C for some rounds in which each user takes part once in every cycle.

    Attributes:
        rounds: n.
        cycle: b, rounds between two participations of a user; 1 if everyone takes part in all.
        band: p.
    """

    rounds: int
    cycle: int
    band: int

    @classmethod
    def of(cls, config: ContinualConfig, schedule: Schedule) -> tuple[str, Correlation]:
        """The query and the correlation of its noise that the settings ask for.

        Raises:
            PrivacyError: if only chance bounds how often a user takes part, the query is not asked once in every round,
                its noise is to change over the rounds, or the band is longer than the run.
        """
        query = schedule.repeated(config.query, "continual.query")
        planned = next(planned for planned in schedule.releases if planned.query == query)
        if schedule.cycle is None:
            raise PrivacyError(
                f"continual: Poisson sampling at rate {schedule.rate:g} bounds no user's rounds, and noise that is "
                "correlated over rounds counts on that; set participation.sampling = 'cyclic'"
            )
        if planned.per_draw > 1 or planned.every > 1:
            raise PrivacyError(f"continual: '{query}' is not asked once in every round; choose another query")
        if planned.adaptive or schedule.growth != 1:
            raise PrivacyError(
                f"continual: noise of '{query}' cancels over rounds only at one scale; leave out privacy.adaptive and "
                "privacy.growth"
            )
        band = min(schedule.cycle, planned.draws) if config.band is None else config.band
        if band > planned.draws:
            raise PrivacyError(f"continual.band = {band}: the run has {planned.draws} rounds; give at most that many")
        return query, cls(planned.draws, schedule.cycle, band)

    @property
    def factor(self) -> float:
        """Deviation of z over that of independent noise of the same cost: sens(C)/√k, k the most participations.

        In the ledger each of the n releases has the noise multiplier σ, and a user's k of them cost k/σ² together. The
        whole run's noise multiplier is thus σ/√k, and z needs the deviation σ/√k · sens(C) · clip.
        """
        most = math.ceil(self.rounds / self.cycle)
        return sensitivity(square_root(self.band), self.rounds, self.cycle) / math.sqrt(most)

    @property
    def words(self) -> str:
        """For the Guarantee."""
        return (
            f"correlated over {self.rounds} rounds by the banded square root (matrix mechanism, band {self.band}), in "
            f"which a user takes part once in every {self.cycle}: epsilon covers all rounds together"
        )


class CorrelatedNoise:
    """C⁻¹Z, round by round: w_t = z_t − Σ_{j=1}^{p−1} c_j w_(t−j), as C w = z.

    Args:
        correlation: C.

    Attributes:
        recent: the last p − 1 noise tables of each table, newest last. Whoever reads them can take the noise off.
    """

    def __init__(self, correlation: Correlation) -> None:
        self.correlation = correlation
        self.recent: dict[str, list[Tensor]] = {}
        self._coefficients = square_root(correlation.band).tolist()

    def next(self, table: str, fresh: Tensor) -> Tensor:
        """The noise of a table in its next round, from independent noise z_t of the same shape."""
        recent = self.recent.setdefault(table, [])
        noise = fresh.clone()
        for coefficient, earlier in zip(self._coefficients[1:], reversed(recent), strict=False):
            noise -= coefficient * earlier
        if self.correlation.band > 1:
            recent.append(noise)
            del recent[: -(self.correlation.band - 1)]
        return noise

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint: table -> [≤ p − 1, rows, width]."""
        return {table: torch.stack(recent) for table, recent in self.recent.items() if recent}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The counterpart of `tensors`."""
        self.recent = {table: list(stacked.unbind()) for table, stacked in tensors.items()}
