"""`OwnNoise`: what a node is told of the noise that it adds for its users, where the server is not trusted to add it.

Each of a node's users clips and noises as it would alone, with noise of its own key, so that how users are dealt to
nodes changes neither the sum nor what it guarantees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedrec.errors import DataError
from fedrec.federated import LocalEngine, Query, Totals
from fedrec.federated.device_sums import LocalNoise
from fedrec.federated.private_sums import Asked
from fedrec.flower.records import part
from fedrec.flower.requests import Request
from fedrec.privacy import BIT, BIT_CLIP, Gaussian, Part, SecretNoise, SeededNoise, UniformSource
from fedrec.streams import Streams

_NOISE = "noise"


@dataclass(frozen=True)
class OwnNoise:
    """How a node noises its users' answers.

    Attributes:
        parts: clip and noise of each table.
        stream: what seeded noise is drawn under; no two fits share it.
        executed: whether each user's noise is drawn, or that of a node's users at once.
    """

    parts: tuple[Part, ...]
    stream: str
    executed: bool

    def write(self, record: RecordDict) -> None:
        """Put it into a message."""
        parts = [[list(part.tables), part.clip, part.noise_multiplier] for part in self.parts]
        record[_NOISE] = ConfigRecord({"parts": json.dumps(parts), "stream": self.stream, "executed": self.executed})

    def asked(self, query: Query, request: Request) -> Asked:
        """The release that a message asks for."""
        assert request.bound is not None  # by `own_noise`
        return Asked(query, request.round, request.phase, request.bound, self.parts)

    def noised(self, engine: LocalEngine, query: Query, request: Request, source: UniformSource) -> Totals:
        """The sum of noised answers. It counts who takes part, and nothing that depends on what they hold."""
        totals = LocalNoise(Gaussian(), source, self.executed).sum(engine, self.asked(query, request))
        return replace(totals, answered=totals.answered + sum(totals.refused.values()), clipped=0, refused={})


def own_noise(record: RecordDict, query: Query, request: Request) -> OwnNoise | None:
    """The noise that a message asks for; None if it asks for none.

    Raises:
        DataError: if it cannot be read, or is not in proportion to the clip of the message, for every table.
    """
    if _NOISE not in record:
        return None
    values = dict(part(record, _NOISE, ConfigRecord))
    wanted = {"parts": str, "stream": str, "executed": bool}
    if {name: type(value) for name, value in values.items()} != wanted:
        raise DataError(f"noise of {sorted(values)}, which needs {sorted(wanted)}")
    try:
        parts = tuple(
            Part(tuple(map(str, names)), float(c), float(s)) for names, c, s in json.loads(str(values["parts"]))
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"noise that cannot be read: {error}") from error
    expected = () if request.bound is None else request.bound.parts(query.tables, 1.0)
    bit = (Part((BIT,), BIT_CLIP, 1.0),)
    if [replace(one, noise_multiplier=1.0) for one in parts] not in (list(expected), [*expected, *bit]) or not parts:
        raise DataError(f"noise of {parts}, which is not that of the clips {request.bound}")
    if not all(0 < one.noise_multiplier < float("inf") for one in parts):
        raise DataError("noise without a finite multiplier above 0")
    return OwnNoise(parts, str(values["stream"]), cast(bool, values["executed"]))


def source_of(noise: OwnNoise, record: RecordDict, request: Request, secret: str) -> UniformSource:
    """Where a node's noise comes from: the seed, or the node's secret.

    Asked the same again, by a server that was killed before it wrote the answer down, a node adds the same noise: other
    noise on the same sum would be another release.

    Args:
        noise: as asked for.
        record: the message.
        request: its circumstances.
        secret: of the node, in hex, from the operating system.
    """
    if request.randomness == "seeded":
        return SeededNoise(Streams(request.seed), noise.stream)
    return SecretNoise(hashlib.blake2b(_content(record, request), key=bytes.fromhex(secret), digest_size=32).digest())


def _content(record: RecordDict, request: Request) -> bytes:
    """What the noise is for: all of a message but the number of the attempt and what the node is to remember."""
    digest = hashlib.sha256(repr(replace(request, attempt=0, keep="")).encode())
    for name in sorted(set(record) - {"request"}):
        held = record[name]
        digest.update(name.encode())
        if isinstance(held, ArrayRecord):
            for key in sorted(held):
                digest.update(f"{key}/{len(held[key].data)}/".encode() + held[key].data)
        else:
            digest.update(json.dumps(sorted(cast(Mapping[str, object], dict(held)).items())).encode())
    return digest.digest()
