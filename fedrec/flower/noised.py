"""Sums of nodes that add their users' noise themselves, as ways from answers to a noised sum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from flwr.app import RecordDict
from torch import Tensor

from fedrec.errors import DataError, PrivacyError
from fedrec.federated.device_sums import DiscreteNoise, DistributedNoise
from fedrec.federated.engine import Engine, Totals
from fedrec.federated.private_sums import Asked
from fedrec.federated.secure_words import least_of
from fedrec.flower.adding import CompensatedSum
from fedrec.flower.engine import FlowerEngine
from fedrec.flower.own_noise import OwnNoise
from fedrec.flower.post import Roll
from fedrec.flower.records import ROUNDING, NodeAnswer
from fedrec.flower.requests import request_to_record
from fedrec.flower.secure_messages import SecureMessages
from fedrec.privacy import Mechanism, Part, SeededNoise, Trust, UniformSource
from fedrec.privacy.fixed_point import Words

_DEVIATIONS = 10.0
"""A Gaussian vector of d entries is longer than √d and so many deviations once in 5e21 (Laurent & Massart 2000)."""


class NoisedNodes:
    """Nodes noise each of their users' answers, enough to protect it from whoever sees it, and send the sum.

    Neighbours and noise are those of `LocalNoise`: what the server gets of a node is computed from noised answers.

    Args:
        engine: the nodes.
        mechanism: of the noise, in words.
        source: of the run; nodes draw from its seed, or from the operating system.
        executed: whether each user's noise is drawn, or that of a node's users at once.
    """

    trust: Trust = "local"

    def __init__(self, engine: FlowerEngine, mechanism: Mechanism, source: UniformSource, executed: bool) -> None:
        self._engine = engine
        self._mechanism = mechanism
        self._stream = stream_of(source)
        self._executed = executed

    @property
    def name(self) -> str:
        """The mechanism in words."""
        return (
            "on each node, for each client there, with twice the clip, by which two answers of one client differ: "
            f"{self._mechanism.name}"
        )

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The sum of what nodes send."""
        request = self._engine.request((asked.round, asked.phase), asked.clip)
        record = request_to_record(asked.query, request)
        OwnNoise(tuple(asked.parts), self._stream, self._executed).write(record)
        sums = {name: CompensatedSum(asked.shapes[name]) for part in asked.parts for name in part.tables}

        def check(answer: NodeAnswer) -> None:
            for one in asked.parts:
                _require_noised(answer, one, asked.size(one))

        return self._engine.gather(asked.query, request, record, sums, check)


def stream_of(source: UniformSource) -> str:
    """What nodes draw seeded noise under; nothing where they draw from the operating system."""
    return source.for_devices().arm if isinstance(source, SeededNoise) else ""


def _require_noised(answer: NodeAnswer, part: Part, entries: int) -> None:
    """Refuse what clipped and noised answers practically never add up to.

    Raises:
        DataError: if the answer is longer.
    """
    users = answer.counts["answered"]
    norm = math.hypot(*(float(torch.linalg.vector_norm(answer.parts[name].value.double())) for name in part.tables))
    noise = 2 * part.clip * part.noise_multiplier * math.sqrt(users) * (math.sqrt(entries) + _DEVIATIONS)
    if norm > (users * part.clip + noise) * (1 + ROUNDING):
        raise DataError(
            f"an answer longer than its users' clips and noise; norm {norm:g} of {users} users clipped to {part.clip:g}"
        )


