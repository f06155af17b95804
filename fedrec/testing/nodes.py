"""Engines that hold a population in parts, and one that keeps what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedrec.federated import Devices, LocalEngine, OverEngine, ParticipationConfig, Query, Rows, State, Totals
from fedrec.federated.answers import Answer
from fedrec.privacy import Clip
from fedrec.streams import Streams

ALL_AT_ONCE = 1 << 30  # bytes of a chunk, far more than a small population needs
ONE_BY_ONE = 1  # bytes of a chunk: every chunk is a single user


class Nodes:
    """An engine made of several: each holds some of the users, and their sums are added.

    Args:
        devices: the whole population.
        parts: positions of the users of each node; together they are everybody once.
        streams: of the run.
        participation: who takes part in a round.
        chunk_bytes: of each node.
    """

    def __init__(
        self,
        devices: Devices,
        parts: Sequence[Tensor],
        streams: Streams,
        participation: ParticipationConfig,
        chunk_bytes: int = ALL_AT_ONCE,
    ) -> None:
        self.devices = devices
        self.participation = participation
        self.parts = tuple(parts)
        self.nodes = tuple(
            LocalEngine(devices.take(part), streams, participation, chunk_bytes=chunk_bytes) for part in parts
        )

    @property
    def expected(self) -> float:
        """q|U|."""
        return self.participation.rate * len(self.devices)

    @property
    def silos(self) -> bool:
        """Whether clients are silos."""
        return self.devices.silo is not None

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The nodes' sums, added as they arrive."""
        replies = [node.sum(query, round=round, phase=phase, clip=clip) for node in self.nodes]
        reasons = {reason for reply in replies for reason in reply.refused}
        return replace(
            replies[0],
            sums={name: torch.stack([reply.sums[name] for reply in replies]).sum(dim=0) for name in query.tables},
            answered=sum(reply.answered for reply in replies),
            clipped=sum(reply.clipped for reply in replies),
            refused={reason: sum(reply.refused.get(reason, 0) for reply in replies) for reason in reasons},
            bytes_up=sum(reply.bytes_up for reply in replies),
            bytes_down=sum(reply.bytes_down for reply in replies),
        )

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """The nodes' single answers, node by node."""
        for part, node in zip(self.parts, self.nodes, strict=True):
            for answer in node.answers(query, round=round, phase=phase, clip=clip):
                yield replace(answer, user=int(part[answer.user]))

    def remember(self, query: Query) -> State:
        """What all devices hold for a query, in the order of the population."""
        looks = [node.look(torch.arange(len(node.devices)), query)[1] for node in self.nodes]
        order = torch.cat(self.parts).argsort()
        dense = {name: torch.cat([look.dense[name] for look in looks])[order] for name in looks[0].dense}
        ragged = {}
        for name in looks[0].ragged:
            found = [look.ragged[name] for look in looks]
            owner = torch.cat([part[rows.owner] for part, rows in zip(self.parts, found, strict=True)])
            index, value = torch.cat([rows.index for rows in found]), torch.cat([rows.value for rows in found])
            ragged[name] = Rows.coalesce(owner, index, value, int(index.max()) + 1 if len(index) else 1)
        return State(dense, ragged)

    def tensors(self) -> dict[str, Tensor]:
        """Every node's private state."""
        return {
            f"{number}/{name}": tensor
            for number, node in enumerate(self.nodes)
            for name, tensor in node.tensors().items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Roll every node back."""
        for number, node in enumerate(self.nodes):
            prefix = f"{number}/"
            node.restore({key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)})


@dataclass(frozen=True, eq=False)
class Asked:
    """A query that a method asked, when, and the sums it got."""

    query: Query
    round: int
    phase: int
    totals: Totals


class Recorder(OverEngine):
    """An engine that keeps what was asked of it.

    Args:
        engine: that answers.
        noised: hand the sums on as if they were private releases, without a number beside them.
        twice: ask everything twice, and keep what the second answer changed.
    """

    def __init__(self, engine: Nodes, *, noised: bool = False, twice: bool = False) -> None:
        self.asked: list[Asked] = []
        self.changed: list[str] = []
        self.engine = engine
        self._noised = noised
        self._twice = twice

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The engine's sum."""
        totals = self.engine.sum(query, round=round, phase=phase, clip=clip)
        if self._twice:
            again = self.engine.sum(query, round=round, phase=phase, clip=clip)
            different = [name for name, total in totals.sums.items() if not torch.equal(total, again.sums[name])]
            self.changed += [f"'{name}' of query '{query.kind}' in round {round}" for name in different]
        self.asked.append(Asked(query, round, phase, totals))
        return replace(totals, noised=True) if self._noised else totals

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """The engine's answers."""
        return self.engine.answers(query, round=round, phase=phase, clip=clip)
