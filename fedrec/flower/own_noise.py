"""`OwnNoise`: what a node is told of the noise that it adds for its users, where the server is not trusted to add it.

Each of a node's users clips and noises as it would alone, with noise of its own key, so that how users are dealt to
nodes changes neither the sum nor what it guarantees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated import LocalEngine, Query, Totals
from fedrec.federated.device_sums import DistributedNoise, LocalNoise
from fedrec.federated.private_sums import Asked
from fedrec.flower.records import digest_of_tensors, part
from fedrec.flower.requests import Request
from fedrec.privacy import BIT, BIT_CLIP, Gaussian, Part, SecretNoise, SeededNoise, UniformSource
from fedrec.privacy.fixed_point import Words
from fedrec.streams import Streams

_NOISE = "noise"


@dataclass(frozen=True)
class OwnNoise:
    """How a node noises its users' answers.

    Attributes:
        parts: clip and noise of each table.
        stream: what seeded noise is drawn under; no two fits share it.
        executed: whether each user's noise is drawn, or that of a node's users at once.
        clients: of all nodes together, where noise goes under masks; 0 where each answer has noise enough for itself.
        drawn: of these, how many take part in the round.
        answering: the least share of them that is to have all the noise there need be.
    """

    parts: tuple[Part, ...]
    stream: str
    executed: bool
    clients: int = 0
    drawn: int = 0
    answering: float = 1.0

    def write(self, record: RecordDict) -> None:
        """Put it into a message."""
        parts = [[list(part.tables), part.clip, part.noise_multiplier] for part in self.parts]
        record[_NOISE] = ConfigRecord(
            {
                "parts": json.dumps(parts),
                "stream": self.stream,
                "executed": self.executed,
                "clients": self.clients,
                "drawn": self.drawn,
                "answering": self.answering,
            }
        )

    def asked(self, query: Query, request: Request) -> Asked:
        """The release that a message asks for."""
        assert request.bound is not None  # by `own_noise`
        return Asked(query, request.round, request.phase, request.bound, self.parts)

    @property
    def cost(self) -> float:
        """Σ 1/σ² over its parts, by which the release costs what one at noise multiplier 1/√cost does."""
        return sum((1 / part.noise_multiplier) * (1 / part.noise_multiplier) for part in self.parts)  # it may be inf

    @property
    def discrete(self) -> bool:
        """Whether it is each client's part of discrete noise, which goes under masks."""
        return self.clients > 0

    def length(self, query: Query, request: Request) -> int:
        """Entries of what is sent."""
        return sum(map(self.asked(query, request).size, self.parts))

    def noised(self, engine: LocalEngine, query: Query, request: Request, source: UniformSource) -> Totals:
        """The sum of noised answers. It counts who takes part, and nothing that depends on what they hold."""
        totals = LocalNoise(Gaussian(), source, self.executed).sum(engine, self.asked(query, request))
        return replace(totals, answered=totals.answered + sum(totals.refused.values()), clipped=0, refused={})

    def words(self, engine: LocalEngine, query: Query, request: Request, source: UniformSource) -> Words:
        """The sum of the users' words and noise, as it goes under a mask.

        Each answer is rounded and noised by itself, so that all nodes together add up to what as many devices would,
        bit by bit.
        """
        devices = DistributedNoise(source, self.clients, self.answering, self.executed)
        return devices.words(engine, self.asked(query, request), self.drawn)


def own_noise(record: RecordDict, query: Query, request: Request) -> OwnNoise | None:
    """The noise that a message asks for; None if it asks for none.

    Raises:
        DataError: if it cannot be read, or is not in proportion to the clip of the message, for every table; or the
            query asks others than the round's participants, whose noise it is.
    """
    if _NOISE not in record:
        return None
    if query.everyone:
        raise DataError(f"query '{query.kind}' asks everyone, and noise is that of a round's participants")
    values = dict(part(record, _NOISE, ConfigRecord))
    wanted = {"parts": str, "stream": str, "executed": bool, "clients": int, "drawn": int, "answering": float}
    if {name: type(value) for name, value in values.items()} != wanted:
        raise DataError(f"noise of {sorted(values)}, which needs {sorted(wanted)}")
    try:
        parts = tuple(
            Part(tuple(map(str, names)), float(c), float(s)) for names, c, s in json.loads(str(values["parts"]))
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"noise that cannot be read: {error}") from error
    expected = () if request.bound is None else request.bound.parts(query.tables, 1.0)
    clips = [(one.tables, one.clip) for one in expected]
    if not parts or [(one.tables, one.clip) for one in parts] not in (clips, [*clips, ((BIT,), BIT_CLIP)]):
        raise DataError(f"noise of {parts}, which is not that of the clips {request.bound}")
    if not all(0 < one.noise_multiplier < float("inf") for one in parts):
        raise DataError("noise without a finite multiplier above 0")
    found = OwnNoise(parts, **cast(dict[str, Any], {name: values[name] for name in wanted if name != "parts"}))
    if not (0 <= found.drawn <= found.clients and 0.5 < found.answering <= 1):
        raise DataError(f"noise of {found.answering} of {found.drawn} of {found.clients} clients")
    return found


def source_of(noise: OwnNoise, request: Request, content: str, secret: str) -> UniformSource:
    """Where a node's noise comes from: the seed, or the node's secret.

    Asked the same again, by a server that was killed before it wrote the answer down, a node adds the same noise: other
    noise on the same sum would be another release. Asked something else at that moment it refuses, and so it does where
    its users hold or remember something else: the same noise on two sums would tell their difference.

    Args:
        noise: as asked for.
        request: the circumstances of the message.
        content: what the noise is for, by `content_of` and `with_state`.
        secret: of the node, in hex, from the operating system.
    """
    if request.randomness == "seeded":
        return SeededNoise(Streams(request.seed), noise.stream)
    key = bytes.fromhex(secret)
    return SecretNoise(hashlib.blake2b(bytes.fromhex(content), key=key, digest_size=32).digest())


def content_of(record: RecordDict, request: Request, held: str) -> str:
    """What noise is for: SHA-256 of a message but for the number of the attempt and what the node is to remember.

    Args:
        record, request: the message.
        held: what the node's users hold, as a digest.
    """
    digest = hashlib.sha256(repr((replace(request, attempt=0, keep=""), held)).encode())
    for name in sorted(set(record) - {"request"}):
        part_of = record[name]
        digest.update(name.encode())
        if isinstance(part_of, ArrayRecord):
            for key in sorted(part_of):
                digest.update(f"{key}/{len(part_of[key].data)}/".encode() + part_of[key].data)
        else:
            digest.update(json.dumps(sorted(cast(Mapping[str, object], dict(part_of)).items())).encode())
    return digest.hexdigest()


def with_state(content: str, state: Mapping[str, Tensor] | None) -> str:
    """What noise is for, with the private state that users answer from; None is nobody's yet.

    A server can have a node overwrite the state of a moment: it goes back, and asks something else there.
    """
    return digest_of_tensors(state or {}, after=content)
