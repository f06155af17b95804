"""`Engine`: who adds up the answers to a query. `LocalEngine` does it in this process.

It draws participants once a round, walks them in chunks sized to the cache, folds each chunk into the running total and
forgets it: memory is O(chunk + tables + private state), not O(cohort).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from fedrec.components import Config
from fedrec.federated.cohort import Cohort, Devices, State
from fedrec.federated.contribution import Contribution
from fedrec.federated.memory import PrivateMemory
from fedrec.federated.participation import ParticipationConfig, participants
from fedrec.federated.query import Query
from fedrec.privacy import Clip, scales
from fedrec.streams import Streams

CHUNK_BYTES = 8 << 20  # measured: with 2 MiB of second-level cache a core, 1 MiB takes twice as long and 16 no less


class EngineConfig(Config):
    """Where a federated computation runs.

    Attributes:
        kind: "local", in this process.
        device: "cpu", "cuda" or "auto" (CUDA where there is one).
        precision: of the tables and of the devices' arithmetic.
        randomness: "seeded" for simulation; "os" draws noise and participants from the operating system.
    """

    kind: Literal["local"] = "local"
    device: str = "auto"
    precision: Literal["float32", "float64"] = "float32"
    randomness: Literal["seeded", "os"] = "seeded"

    @property
    def dtype(self) -> torch.dtype:
        """`precision` as torch names it."""
        return torch.float64 if self.precision == "float64" else torch.float32


@dataclass(frozen=True, eq=False)
class Totals:
    """What a sum query returns, and what its round cost.

    Attributes:
        sums: name -> [rows, width], the summed contributions.
        answered: users whose contribution is in the sums.
        clipped: users whose contribution was scaled down.
        refused: reason -> number of users left out for it.
        bytes_up, bytes_down: sent by and to all participants together.
        noised: whether the sums are private releases; a method then sees no other number.
    """

    sums: Mapping[str, Tensor]
    answered: int = 0
    clipped: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    noised: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """One user's contribution, for methods, attacks and defences that need single answers."""

    user: int
    contributions: Mapping[str, Contribution]


class Engine(Protocol):
    """Adds up contributions; the only way from a method to the users."""

    @property
    def participation(self) -> ParticipationConfig:
        """Who takes part in a round."""

    @property
    def expected(self) -> float:
        """q|U|, the expected number of participants, which sums are divided by."""

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The sum of the participants' contributions, each scaled to the clip."""

    def answers(self, query: Query, *, round: int, phase: int = 0) -> Iterator[Answer]:
        """The participants' single contributions, refused where a guarantee promises sums only."""


