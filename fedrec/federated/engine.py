"""`Engine`: who adds up the answers to a query. `LocalEngine` does it in this process.

It draws participants once a round, walks them in chunks sized to the cache, on as many cores as torch may use, folds
each chunk into the running total and forgets it: memory is O(cores · chunk + tables + private state), not O(cohort).
Chunks are folded in order, so that no sum depends on which of them is done first.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeGuard

import torch
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.errors import ConfigError
from fedrec.federated.answers import FAILED, Answer, CannotTellApart, Examined, examine, refuse_all, told_apart
from fedrec.federated.cohort import NO_STATE, Cohort, Devices, State
from fedrec.federated.contribution import Contribution
from fedrec.federated.cores import in_order
from fedrec.federated.costs import Broadcasts
from fedrec.federated.late import Late, Pending
from fedrec.federated.memory import PrivateMemory
from fedrec.federated.participation import Participants, ParticipationConfig, participants
from fedrec.federated.query import Query
from fedrec.privacy import Clip, Randomness, scales_by_table
from fedrec.streams import Streams

_log = logging.getLogger(__name__)

CHUNK_BYTES = 8 << 20  # measured: with 1 MiB of second-level cache a core, 1 MiB takes a third longer and 16 no less


class EngineConfig(Config):
    """Where a federated computation runs.

    Attributes:
        kind: "local", in this process; "reference", too, one client at a time and very slow, for debugging; "ray", on
            Flower's simulation, each node holding a shard of the users; "flower", on a Flower SuperLink, whose
            SuperNodes hold their own users.
        nodes: shards of "ray"; SuperNodes of "flower" that are waited for before a run begins.
        superlink: the SuperLink of "flower", "host:port", or a connection in Flower's own configuration.
        catalogue: of "flower": the public catalogue, on the SuperLink's machine, by which items and users are
            grouped when a model is tested; None groups them by what was counted alone.
        address: of a Ray cluster that "ray" joins; None starts Ray on this machine.
        timeout: seconds that a node's answer is waited for; who has not answered then is left out of that sum.
        device: "cpu", "cuda" or "auto" (CUDA where there is one).
        precision: of the tables and of the devices' arithmetic.
        randomness: "seeded" for simulation; "os" draws noise and participants from the operating system.
    """

    kind: Literal["local", "reference", "ray", "flower"] = "local"
    nodes: int = Field(2, ge=1)
    superlink: str | None = None
    catalogue: str | None = None
    address: str | None = None
    timeout: float = Field(600.0, gt=0)
    device: str = "auto"
    precision: Literal["float32", "float64"] = "float32"
    randomness: Randomness = "seeded"

    @property
    def dtype(self) -> torch.dtype:
        """`precision` as torch names it."""
        return torch.float64 if self.precision == "float64" else torch.float32


@dataclass(frozen=True, eq=False)
class Totals:
    """What a sum query returns, and what it cost. A client of several users counts as all of them.

    Attributes:
        sums: name -> [rows, width], the summed contributions.
        answered: users of this round whose contribution is in the sums.
        clipped: users whose contribution, in these sums or folded into later ones, was scaled down.
        refused: reason -> number of users left out for it.
        bytes_up, bytes_down: sent by and to all participants together, see `Broadcasts`.
        delayed: users whose answer to this query comes late, and is not in the sums.
        late: users whose late answer to an earlier round is in the sums.
        noised: whether the sums are private releases; a method then sees no other number.
        nodes: of a federation that were asked; 0 where users are asked in this process.
        failed: reason -> number of nodes whose answer is not in the sums.
    """

    sums: Mapping[str, Tensor]
    answered: int = 0
    clipped: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    delayed: int = 0
    late: int = 0
    noised: bool = False
    nodes: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)


class Engine(Protocol):
    """Adds up contributions; the only way from a method to the users."""

    @property
    def participation(self) -> ParticipationConfig:
        """Who takes part in a round."""

    @property
    def expected(self) -> float:
        """q|U|, the expected number of users who take part, which sums are divided by."""

    @property
    def silos(self) -> bool:
        """Whether a client may be several users, so that nothing can be promised to a single one."""

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The sum of the participants' contributions, each scaled to the clip."""

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """The participants' single answers, refused where a guarantee promises sums only."""


class OverEngine:
    """What stands over an engine has its users: who takes part, how many are expected, and what a client is.

    Attributes:
        engine: the one below.
    """

    engine: Engine

    @property
    def participation(self) -> ParticipationConfig:
        """The engine's."""
        return self.engine.participation

    @property
    def expected(self) -> float:
        """The engine's."""
        return self.engine.expected

    @property
    def silos(self) -> bool:
        """The engine's."""
        return self.engine.silos


class Population(Engine, Protocol):
    """An engine whose users can be rolled back to a checkpoint."""

    def tensors(self) -> dict[str, Tensor]:
        """What rolls the users back: their private state and the answers on their way, or where nodes keep them."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Roll the users back to a checkpoint."""