class MaskedNoisedNodes:
    """Nodes add their users' parts of the noise under masks; the server never has a sum without it.

    Mechanism, noise and neighbours are those of `DistributedNoise`, by user, and so are the words, bit by bit. What is
    lost at a time is a node, with the noise of all its users, so that as large a share of the users must answer as of
    nodes. Each node first says how many of its users take part, which this trust does not protect.

    Args:
        engine: the nodes.
        source: of the run; nodes draw from its seed, or from the operating system.
        clients: of all nodes together.
        answering: the least share of nodes, and of the users who take part, that must answer and keep its secrets.
        executed: whether each user's noise is drawn, or that of a node's users at once.
    """

    trust: Trust = "distributed"

    def __init__(
        self, engine: FlowerEngine, source: UniformSource, clients: int, answering: float, executed: bool
    ) -> None:
        self._engine = engine
        self._devices = DistributedNoise(source, clients, answering, executed)
        self._messages = SecureMessages(engine, answering)
        self._noise = OwnNoise((), stream_of(source), executed, clients, 0, answering)

    @property
    def name(self) -> str:
        """The mechanism in words."""
        return (
            "discrete Gaussian noise of every client, added by its node under masks, of deviation noise multiplier × "
            f"clip together on every entry if nodes with a share of {self._noise.answering:g} of a sum's clients "
            f"answer and keep their noise to themselves (fewer answer: the sum is not opened{self._largest()}), "
            "symmetrised where the sum is; fixed-point rounding of every answer is counted in the clip"
        )

    def _largest(self) -> str:
        """What the largest node knows of the noise, in words: all of its own, so that the others' is left.

        Of a sum with the noise of n clients, deviation s each, √(n − m)·s is left against a node of m. The deviation
        that is promised is √l·s, l being the least that must answer; n lies between l and all.
        """
        clients = self._engine.clients
        if clients is None:
            return ""
        everyone, most = sum(clients.values()), max(clients.values())
        least = least_of(everyone, self._noise.answering)
        sort = "silos" if self._engine.silos else "users"
        has = f"; where all take part, the largest of {len(clients)} nodes has {most} of {everyone} {sort}"
        if everyone - most >= least:
            return has
        left, lost = (math.sqrt(max(0, there - most) / least) for there in (everyone, least))
        if_lost = f", or {lost:.3g} if others are lost" if least < everyone else ""
        return f"{has}, and against it alone, which knows its own part, the deviation is {left:.3g} of that{if_lost}"

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The sum of noised words, decoded.

        Raises:
            PrivacyError: if nodes of too few users answer: the sum is not opened, and nothing is learnt.
        """
        moment = (asked.round, asked.phase)
        drawn, silent = self._engine.taking_part(self._engine.request(moment, asked.clip))
        place = f"round {asked.round}, secure sum of '{asked.query.kind}'"
        if len(drawn) < 2:
            raise PrivacyError(
                f"{place}: {len(drawn)} of {len(self._engine.roll.nodes)} nodes said who takes part "
                f"({'; '.join(silent)}), and masks take two; see that they run, then resume"
            )
        clients = sum(drawn.values())
        noise = self._devices.noise(asked, clients)
        if self._noise.executed:
            noise.require_feasible(max(drawn.values(), default=0))
        panel = _Clients(drawn, self._noise.answering, place)
        told = replace(self._noise, parts=tuple(asked.parts), drawn=clients)
        sums, totals = self._messages.sum(asked.query, moment, asked.clip, _Noised(noise, told), panel)
        failed = dict(silent + Counter(totals.failed))
        return replace(totals, sums=sums, noised=True, nodes=len(self._engine.roll.nodes), failed=failed)


@dataclass(frozen=True, eq=False)
class _Noised:
    """The layout of noised words."""

    noise: DiscreteNoise
    told: OwnNoise

    @property
    def length(self) -> int:
        return self.noise.length

    def tables_of(self, words: Words) -> dict[str, Tensor]:
        return self.noise.tables_of(words)

    def write(self, record: RecordDict) -> None:
        self.told.write(record)


@dataclass(frozen=True)
class _Clients:
    """Nodes that must speak for a share of those who take part: one that is lost takes the noise of all of its own.

    Attributes:
        drawn: node -> how many of its clients take part.
        answering: the least share of them.
        place: of the sum, for an error.
    """

    drawn: Mapping[int, int]
    answering: float
    place: str

    def among(self, roll: Roll) -> list[int]:
        return list(self.drawn)

    def require(self, answered: Sequence[int]) -> None:
        there, everyone = sum(self.drawn[node] for node in answered), sum(self.drawn.values())
        least = least_of(everyone, self.answering)
        if there < least:
            raise PrivacyError(
                f"{self.place}: the nodes that answered speak for {there} of {everyone} clients, and the sum is opened "
                f"for {least} or more (privacy.answering = {self.answering}); see that the largest nodes run, then "
                "resume"
            )
