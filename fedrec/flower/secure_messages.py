"""`SecureMessages`: the server's side of one secure sum over messages, its four steps and what they open.

Of a single node the server sees words that look uniform, and of what is not in the sum nothing at all.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from flwr.app import RecordDict
from torch import Tensor

from fedrec.errors import DataError, PrivacyError
from fedrec.federated import Query, Totals
from fedrec.flower import secure
from fedrec.flower.client import SECURE
from fedrec.flower.engine import FlowerEngine
from fedrec.flower.post import Roll
from fedrec.flower.records import size
from fedrec.flower.requests import Moment, request_alone, request_to_record, require_heading
from fedrec.privacy import Clip
from fedrec.privacy.secure_round import sparse_enough
from fedrec.privacy.secure_sum import Advert, Sealed, Session, unmask

log = logging.getLogger(__name__)

T = TypeVar("T")


class Electorate(Protocol):
    """Whom a sum is asked of, and who of them must answer beside a share of nodes."""

    def among(self, roll: Roll) -> list[int]:
        """The nodes that are asked."""

    def require(self, answered: Sequence[int]) -> None:
        """Raise a PrivacyError if the sum of these nodes is not to be opened."""


@dataclass(eq=False)
class Panel:
    """The nodes that all of a run's exact sums are over: two over different ones would tell the others' by subtraction.

    Attributes:
        nodes: their ids, ascending; None until the first such sum is about to be opened.
        fix: is told of them before it is.
    """

    nodes: tuple[int, ...] | None = None
    fix: Callable[[tuple[int, ...]], None] = field(default=lambda nodes: None)

    def among(self, roll: Roll) -> list[int]:
        """The nodes that are asked.

        Raises:
            PrivacyError: if one that must be among them has gone.
        """
        gone = [node for node in self.nodes or () if node not in roll.nodes]
        if gone:
            raise PrivacyError(
                f"node {gone[0]} is in this run's earlier tests and not connected, and sums without it would tell its "
                "own by subtraction; start it, then resume, or start a new run"
            )
        return list(self.nodes or roll.nodes)

    def require(self, answered: Sequence[int]) -> None:
        """Take those who answered for the nodes of the run, or hold them against those.

        Raises:
            PrivacyError: if they are others.
        """
        if self.nodes is None:
            self.nodes = tuple(sorted(answered))
            self.fix(self.nodes)
        elif len(answered) < len(self.nodes):
            missing = sorted(set(self.nodes) - set(answered))
            raise PrivacyError(
                f"node {missing[0]} is in this run's earlier tests and did not answer, and sums without it would tell "
                "its own by subtraction; see that it runs, then resume"
            )


class SecureMessages:
    """Secure sums of nodes, as they are carried.

    Args:
        engine: the nodes.
        answering: the least share of nodes that must answer, and keep their secrets.
    """

    def __init__(self, engine: FlowerEngine, answering: float) -> None:
        self.engine = engine
        self._answering = answering

    def sum(
        self,
        query: Query,
        moment: Moment,
        clip: Clip | None,
        layout: secure.SumLayout,
        panel: Electorate | None = None,
    ) -> tuple[dict[str, Tensor], Totals]:
        """The four steps, and the sum that they open.

        Args:
            query, moment, clip: what is asked.
            layout: how its tables become words.
            panel: the nodes that it must be over; None is any that are enough.

        Raises:
            PrivacyError: if too few nodes answer, or not those that the panel wants: nothing is opened or learnt.
        """
        engine, failed, traffic = self.engine, Counter[str](), Counter[str]()
        request, (round, phase) = engine.request(moment, clip), moment
        nodes = list(engine.roll.nodes) if panel is None else panel.among(engine.roll)
        neighbors, threshold = sparse_enough(len(nodes), self._answering)
        order = np.random.default_rng(secrets.randbits(128)).permutation(np.arange(1, len(nodes) + 1)).tolist()
        label = f"{round}/{phase}/{query.kind}/{secrets.token_hex(8)}"
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
                    log.warning("round %d, secure sum of '%s', node %d: %s", round, query.kind, node, wrong)
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
        asked = request_to_record(query, request)
        layout.write(asked)
        contents = {n: RecordDict({**dict(asked), **dict(secure.boxes_to_record(inbox[n]))}) for n in shared}
        total = np.zeros(layout.length, dtype=np.uint32)

        def add(number: int, reply: RecordDict) -> None:
            np.add(total, secure.masked_from_record(number, reply, layout.length).words, out=total)  # and keep none

        answered = set(ask(secure.MASK, contents, add))
        least = max(2, math.ceil(self._answering * len(nodes) - 1e-9))
        where = f"round {round}, secure sum of '{query.kind}'"
        if len(answered) < least:
            raise PrivacyError(
                f"{where}: {len(answered)} of {len(nodes)} nodes answered ({'; '.join(failed)}), and it is opened for "
                f"{least} or more (privacy.answering = {self._answering}); see that they run, then resume"
            )
        if panel is not None:
            panel.require([nodes[number - 1] for number in answered])
        survivors = secure.survivors_to_record(sorted(answered))
        revealed = ask(secure.UNMASK, {n: alone(survivors) for n in answered}, secure.shares_from_record)
        try:
            opened = unmask(session, list(adverts.values()), shared, total, answered, list(revealed.values()))
        except PrivacyError as error:  # it speaks of users by number, and of one at a time
            raise PrivacyError(
                f"{where}: {len(answered)} of {len(nodes)} nodes answered, and too many were lost then for it to be "
                f"opened ({'; '.join(failed)}); see that they run, then resume"
            ) from error
        totals = Totals(
            {}, bytes_up=traffic["up"], bytes_down=traffic["down"], nodes=len(nodes), failed=_once(failed, len(nodes))
        )
        return layout.tables_of(opened), totals


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
