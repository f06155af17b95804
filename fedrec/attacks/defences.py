"""Defences of a sum against clients that lie: what to take in its place when single answers can be seen.

Each takes the answers of a round, one behind the other, and returns what stands for their sum. An answer touches some
rows only, so medians and trimmed means are taken over those who touched a row, and multiplied with their number: over
everybody, nearly all of whom say nothing of an item, they would be zero and nothing would ever be learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedrec.errors import ConfigError
from fedrec.federated import Answer, Contribution, Engine, Outer, OverEngine, Query, Rows, Totals
from fedrec.privacy import Clip

Defence = Literal["none", "norm-bound", "median", "trimmed-mean", "krum", "multi-krum"]

_MOST_NUMBERS = 1 << 28  # of all answers as dense vectors, for the distances between them: 1 GiB


Aggregate = Callable[[Rows, int, int], Tensor]
"""(rows, number of answers, rows of the table) -> what stands for their sum, [n_rows, width]; an answer's rows have one
owner."""


def norm_bound(rows: Rows, number: int, n_rows: int) -> Tensor:
    """The sum of answers scaled down to the median of their norms.

    Sun, Kairouz, Suresh & McMahan 2019, "Can You Really Backdoor Federated Learning?".
    """
    norms = rows.squared_norms(number).sqrt()
    bound = norms.median()
    scale = (bound / norms.clamp(min=1e-30)).clamp(max=1.0)
    total = torch.zeros(n_rows, rows.value.shape[1], dtype=torch.float64)
    rows.add_to(total, scale)
    return total


def median(rows: Rows, n_rows: int) -> Tensor:
    """The median of each coordinate.

    Yin, Chen, Ramchandran & Bartlett 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates".
    """
    return _row_by_row(rows, n_rows, lambda values: values.quantile(0.5, dim=0))


def trimmed_mean(rows: Rows, n_rows: int, share: float = 0.1) -> Tensor:
    """The mean of each coordinate without a share of the largest and of the least values (Yin et al. 2018)."""

    def trimmed(values: Tensor) -> Tensor:
        cut = int(share * len(values))
        return values.sort(dim=0).values[cut : len(values) - cut].mean(dim=0)

    return _row_by_row(rows, n_rows, trimmed)


def _row_by_row(rows: Rows, n_rows: int, middle: Callable[[Tensor], Tensor]) -> Tensor:
    total = torch.zeros(n_rows, rows.value.shape[1], dtype=torch.float64)
    order = torch.argsort(rows.index, stable=True)
    index, sizes = torch.unique_consecutive(rows.index[order], return_counts=True)
    for row, values in zip(index.tolist(), torch.split(rows.value[order].double(), sizes.tolist()), strict=True):
        total[row] = len(values) * middle(values)
    return total


def krum(rows: Rows, number: int, n_rows: int, liars: int = 1, kept: int = 1) -> Tensor:
    """The answer nearest to its n − f − 2 nearest neighbours, times n; or the mean of the `kept` nearest ones.

    Blanchard, El Mhamdi, Guerraoui & Stainer 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
    Descent".

    Args:
        rows: of all answers.
        number: n.
        n_rows: of the table.
        liars: f, the most clients that are taken to lie.
        kept: answers that are averaged.

    Raises:
        ConfigError: if so many answers are too large for memory.
    """
    width = rows.value.shape[1]
    if number * n_rows * width > _MOST_NUMBERS:
        raise ConfigError(
            f"krum: the distances of {number} answers of {n_rows} x {width} take too much memory; lower "
            "participation.rate"
        )
    dense = torch.zeros(number, n_rows, width, dtype=torch.float32)
    dense[rows.owner, rows.index] = rows.value.float()
    flat = dense.view(number, -1)
    apart = torch.cdist(flat, flat).square().fill_diagonal_(float("inf"))
    nearest = max(1, min(number - 1, number - liars - 2))
    scores = apart.sort(dim=1).values[:, :nearest].sum(dim=1)
    chosen = scores.argsort(stable=True)[: max(1, min(kept, number))]
    return dense[chosen].double().mean(dim=0) * number


def aggregate_of(defence: Defence, liars: int) -> Aggregate | None:
    """The aggregate of a defence; None is the sum itself.

    Args:
        defence: which.
        liars: the most clients of a round that are taken to lie, for Krum.
    """
    if defence == "krum":
        return lambda rows, number, n_rows: krum(rows, number, n_rows, liars)
    if defence == "multi-krum":
        return lambda rows, number, n_rows: krum(rows, number, n_rows, liars, max(1, number - liars))
    if defence == "median":
        return lambda rows, _, n_rows: median(rows, n_rows)
    if defence == "trimmed-mean":
        return lambda rows, _, n_rows: trimmed_mean(rows, n_rows)
    return norm_bound if defence == "norm-bound" else None


@dataclass(eq=False)
class Robust(OverEngine):
    """An engine whose sums are what a defence makes of single answers. A guarantee of sums refuses it.

    Attributes:
        engine: has the answers.
        aggregate: the defence.
    """

    engine: Engine
    aggregate: Aggregate

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """What stands for the sum.

        Raises:
            PrivacyError: if the engine promises sums only.
            ConfigError: if answers are outer products, which have no coordinates of their own to compare.
        """
        found = list(self.engine.answers(query, round=round, phase=phase, clip=clip))
        taken = [answer for answer in found if not answer.refused]
        sums = {}
        for name, (n_rows, width) in query.tables.items():
            parts = [answer.contributions[name] for answer in taken]
            rows = stacked(parts, width, query.dtype)
            sums[name] = (
                self.aggregate(rows, len(parts), n_rows).to(query.dtype)
                if parts
                else torch.zeros(n_rows, width, dtype=query.dtype)
            )
        refused = Counter(answer.refused for answer in found if answer.refused)
        return Totals(sums, answered=len(taken), refused=refused)

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """The engine's answers."""
        return self.engine.answers(query, round=round, phase=phase, clip=clip)


def stacked(parts: Sequence[Contribution], width: int, dtype: torch.dtype) -> Rows:
    """Single answers as the rows of one cohort, each answer with an owner of its own.

    Raises:
        ConfigError: if one is an outer product.
    """
    rows = [part for part in parts if not isinstance(part, Outer)]
    if len(rows) < len(parts):
        raise ConfigError("a defence compares rows of a table, and these answers are outer products; defend other arms")
    if not rows:
        nothing = torch.zeros(0, dtype=torch.int64)
        return Rows(nothing, nothing, torch.zeros(0, width, dtype=dtype))
    owner = torch.cat([torch.full_like(part.owner, number) for number, part in enumerate(rows)])
    return Rows(owner, torch.cat([part.index for part in rows]), torch.cat([part.value for part in rows]))