class Simulation(Population, Protocol):
    """An engine whose users are at hand, so that what stays on their devices can be computed here."""

    @property
    def devices(self) -> Devices:
        """The population."""

    def look(self, users: Tensor, query: Query) -> tuple[Cohort, State]:
        """What some users' devices hold, for computations that stay on them (scoring): nothing of it is released."""


def is_simulation(population: Engine) -> TypeGuard[Simulation]:
    """Whether an engine's users are at hand."""
    return hasattr(population, "look")


@dataclass(eq=False)
class _Tally:
    """A sum while it is being added up."""

    sums: dict[str, Tensor]
    answered: int = 0
    clipped: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    sent: int = 0


class LocalEngine:
    """All users in this process.

    Args:
        devices: the population.
        streams: of the run; their round is set here.
        participation: who takes part in a round.
        sample: streams that participants are drawn from; None takes those of the run. Amplification by sampling needs
            one that nobody who sees a release can know.
        chunk_bytes: working memory of one chunk of users.
        threads: chunks that are answered at a time; None is as many as torch may use (`torch.get_num_threads`).
        refuses_failures: whether a client whose answer cannot be computed is refused like one whose answer breaks the
            contract, and the failure is logged here. It may depend on what the client holds, and whoever asks would see
            it if it were raised.
    """

    def __init__(
        self,
        devices: Devices,
        streams: Streams,
        participation: ParticipationConfig | None = None,
        *,
        sample: Streams | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        threads: int | None = None,
        refuses_failures: bool = False,
    ) -> None:
        self.devices = devices
        self.streams = streams
        self.participation = participation or ParticipationConfig()
        self.memory = PrivateMemory(len(devices))
        self._pending = Pending()
        self._broadcasts = Broadcasts()
        # Cycles hide nobody, and must be the same ones after a run was interrupted, when a secret sample is another.
        self._sample = streams if sample is None or self.participation.sampling == "cyclic" else sample
        self._chunk_bytes = chunk_bytes
        self._threads = threads
        self._refuses_failures = refuses_failures
        self._drawn: tuple[int, Participants] | None = None

    @property
    def expected(self) -> float:
        """q|U|."""
        return self.participation.expected_share(len(self.devices.client_keys)) * len(self.devices)

    @property
    def silos(self) -> bool:
        """Whether clients are silos."""
        return self.devices.silo is not None

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The sum of the participants' contributions, each client's scaled to the clip.

        A client whose answer breaks the query's contract is refused and counted, keeps its private state, and the round
        goes on without it. A query asked again under the same (round, phase) returns the same sum. Under a clip sums
        are in double precision, whatever the query's: rounding in single can add to a user's influence.
        """
        drawn = self._participants(query, round)
        arrived = self._pending.arriving(query, (round, phase))
        with self.memory.transaction((round, phase)):
            tally = self._fold(drawn.on_time, query, round, clip)
            behind = self._fold(drawn.late, query, round, clip) if len(drawn.late) else _Tally({})
        if self.participation.late == "fold" and len(drawn.late):
            late = Late(query.kind, behind.sums, behind.answered)
            self._pending.send((round + self.participation.delay, phase), late)
        if arrived is not None:
            for name, total in tally.sums.items():
                total += arrived.sums[name]
        return Totals(
            tally.sums,
            answered=tally.answered,
            clipped=tally.clipped + (behind.clipped if self.participation.late == "fold" else 0),
            refused=dict(tally.refused + behind.refused),
            bytes_up=tally.sent + behind.sent,
            bytes_down=self._broadcasts.bytes(query, round, drawn.drawn),
            delayed=behind.answered,
            late=0 if arrived is None else arrived.answered,
        )

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """Each client's answer, one at a time, scaled to the clip. Stopping before the last takes the query back.

        Refused answers are among them, without a contribution; those that come late are not.

        Raises:
            ConfigError: if late answers are to be folded into a later sum, of which single answers know nothing.
        """
        if self.participation.late == "fold" and self.participation.straggler > 0:
            raise ConfigError(
                f"query '{query.kind}' asks for single answers, and participation.late = 'fold' adds late ones to a "
                "later sum; set late = 'discard'"
            )
        drawn = self._participants(query, round)
        with self.memory.transaction((round, phase)):
            for users in self._chunks(drawn.on_time, None):
                for asked, found, state in self._asked(users, query, round):
                    self.memory.write(asked[found.users], state)
                    key = int(self.devices.keys[asked].min())
                    if found.refused:
                        yield Answer(int(asked[0]), key, {}, refused=next(iter(found.refused)))
                        continue
                    contributions, clipped = found.contributions, False
                    if clip is not None:
                        scale = scales_by_table(found.squared_norms, clip)
                        contributions = {name: part.scaled(scale[name]) for name, part in contributions.items()}
                        clipped = any(float(factors) < 1 for factors in scale.values())
                    yield Answer(int(asked[0]), key, contributions, clipped=clipped)
            self._fold(drawn.late, query, round, clip)  # for their private state alone

    def taking_part(self, round: int) -> int:
        """How many clients are drawn in a round and answer in time, be it with an answer that is refused."""
        return len(self._draw(round).on_time)

    def users_taking_part(self, round: int) -> Tensor:
        """[m] int64 positions of the users of those clients."""
        return self.devices.members(self._draw(round).on_time)

    def look(self, users: Tensor, query: Query) -> tuple[Cohort, State]:
        """The users as a cohort, and their state."""
        cohort = self.devices.cohort(users)
        return cohort, self._remember(users, cohort, query)

    def tensors(self) -> dict[str, Tensor]:
        """Private state and answers on their way."""
        return self.memory.tensors() | self._pending.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The counterpart of `tensors`."""
        self.memory.restore({name: tensor for name, tensor in tensors.items() if not name.startswith("late/")})
        self._pending.restore(tensors)

    def _participants(self, query: Query, round: int) -> Participants:
        """The round's draw."""
        if query.everyone:
            everyone = torch.arange(len(self.devices.client_keys), device=self.devices.keys.device)
            return Participants(len(everyone), everyone, everyone[:0])
        return self._draw(round)

    def _draw(self, round: int) -> Participants:
        if self._drawn is None or self._drawn[0] != round:
            drawn = participants(self.participation, self.devices.client_keys, self._sample.at(round))
            self._drawn = (round, drawn)
        return self._drawn[1]

    def _fold(self, clients: Tensor, query: Query, round: int, clip: Clip | None) -> _Tally:
        """Ask some clients, chunk by chunk, and add up what they answer."""
        dtype, device = query.dtype if clip is None else torch.float64, self.devices.items.device
        # Late answers wait in checkpoints, which hold dense tensors alone.
        sparse = query.sparse if clip is None and self.participation.late != "fold" else frozenset()
        layouts = {name: torch.sparse_coo if name in sparse else torch.strided for name in query.tables}
        tally = _Tally(
            {
                name: torch.zeros(shape, dtype=dtype, device=device, layout=layouts[name])
                for name, shape in query.tables.items()
            }
        )
        chunks = self._chunks(clients, query.bytes_per_interaction)
        threads = 1 if device.type != "cpu" else self._threads or torch.get_num_threads()
        for answered in in_order(lambda chunk: list(self._asked(chunk, query, round)), chunks, threads):
            for users, found, state in answered:
                tally.refused.update(found.refused)
                scale: Mapping[str, Tensor] = {}
                if clip is not None and found.contributions:
                    scale = scales_by_table(found.squared_norms, clip)
                    clipped = torch.stack([factors < 1 for factors in scale.values()]).any(dim=0)
                    tally.clipped += int(found.sizes[clipped].sum())
                for name, part in found.contributions.items():
                    part.add_to(tally.sums[name], scale.get(name))
                    tally.sent += part.bytes()
                tally.answered += len(found.users)
                self.memory.write(users[found.users], state)
        return tally

    def _asked(self, users: Tensor, query: Query, round: int) -> Iterator[tuple[Tensor, Examined, State]]:
        """The users of whole clients, what they answer, and the new state of those who are not refused.

        Where one client's fault keeps the answers from being told apart, each client is asked by itself.
        """
        cohort = self.devices.cohort(users, query.held_out)
        state = NO_STATE
        try:
            contributions, state = self._contributed(users, cohort, query, round)
            found = examine(query, cohort, contributions)
        except CannotTellApart as fault:
            if cohort.n_clients > 1:
                for own in told_apart(cohort):
                    yield from self._asked(users[own], query, round)
                return
            found = refuse_all(cohort, str(fault))
        yield users, found, state if len(found.users) == len(users) else state.take(found.users)

    def _contributed(
        self, users: Tensor, cohort: Cohort, query: Query, round: int
    ) -> tuple[Mapping[str, Contribution], State]:
        """What users answer, and their new state.

        Raises:
            CannotTellApart: if that fails, and failures are to be refused.
        """
        try:
            return query.contribute(cohort, self._remember(users, cohort, query), self.streams.at(round))
        except Exception as failure:
            if not self._refuses_failures:
                raise
            _log.warning("query '%s', round %d: an answer cannot be computed", query.kind, round, exc_info=True)
            raise CannotTellApart(FAILED) from failure

    def _remember(self, users: Tensor, cohort: Cohort, query: Query) -> State:
        return self.memory.read(users, query.private, lambda: query.initial(cohort, self.streams.at(0)))

    def _chunks(self, clients: Tensor, bytes_per_interaction: int | None) -> list[Tensor]:
        """Users of consecutive clients whose interactions together fill the chunk's memory, at least one client each.

        None makes a chunk of every client.
        """
        if not len(clients):
            return []
        users = self.devices.members(clients)
        degrees = self.devices.indptr[users + 1] - self.devices.indptr[users]
        if bytes_per_interaction is None:
            label = torch.arange(len(users), device=users.device)
        else:
            label = torch.cumsum(degrees + 1, dim=0) // max(1, self._chunk_bytes // max(1, bytes_per_interaction))
        if self.devices.silo is not None:  # the whole silo goes where its first user goes
            _, client, sizes = torch.unique_consecutive(
                self.devices.silo[users], return_inverse=True, return_counts=True
            )
            label = label[sizes.cumsum(0) - sizes][client]
        sizes = torch.unique_consecutive(label, return_counts=True)[1]
        return list(torch.split(users, sizes.tolist()))
