"""Queries that are answered otherwise than they ask: watched on the way, or as by users who recorded all of it again.

Whoever has an interaction twice adds to its row twice, and entries of one row have to be merged before their norm is
taken.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedrec.federated import Cohort, Contribution, Outer, Query, Rows, State
from fedrec.streams import Streams


class AskedOtherwise(Query):
    """A query whose contributions are changed or watched on the way; everything else is the query's own.

    Attributes:
        inner: the query.
    """

    def __init__(self, inner: Query) -> None:
        self.inner = inner
        self.kind = inner.kind  # type: ignore[misc]
        self.private = inner.private  # type: ignore[misc]
        self.symmetric = inner.symmetric  # type: ignore[misc]
        self.held_out = inner.held_out
        self.everyone = inner.everyone

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """The query's."""
        return self.inner.tables

    @property
    def broadcast(self) -> Mapping[str, Tensor]:
        """The query's."""
        return self.inner.broadcast

    @property
    def dtype(self) -> torch.dtype:
        """The query's."""
        return self.inner.dtype

    @property
    def bytes_per_interaction(self) -> int:
        """The query's."""
        return self.inner.bytes_per_interaction

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        """The query's."""
        return self.inner.initial(cohort, draw)

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """The query's."""
        return self.inner.contribute(cohort, state, draw)


class _UnmergedRows(Rows):
    """Rows that are taken as they come: the norm is that of the entries, not of their sums."""

    def faults(self, n_users: int, table: tuple[int, int]) -> dict[int, str]:
        return {}


class _UnmergedOuter(Outer):
    """As `_UnmergedRows`, of a vector. What is added up is merged, as it has to be; its norm was taken before."""

    def faults(self, n_users: int, table: tuple[int, int]) -> dict[int, str]:
        return {}

    def add_to(self, total: Tensor, scale: Tensor | None) -> None:
        rows = Rows.coalesce(self.owner, self.index, self.value.unsqueeze(1), len(total))
        Outer(rows.owner, rows.index, rows.value.squeeze(1)).add_to(total, scale)


class Repeated(AskedOtherwise):
    """A query that every user answers `times` over, as if each interaction had been recorded that often.

    Merged, the answer is `times` as large and is clipped like any other. Not merged, its norm is taken for √times as
    large (for an outer product, whose vector has the repeated entries, times as large), and it is clipped by that.
    """

    def __init__(self, inner: Query, times: int, *, merged: bool) -> None:
        super().__init__(inner)
        self.times = times
        self.merged = merged

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """The same rows again and again."""
        contributions, state = self.inner.contribute(cohort, state, draw)
        return {name: self._repeat(part) for name, part in contributions.items()}, state

    def _repeat(self, part: Contribution) -> Contribution:
        if self.merged:
            return type(part)(part.owner, part.index, part.value * self.times)
        owner, index, value = (
            tensor.repeat_interleave(self.times, dim=0) for tensor in (part.owner, part.index, part.value)
        )
        return (_UnmergedRows if isinstance(part, Rows) else _UnmergedOuter)(owner, index, value)


def repeated(query: Query, times: int, *, merged: bool) -> Query:
    """A query as users answer it whose interactions were recorded so often, soundly or not."""
    return query if times == 1 else Repeated(query, times, merged=merged)
