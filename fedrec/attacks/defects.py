"""Mechanisms with a planted defect: what an audit has to catch.

Each is a mistake that real code has made. They stand here, and not in the tests, so that an experiment can show that
its audit would have noticed; nothing but `fedrec.attacks` builds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fedrec.federated import (
    Answer,
    Cohort,
    Contribution,
    Engine,
    Outer,
    OverEngine,
    Query,
    Rows,
    State,
    Totals,
)
from fedrec.privacy import Clip, Gaussian, Mechanism, NoiseSource
from fedrec.streams import Streams

Defect = Literal["none", "weak-noise", "no-clip", "unmerged", "touched-rows"]
"""What is planted: noise a tenth of what it should be; no clipping; entries of one row that are not merged before their
norm is taken; noise on those rows alone that somebody touched."""

_WEAKNESS = 0.1


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


@dataclass(eq=False)
class Unclipped(OverEngine):
    """An engine that forgets the clip.

    Attributes:
        engine: what adds up.
    """

    engine: Engine

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The sum of whole contributions."""
        return self.engine.sum(query, round=round, phase=phase)

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """Whole answers."""
        return self.engine.answers(query, round=round, phase=phase)


@dataclass(frozen=True)
class WeakNoise:
    """Gaussian noise of a tenth of the deviation that it is accounted for.

    Attributes:
        mechanism: the sound one.
    """

    mechanism: Mechanism = field(default_factory=Gaussian)

    @property
    def name(self) -> str:
        """That it is broken."""
        return f"a tenth of {self.mechanism.name}"

    def noise(
        self, shape: Sequence[int], sigma: float, clip: float, *, symmetric: bool, source: NoiseSource, purpose: str
    ) -> Tensor:
        """A tenth of the noise."""
        noise = self.mechanism.noise(shape, sigma, clip, symmetric=symmetric, source=source, purpose=purpose)
        return noise * _WEAKNESS


@dataclass(eq=False)
class TouchedRows(OverEngine):
    """Noise on the rows that somebody touched, and an engine that knows which.

    Attributes:
        engine: what adds up.
        mechanism: the sound one.
    """

    engine: Engine
    mechanism: Mechanism = field(default_factory=Gaussian)
    _touched: dict[str, Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """That it is broken."""
        return f"on touched rows alone, {self.mechanism.name}"

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The engine's sum, of which the touched rows are remembered."""
        totals = self.engine.sum(query, round=round, phase=phase, clip=clip)
        self._touched = {name: total.abs().sum(dim=1) > 0 for name, total in totals.sums.items()}
        return totals

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """The engine's answers."""
        return self.engine.answers(query, round=round, phase=phase, clip=clip)

    def noise(
        self, shape: Sequence[int], sigma: float, clip: float, *, symmetric: bool, source: NoiseSource, purpose: str
    ) -> Tensor:
        """Zero where nobody was; in a symmetric table an entry is touched if its row is and its column is."""
        noise = self.mechanism.noise(shape, sigma, clip, symmetric=symmetric, source=source, purpose=purpose)
        touched = self._touched[purpose.rpartition("/")[2]].to(noise)
        noise *= touched.unsqueeze(1)
        return noise * touched if symmetric else noise


def with_defect(defect: Defect, engine: Engine) -> tuple[Engine, Mechanism]:
    """The engine and the mechanism of a private engine with a defect. "unmerged" is one of queries: see `Repeated`."""
    if defect == "weak-noise":
        return engine, WeakNoise()
    if defect == "no-clip":
        return Unclipped(engine), Gaussian()
    if defect == "touched-rows":
        touched = TouchedRows(engine)
        return touched, touched
    return engine, Gaussian()


def repeated(query: Query, times: int, defect: Defect) -> Query:
    """A query as users with repeated interactions answer it, soundly or not."""
    return query if times == 1 else Repeated(query, times, merged=defect != "unmerged")
