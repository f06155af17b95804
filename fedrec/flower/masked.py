"""`MaskedNodes`: the server's side of secure sums over messages, as a way from answers to a noised sum.

The server learns the total of all nodes that answered, in fixed point, and adds the noise. Of a single node it sees
words that look uniform; how many of its users answered, were clipped or refused it does not learn at all.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from flwr.app import RecordDict
from torch import Tensor

from fedrec.errors import DataError, PrivacyError
from fedrec.federated.engine import Engine, Totals
from fedrec.federated.private_sums import Asked, ServerNoise
from fedrec.flower import secure
from fedrec.flower.client import SECURE
from fedrec.flower.engine import FlowerEngine
from fedrec.flower.records import size
from fedrec.flower.requests import request_alone, request_to_record, require_heading
from fedrec.privacy import Mechanism, Part, Trust, UniformSource
from fedrec.privacy.fixed_point import FixedPoint
from fedrec.privacy.secure_round import sparse_enough
from fedrec.privacy.secure_sum import Advert, Sealed, Session, add_masked, unmask

log = logging.getLogger(__name__)

T = TypeVar("T")


class MaskedNodes:
    """Secure sums of nodes.

    Args:
        engine: the nodes.
        mechanism, source: of the server's noise.
        answering: the least share of nodes that must answer, and keep their secrets.
    """

    trust: Trust = "secagg"

    def __init__(self, engine: FlowerEngine, mechanism: Mechanism, source: UniformSource, answering: float) -> None:
        self._engine = engine
        self._answering = answering
        self._server = ServerNoise(mechanism, source)

    @property
    def name(self) -> str:
        """The server's mechanism, on a sum that it learns from masks."""
        return f"{self._server.name}, of a secure sum of nodes in fixed point, whose rounding is counted in the clip"

    def layout(self, asked: Asked) -> secure.Layout:
        """How the tables become words: the finest fixed point in which the largest node's sum fits."""
        nodes = self._engine.roll.nodes
        most = max(greeting.users for greeting in nodes.values())
        names = tuple(name for part in asked.parts for name in part.tables)
        points = tuple(FixedPoint(part.clip * most, len(nodes)) for part in asked.parts for _ in part.tables)
        return secure.Layout(names, tuple(asked.shapes[name] for name in names), points)

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The nodes' total, and the noise, in proportion to the clip and what rounding adds to it.

        A user moves one node's sum, by a clip at most, and with it the rounding of every entry, by a step at most.

        Raises:
            PrivacyError: if too few nodes answer: the sum is not opened, and nothing is learnt.
        """
        assert engine is self._engine or getattr(engine, "engine", None) is self._engine
        layout = self.layout(asked)
        exact, totals = self._opened(asked, layout)
        steps = dict(zip(layout.names, (point.resolution for point in layout.points), strict=True))
        bounds = {part: _sensitivity(part, asked, steps) for part in asked.parts}
        return self._server.noised(totals, exact, asked, bounds)

    def _opened(self, asked: Asked, layout: secure.Layout) -> tuple[dict[str, Tensor], Totals]:
        """The four steps, and the sum that they open."""
        engine, failed, traffic = self._engine, Counter[str](), Counter[str]()
        request = engine.request((asked.round, asked.phase), asked.clip)
        nodes = list(engine.roll.nodes)
        neighbors, threshold = sparse_enough(len(nodes), self._answering)
        order = np.random.default_rng(secrets.randbits(128)).permutation(np.arange(1, len(nodes) + 1)).tolist()
        label = f"{asked.purpose('sum')}/{secrets.token_hex(8)}"
        session = Session(tuple(order), layout.length, threshold, neighbors, label)
        numbers = {node: place for place, node in enumerate(nodes, start=1)}

        def ask(step: str, contents: Mapping[int, RecordDict], read: Callable[[int, RecordDict], T]) -> dict[int, T]:
            """One step, of the nodes by number that are still there."""
            sent = {nodes[n - 1]: secure.step_of(content, session, n, step) for n, content in contents.items()}
            traffic["down"] += sum(map(_bytes, sent.values()))
            found = {}
            for node, reply in engine.post.ask(SECURE, sent):
                try:
                    if isinstance(reply, DataError):
                        raise reply
                    require_heading(reply, f"secure-{step}", request)
                    found[numbers[node]] = read(numbers[node], reply)
                except DataError as wrong:
                    failed[f"{step}: {str(wrong).partition(';')[0][:100]}"] += 1
                    log.warning("round %d, secure sum of '%s', node %d: %s", asked.round, asked.query.kind, node, wrong)
                else:
                    traffic["up"] += _bytes(reply)
            return found

        def alone(more: RecordDict | None = None) -> RecordDict:
            return RecordDict({**dict(request_alone(request)), **dict(more or {})})

        def keys_for(number: int) -> RecordDict:
            theirs = [adverts[other] for other in session.neighbors_of(number) if other in adverts]
            return secure.adverts_to_record(theirs)

        adverts = ask(secure.ADVERTISE, {n: alone() for n in order}, _advert)
        shared = ask(secure.SHARE, {n: alone(keys_for(n)) for n in adverts}, _boxes)
        inbox: dict[int, list[Sealed]] = {n: [] for n in shared}
        for box in (box for boxes in shared.values() for box in boxes):
            if box.receiver in inbox:
                inbox[box.receiver].append(box)
        query = dict(secure.with_points(request_to_record(asked.query, request), layout))
        contents = {n: RecordDict({**query, **dict(secure.boxes_to_record(inbox[n]))}) for n in shared}
        masked = ask(secure.MASK, contents, partial(secure.masked_from_record, length=layout.length))
        least = max(2, math.ceil(self._answering * len(nodes) - 1e-9))
        if len(masked) < least:
            raise PrivacyError(
                f"round {asked.round}: {len(masked)} of {len(nodes)} nodes answered the secure sum of "
                f"'{asked.query.kind}' ({'; '.join(failed)}), and it is opened for {least} or more (privacy.answering "
                f"= {self._answering}); see that they run, then resume"
            )
        total, answered = add_masked(session, masked.values())
        survivors = secure.survivors_to_record(sorted(answered))
        revealed = ask(secure.UNMASK, {n: alone(survivors) for n in answered}, secure.shares_from_record)
        opened = unmask(session, list(adverts.values()), shared, total, answered, list(revealed.values()))
        totals = Totals(
            {}, bytes_up=traffic["up"], bytes_down=traffic["down"], nodes=len(nodes), failed=_once(failed, len(nodes))
        )
        return layout.tables_of(opened), totals


def _sensitivity(part: Part, asked: Asked, steps: Mapping[str, float]) -> float:
    rounding = sum(math.prod(asked.shapes[name]) * steps[name] ** 2 for name in part.tables)
    return part.clip + math.sqrt(rounding)


def _advert(number: int, reply: RecordDict) -> Advert:
    adverts = secure.adverts_from_record(reply)
    if len(adverts) != 1:
        raise DataError(f"{len(adverts)} advertisements of one node")
    for key in (adverts[0].mask_key, adverts[0].seal_key):
        try:
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key))
        except ValueError as error:  # a point of small order, at which each of its neighbours would stop
            raise DataError("a public key that no secret can be agreed on by") from error
    return Advert(number, adverts[0].mask_key, adverts[0].seal_key)


def _boxes(number: int, reply: RecordDict) -> list[Sealed]:
    return [Sealed(number, box.receiver, box.box) for box in secure.boxes_from_record(reply)]


def _bytes(record: RecordDict) -> int:
    """Of arrays, keys, boxes and numbers; names and framing are not counted."""
    values = [value for config in record.config_records.values() for value in config.values()]
    single = [entry for value in values for entry in (value if isinstance(value, list) else [value])]
    return size(record) + sum(len(entry) if isinstance(entry, bytes | str) else 8 for entry in single)


def _once(failed: Counter[str], nodes: int) -> dict[str, int]:
    """A node that fails at one step is not asked at the next, so that each is counted once."""
    assert sum(failed.values()) <= nodes
    return dict(failed)
