"""`ReferenceEngine`: the slow and obvious engine, for debugging and for holding the fast one to account.

One client at a time, in a plain loop; answers are dense tables; private state is a dictionary by user. Nothing is
batched, chunked or shared with `LocalEngine` but the queries themselves and the settings.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fedrec.errors import ConfigError
from fedrec.federated.answers import MISFIT, NOT_FINITE, Answer
from fedrec.federated.cohort import Cohort, Devices, State
from fedrec.federated.contribution import Contribution, Outer, Rows
from fedrec.federated.engine import Totals
from fedrec.federated.participation import ParticipationConfig
from fedrec.federated.query import Query
from fedrec.privacy import Clip
from fedrec.streams import Streams

Tables = Mapping[str, Tensor]
"""name -> [rows, width], dense."""


class _RefusedError(Exception):
    """A client's answer breaks the contract; the message is the reason."""


class ReferenceEngine:
    """All users in this process, one after the other.

    Args:
        devices: the population.
        streams: of the run; their round is set here.
        participation: who takes part in a round.
        sample: streams that participants are drawn from; None takes those of the run.
    """

    def __init__(
        self,
        devices: Devices,
        streams: Streams,
        participation: ParticipationConfig | None = None,
        *,
        sample: Streams | None = None,
    ) -> None:
        self.devices = devices
        self.streams = streams
        self.participation = participation or ParticipationConfig()
        self._sample = streams if sample is None or self.participation.sampling == "cyclic" else sample
        self._silo: list[int] = list(range(len(devices))) if devices.silo is None else devices.silo.tolist()
        self._committed = (0, 0)
        self._memory: dict[str, dict[int, Tensor | tuple[Tensor, Tensor]]] = {}
        self._before: dict[str, dict[int, Tensor | tuple[Tensor, Tensor]]] = {}
        self._late: dict[tuple[int, int], list[tuple[str, int, Tables]]] = {}
        self._sent: tuple[int, list[tuple[Tensor, int]]] = (0, [])

    @property
    def expected(self) -> float:
        """q|U|."""
        clients = len(set(self._silo))
        share = self.participation.rate
        if self.participation.sampling == "fixed":
            share = _fixed_size(share, clients) / clients
        return share * len(self.devices)

    @property
    def silos(self) -> bool:
        """Whether clients are silos."""
        return self.devices.silo is not None

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """As `LocalEngine.sum`."""
        drawn, on_time, late = self._draw(query, round)
        dtype = query.dtype if clip is None else torch.float64
        device = self.devices.items.device
        sums = {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in query.tables.items()}
        answered, clipped, delayed, arrived, bytes_up = 0, 0, 0, 0, 0
        refused = Counter[str]()
        arrivals = self._late.get((round, phase), [])
        self._begin((round, phase))
        sent: list[tuple[str, int, Tables]] = []
        try:
            for client in on_time + late:
                users = self._users(client)
                try:
                    contributions, size = self._ask(users, query, round)
                except _RefusedError as reason:
                    refused[str(reason)] += len(users)
                    continue
                bytes_up += size
                tables, was_clipped = _clipped(contributions, clip)
                if was_clipped and (client in on_time or self.participation.late == "fold"):
                    clipped += len(users)
                if client in late:
                    delayed += len(users)
                    sent.append((query.kind, len(users), tables))
                else:
                    answered += len(users)
                    for name, table in tables.items():
                        sums[name] += table
        except BaseException:
            self._memory = self._before
            raise
        for kind, users_late, tables in arrivals:
            if kind == query.kind and {name: tuple(table.shape) for name, table in tables.items()} == query.tables:
                arrived += users_late
                for name, table in tables.items():
                    sums[name] += table
        if self.participation.late == "fold" and late:
            self._late[round + self.participation.delay, phase] = sent
        return Totals(
            sums, answered, clipped, dict(refused), bytes_up, self._bytes_down(query, round, drawn), delayed, arrived
        )

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """As `LocalEngine.answers`; the contributions are whole tables."""
        if self.participation.late == "fold" and self.participation.straggler > 0:
            raise ConfigError("single answers cannot be folded in late; set participation.late = 'discard'")
        _, on_time, late = self._draw(query, round)
        self._begin((round, phase))
        try:
            for client in on_time + late:
                users = self._users(client)
                answer: Mapping[str, Contribution] = {}
                reason, clipped = "", False
                try:
                    tables, clipped = _clipped(self._ask(users, query, round)[0], clip)
                    answer = {name: _as_rows(table) for name, table in tables.items()}
                except _RefusedError as refusal:
                    reason = str(refusal)
                if client not in late:
                    yield Answer(users[0], int(self.devices.keys[users].min()), answer, refused=reason, clipped=clipped)
        except BaseException:
            self._memory = self._before
            raise

    def look(self, users: Tensor, query: Query) -> tuple[Cohort, State]:
        """As `LocalEngine.look`."""
        return self.devices.cohort(users), self._recall(users.tolist(), query)

    def tensors(self) -> dict[str, Tensor]:
        """One or two tensors for each user and name, and the tables that are on their way."""
        saved = {"committed": torch.tensor(self._committed)}
        for name, by_user in self._memory.items():
            for user, held in by_user.items():
                if isinstance(held, Tensor):
                    saved[f"dense/{name}/{user}"] = held
                else:
                    saved[f"index/{name}/{user}"], saved[f"value/{name}/{user}"] = held
        for (round, phase), answers in self._late.items():
            for number, (kind, users, tables) in enumerate(answers):
                for name, table in tables.items():
                    saved[f"late/{round}/{phase}/{number}/{users}/{kind}/{name}"] = table
        return saved

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The counterpart of `tensors`."""
        round, phase = tensors["committed"].tolist()
        self._committed, self._memory, self._late = (round, phase), {}, {}
        late: dict[tuple[int, int], dict[int, tuple[str, int, dict[str, Tensor]]]] = {}
        for key, tensor in tensors.items():
            sort, *rest = key.split("/")
            if sort in ("dense", "index"):
                name, user = rest
                held = tensor if sort == "dense" else (tensor, tensors[f"value/{name}/{user}"])
                self._memory.setdefault(name, {})[int(user)] = held
            elif sort == "late":
                arrival = int(rest[0]), int(rest[1])
                answer = late.setdefault(arrival, {}).setdefault(int(rest[2]), (rest[4], int(rest[3]), {}))
                answer[2][rest[5]] = tensor
        self._late = {arrival: [by_number[n] for n in sorted(by_number)] for arrival, by_number in late.items()}
        self._before = self._memory

    def _begin(self, moment: tuple[int, int]) -> None:
        if moment < self._committed:
            raise ConfigError(f"round {moment[0]}, phase {moment[1]} was asked for after {self._committed}")
        if moment == self._committed:
            self._memory = self._before
        self._before = {name: dict(by_user) for name, by_user in self._memory.items()}
        self._committed = moment

    def _users(self, client: int) -> list[int]:
        return [user for user, silo in enumerate(self._silo) if silo == client]

    def _draw(self, query: Query, round: int) -> tuple[int, list[int], list[int]]:
        """How many clients take part, and those of them that answer in time and late."""
        config, streams, clients = self.participation, self._sample.at(round), sorted(set(self._silo))
        if query.everyone:
            return len(clients), clients, []
        keys = {client: self.devices.keys[self._users(client)].min() for client in clients}
        if config.sampling == "fixed":
            size = _fixed_size(config.rate, len(clients))
            drawn = sorted(clients, key=lambda client: int(streams.words("participation", keys[client])))[:size]
        elif config.sampling == "cyclic":
            cycle, first = int(1 / config.rate + 0.5), streams.at(0)
            drawn = [c for c in clients if int(cycle * float(first.uniform("cycle", keys[c]))) == round % cycle]
        else:
            drawn = [c for c in clients if float(streams.uniform("participation", keys[c])) < config.rate]
        left = [c for c in sorted(drawn) if float(streams.uniform("dropout", keys[c])) >= config.dropout]
        late = [c for c in left if float(streams.uniform("straggler", keys[c])) < config.straggler]
        return len(drawn), [c for c in left if c not in late], late

    def _ask(self, users: list[int], query: Query, round: int) -> tuple[Tables, int]:
        """A client's answer as dense tables in double precision, and its size in bytes; the users remember."""
        everyone = torch.tensor(users, device=self.devices.keys.device)
        cohort = self.devices.cohort(everyone, query.held_out)
        contributions, state = query.contribute(cohort, self._recall(users, query), self.streams.at(round))
        if set(contributions) != set(query.tables):
            raise _RefusedError(f"tables {sorted(contributions)} instead of {sorted(query.tables)}")
        tables, size = {}, 0
        for name, part in contributions.items():
            table, part_size = _dense(part, len(users), query.tables[name])
            tables[name], size = table.to(everyone.device), size + part_size
        if not all(math.isfinite(float(table.norm())) for table in tables.values()):
            raise _RefusedError(NOT_FINITE)
        for name, values in state.dense.items():
            for place, user in enumerate(users):
                self._memory.setdefault(name, {})[user] = values[place]
        for name, rows in state.ragged.items():
            for place, user in enumerate(users):
                own = rows.owner == place
                self._memory.setdefault(name, {})[user] = rows.index[own], rows.value[own]
        return tables, size

    def _recall(self, users: list[int], query: Query) -> State:
        """What each user remembers, or starts with."""
        dense: dict[str, list[Tensor]] = {}
        ragged: dict[str, list[Rows]] = {}
        for place, user in enumerate(users):
            alone = self.devices.cohort(torch.tensor([user], device=self.devices.keys.device))
            for name in query.private:
                held = self._memory.get(name, {}).get(user)
                if held is None:
                    initial = query.initial(alone, self.streams.at(0))
                    if name in initial.dense:
                        held = initial.dense[name][0]
                    else:
                        held = initial.ragged[name].index, initial.ragged[name].value
                if isinstance(held, Tensor):
                    dense.setdefault(name, []).append(held)
                else:
                    ragged.setdefault(name, []).append(Rows(torch.full_like(held[0], place), *held))
        return State(
            {name: torch.stack(rows) for name, rows in dense.items()},
            {
                name: Rows(
                    *(torch.cat([getattr(rows, part) for rows in parts]) for part in ("owner", "index", "value"))
                )
                for name, parts in ragged.items()
            },
        )

    def _bytes_down(self, query: Query, round: int, drawn: int) -> int:
        """What the clients download: the tensors that they had from no earlier query of the round."""
        if self._sent[0] != round:
            self._sent = round, []
        size, earlier = 0, list(self._sent[1])
        for tensor in query.broadcast.values():
            have = [clients for old, clients in earlier if tensor.dtype == old.dtype and torch.equal(tensor, old)]
            size += max(0, drawn - max(have, default=0)) * tensor.numel() * tensor.element_size()
            self._sent[1].append((tensor, drawn))
        return size