class LocalEngine:
    """All users in this process.

    Args:
        devices: the population.
        streams: of the run; their round is set here.
        participation: who takes part in a round.
        sample: streams that participants are drawn from; None takes those of the run. Amplification by sampling needs
            one that nobody who sees a release can know.
        chunk_bytes: working memory of one chunk of users.
    """

    def __init__(
        self,
        devices: Devices,
        streams: Streams,
        participation: ParticipationConfig | None = None,
        *,
        sample: Streams | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.devices = devices
        self.streams = streams
        self.participation = participation or ParticipationConfig()
        self.memory = PrivateMemory(len(devices))
        self._sample = sample or streams
        self._chunk_bytes = chunk_bytes
        self._drawn: tuple[int, Tensor] | None = None

    @property
    def expected(self) -> float:
        """q|U|."""
        return self.participation.rate * len(self.devices)

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The sum of the participants' contributions, each scaled to the clip.

        A user whose answer breaks the query's contract is refused and counted, keeps its private state, and the round
        goes on without it. A query asked again under the same (round, phase) returns the same sum. Under a clip sums
        are in double precision, whatever the query's: rounding in single can add to a user's influence.
        """
        dtype = query.dtype if clip is None else torch.float64
        sums = {
            name: torch.zeros(shape, dtype=dtype, device=self.devices.items.device)
            for name, shape in query.tables.items()
        }
        answered, clipped, sent, refusals = 0, 0, 0, Counter[str]()
        users = self._participants(round)
        with self.memory.transaction((round, phase)):
            for chunk in self._chunks(users, query.bytes_per_interaction):
                contributions, state = self._ask(chunk, query, round)
                squared_norms, refused, reasons = _examine(query, contributions, len(chunk))
                refusals.update(reasons)
                if refused.all():
                    continue
                kept = chunk
                if refused.any():
                    contributions = {name: part.without(refused) for name, part in contributions.items()}
                    honest = torch.nonzero(~refused).flatten()
                    kept, state = chunk[honest], state.take(honest)
                scale: Tensor | None = None
                if clip is not None:
                    scale = scales(squared_norms.masked_fill(refused, 0), clip)
                    clipped += int((scale < 1).sum())
                for name, part in contributions.items():
                    part.add_to(sums[name], scale)
                    sent += part.bytes()
                answered += len(kept)
                self.memory.write(kept, state)
        received = len(users) * sum(tensor.numel() * tensor.element_size() for tensor in query.broadcast.values())
        return Totals(sums, answered, clipped, dict(refusals), sent, received)

    def answers(self, query: Query, *, round: int, phase: int = 0) -> Iterator[Answer]:
        """Each participant's contribution, one user at a time. Stopping before the last takes the query back."""
        with self.memory.transaction((round, phase)):
            for user in self._participants(round):
                contributions, state = self._ask(user.view(1), query, round)
                self.memory.write(user.view(1), state)
                yield Answer(int(user), contributions)

    def look(self, users: Tensor, query: Query) -> tuple[Cohort, State]:
        """What some users' devices hold, for computations that stay on them (scoring): nothing of it is released."""
        cohort = self.devices.cohort(users)
        return cohort, self._remember(users, cohort, query)

    def tensors(self) -> dict[str, Tensor]:
        """The users' private state, for a checkpoint."""
        return self.memory.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Roll the users back to a checkpoint."""
        self.memory.restore(tensors)

    def _participants(self, round: int) -> Tensor:
        if self._drawn is None or self._drawn[0] != round:
            self._drawn = (round, participants(self.participation, self.devices.keys, self._sample.at(round)))
        return self._drawn[1]

    def _ask(self, users: Tensor, query: Query, round: int) -> tuple[Mapping[str, Contribution], State]:
        """The users' contributions and new private state."""
        cohort = self.devices.cohort(users)
        return query.contribute(cohort, self._remember(users, cohort, query), self.streams.at(round))

    def _remember(self, users: Tensor, cohort: Cohort, query: Query) -> State:
        return self.memory.read(users, query.private, lambda: query.initial(cohort, self.streams.at(0)))

    def _chunks(self, users: Tensor, bytes_per_interaction: int) -> list[Tensor]:
        """Consecutive users whose interactions together fill the chunk's memory, at least one user each."""
        if not len(users):
            return []
        degrees = self.devices.indptr[users + 1] - self.devices.indptr[users]
        budget = max(1, self._chunk_bytes // bytes_per_interaction)
        label = torch.cumsum(degrees + 1, dim=0) // budget
        sizes: list[int] = torch.unique_consecutive(label, return_counts=True)[1].tolist()
        return list(torch.split(users, sizes))


def _squared_norms(contributions: Mapping[str, Contribution], n_users: int) -> Tensor:
    parts = [part.squared_norms(n_users) for part in contributions.values()]
    return torch.stack(parts).sum(dim=0)


def _examine(
    query: Query, contributions: Mapping[str, Contribution], n_users: int
) -> tuple[Tensor, Tensor, Mapping[str, int]]:
    """A chunk's squared norms and which of its users are refused, both [n_users], and how many for which reason."""
    reasons: dict[int, str] = {}
    if set(contributions) != set(query.tables):
        reason = f"tables {sorted(contributions)} instead of {sorted(query.tables)}"
        return torch.zeros(n_users), torch.ones(n_users, dtype=torch.bool), {reason: n_users}
    for name, part in contributions.items():
        reasons |= part.faults(n_users, query.tables[name])
    squared_norms = _squared_norms(contributions, n_users)
    finite = torch.isfinite(squared_norms)
    if not finite.all():
        reasons |= dict.fromkeys(torch.nonzero(~finite).flatten().tolist(), "a value that is not finite")
    refused = torch.zeros(n_users, dtype=torch.bool, device=finite.device)
    if reasons:
        refused[list(reasons)] = True
    return squared_norms, refused, Counter(reasons.values())
