"""A population of known users and canaries, as an engine, and what an observer keeps of either.

What a canary does that is out depends on the neighbours that a guarantee is about: it is not there (server trusted), it
answers zeros (noise that clients share, where the server sees who takes part), or it answers something else, as far
from what it would have answered as can be (noise on single answers).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from scipy.sparse import csr_array
from torch import Tensor

from fedrec.attacks.evidence import sparse_rows
from fedrec.attacks.repeated import AskedOtherwise, repeated
from fedrec.federated import (
    Answer,
    Cohort,
    Contribution,
    Devices,
    LocalEngine,
    Outer,
    ParticipationConfig,
    Query,
    Rows,
    State,
    Totals,
)
from fedrec.federated.answers import examine
from fedrec.federated.private_sums import Asked
from fedrec.privacy import BIT, BIT_CLIP, Clip, scales_by_table
from fedrec.streams import Streams


@dataclass(eq=False)
class Crowd:
    """The sum over the known users and the canaries that take part; that over the known ones is kept.

    Attributes:
        known: who adds up the known users.
        planted: who adds up the canaries that take part.
        clients: the known users as the guarantee sees them, silos included.
        expected: the public number that sums are divided by, whatever the coins say.
        zeros: [m] bool, canaries that answer zeros; none where those that are out are not there.
        members: users of each canary.
        sums: of the known users, of the last query, and of their clip bits.
    """

    known: LocalEngine
    planted: LocalEngine
    clients: Devices
    expected: float
    zeros: Tensor
    members: int
    sums: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def participation(self) -> ParticipationConfig:
        """Of both."""
        return self.known.participation

    @property
    def silos(self) -> bool:
        """Whether clients are silos."""
        return self.clients.silo is not None

    @property
    def devices(self) -> Devices:
        """The known users."""
        return self.clients

    def look(self, users: Tensor, query: Query) -> tuple[Cohort, State]:
        """What the known users' devices hold."""
        return self.known.look(users, query)

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """Both together."""
        known = self._known(query, round, phase, clip)
        planted = self.planted.sum(query, round=round, phase=phase, clip=clip)
        return Totals(
            {name: total + planted.sums[name] for name, total in known.sums.items()},
            answered=known.answered + planted.answered,
            clipped=known.clipped + planted.clipped,
        )

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """The known users' answers, then the canaries'."""
        self._known(query, round, phase, clip)
        yield from self.known.answers(query, round=round, phase=phase, clip=clip)
        for answer in self.planted.answers(query, round=round, phase=phase, clip=clip):
            zero = len(self.zeros) > 0 and bool(self.zeros[answer.user // self.members])
            yield _nothing(answer) if zero else answer

    def _known(self, query: Query, round: int, phase: int, clip: Clip | None) -> Totals:
        totals = self.known.sum(query, round=round, phase=phase, clip=clip)
        bits = torch.full((1, 1), BIT_CLIP * totals.answered - totals.clipped, dtype=torch.float64)
        self.sums = {**totals.sums, BIT: bits}
        return totals


def _nothing(answer: Answer) -> Answer:
    """Zeros in place of an answer and of its clip bit."""
    nothing = torch.zeros(1, dtype=torch.float64)
    bit = torch.zeros(1, dtype=torch.int64)
    contributions = {name: part.scaled(nothing) for name, part in answer.contributions.items()}
    return replace(answer, contributions={**contributions, BIT: Rows(bit, bit, nothing.unsqueeze(1))})


class _Recorded(AskedOtherwise):
    """A query whose contributions are kept as they were made, one cohort after the other."""

    def __init__(self, inner: Query) -> None:
        super().__init__(inner)
        self.contributions: list[tuple[Cohort, Mapping[str, Contribution]]] = []

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """The same, kept."""
        contributions, state = self.inner.contribute(cohort, state, draw)
        self.contributions.append((cohort, contributions))
        return contributions, state


@dataclass(eq=False)
class Shadows:
    """The canaries' devices, as the observer keeps them: each answers every query that is asked as the canary would.

    Attributes:
        engine: over all canaries, in or not, on one thread. It draws participants as the arm does where the sample can
            be seen, and asks everyone where it is hidden.
        members: users of each canary.
        times: how often each interaction was recorded.
    """

    engine: LocalEngine
    members: int
    times: int

    def __len__(self) -> int:
        return len(self.engine.devices) // self.members

    def answers(self, asked: Asked) -> dict[str, csr_array]:
        """Table -> [m, rows · width], what each would add to a release, clipped; clip bits are a table of one entry."""
        query = _Recorded(repeated(asked.query, self.times, merged=True))
        self.engine.sum(query, round=asked.round, phase=asked.phase, clip=asked.clip)
        parts: dict[str, list[tuple[Tensor, Contribution]]] = {name: [] for name in (*query.tables, BIT)}
        for cohort, contributions in query.contributions:
            found, numbers = examine(query, cohort, contributions), self._numbers(cohort)
            scale = scales_by_table(found.squared_norms, asked.clip)
            for name, part in found.contributions.items():
                parts[name].append((numbers, part.scaled(scale[name])))
            clipped = torch.stack([factors < 1 for factors in scale.values()]).any(dim=0)
            bits, clients = torch.where(clipped, -BIT_CLIP, BIT_CLIP).double(), torch.arange(len(numbers))
            parts[BIT].append((numbers, Rows(clients, torch.zeros_like(clients), bits.unsqueeze(1))))
        return {name: sparse_rows(some, len(self), asked.shapes[name]) for name, some in parts.items()}

    def _numbers(self, cohort: Cohort) -> Tensor:
        """[clients] which canary each of a cohort's clients is."""
        keys, order = self.engine.devices.keys.sort()
        user = order[torch.searchsorted(keys, cohort.keys)]
        first = torch.searchsorted(cohort.client, torch.arange(cohort.n_clients))
        return user[first] // self.members


@dataclass(eq=False)
class OneAnswer:
    """An engine of one client.

    Attributes:
        answer: what it would send, not clipped.
        otherwise: whether it sends the opposite of that.
        participation, expected, silos: as any engine has them.
    """

    answer: Answer
    otherwise: bool
    participation: ParticipationConfig = field(default_factory=ParticipationConfig)
    expected: float = 1.0
    silos: bool = False

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The answer, as a sum of one."""
        (answer,) = self.answers(query, round=round, phase=phase, clip=clip)
        sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in query.tables.items()}
        for name, part in answer.contributions.items():
            part.add_to(sums[name], None)
        return Totals(sums, answered=1, clipped=int(answer.clipped))

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """The answer, clipped."""
        contributions = self.answer.contributions
        clipped = False
        if clip is not None:
            norms = {name: part.squared_norms(1) for name, part in contributions.items()}
            scale = scales_by_table(norms, clip)
            contributions = {name: part.scaled(scale[name]) for name, part in contributions.items()}
            clipped = any(float(factors) < 1 for factors in scale.values())
        if self.otherwise:
            contributions = {name: opposite(part, query.tables[name][1]) for name, part in contributions.items()}
        yield replace(self.answer, contributions=contributions, clipped=clipped)


def opposite(part: Contribution, width: int) -> Contribution:
    """The answer that is farthest from one client's, but for its last row, which is left out if it is not the only one.

    Turned about, an answer touches the same rows; without one of them it shows noise that is on touched rows alone.

    Args:
        part: under one owner.
        width: of the table.
    """
    kept = max(1, len(part.index) - 1)
    owner, index, value = part.owner[:kept], part.index[:kept], part.value[:kept].double()
    if isinstance(part, Outer):
        square = value.new_zeros(len(index), width)
        square[:, index] = torch.outer(value, value)
        value = square
    return Rows(owner, index, -value)