def _fixed_size(rate: float, clients: int) -> int:
    return min(clients, max(1, round(rate * clients)))


def _dense(part: Contribution, n_users: int, shape: tuple[int, int]) -> tuple[Tensor, int]:
    """A client's answer to one table, [rows, width] float64, and what it takes to send."""
    outer = isinstance(part, Outer)
    values = part.value.unsqueeze(1) if outer else part.value
    width = 1 if outer else shape[1]
    if values.dtype not in (torch.float32, torch.float64) or values.shape != (len(part.owner), width):
        raise _RefusedError(MISFIT)
    by_user = [torch.zeros(shape[0], width, dtype=torch.float64) for _ in range(n_users)]
    last = (-1, -1)
    for owner, index, value in zip(part.owner.tolist(), part.index.tolist(), values.double().cpu(), strict=True):
        if not 0 <= owner < n_users:
            raise _RefusedError(MISFIT)
        if not 0 <= index < shape[0]:
            raise _RefusedError("an unknown row")
        if (owner, index) <= last:
            raise _RefusedError("rows repeated or out of order")
        last = owner, index
        by_user[owner][index] = value
    touched = len(set(part.index.tolist()))
    if outer and n_users == 1:
        return by_user[0] @ by_user[0].T, touched * (4 + part.value.element_size())
    tables = [vector @ vector.T for vector in by_user] if outer else by_user
    return torch.stack(tables).sum(dim=0), touched * (4 + shape[1] * part.value.element_size())


def _clipped(tables: Tables, clip: Clip | None) -> tuple[Tables, bool]:
    """The tables, scaled so that their norm is at most the clip, together or each, and whether that changed them."""
    if clip is not None and clip.tables:
        each = {name: _clipped({name: table}, Clip(dict(clip.tables)[name])) for name, table in tables.items()}
        return {name: part[0][name] for name, part in each.items()}, any(changed for _, changed in each.values())
    norm = math.sqrt(sum(float(table.square().sum()) for table in tables.values()))
    if clip is None or norm <= clip.norm:
        return tables, False
    return {name: table * (clip.norm / norm) for name, table in tables.items()}, True


def _as_rows(table: Tensor) -> Rows:
    index = torch.arange(len(table), device=table.device)
    return Rows(torch.zeros_like(index), index, table)
