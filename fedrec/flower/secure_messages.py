"""`SecureMessages`: the server's side of one secure sum over messages, its four steps and what they open.

Of a single node the server sees words that look uniform, and of what is not in the sum nothing at all.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from flwr.app import RecordDict
from torch import Tensor

from fedrec.errors import DataError, PrivacyError
from fedrec.federated import Query, Totals
from fedrec.federated.secure_words import least_of
from fedrec.flower import secure
from fedrec.flower.client import SECURE
from fedrec.flower.engine import FlowerEngine
from fedrec.flower.post import Post, Roll
from fedrec.flower.records import size
from fedrec.flower.requests import Moment, Request, request_alone, request_to_record
from fedrec.privacy import Clip
from fedrec.privacy.fixed_point import Words
from fedrec.privacy.secure_round import sparse_enough
from fedrec.privacy.secure_sum import Advert, Sealed, Session, Shares, unmask

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
        engine, request = self.engine, self.engine.request(moment, clip)
        nodes = list(engine.roll.nodes) if panel is None else panel.among(engine.roll)
        neighbors, threshold = sparse_enough(len(nodes), self._answering)
        order = np.random.default_rng(secrets.randbits(128)).permutation(np.arange(1, len(nodes) + 1)).tolist()
        label = f"{request.round}/{request.phase}/{query.kind}/{secrets.token_hex(8)}"
        session = Session(tuple(order), layout.length, threshold, neighbors, label)
        steps = _Steps(engine.post, request, session, nodes, f"secure sum of '{query.kind}'")
        where = f"round {request.round}, {steps.place}"
        adverts = steps.advertise()
        shared = steps.share(adverts)
        total, answered = steps.mask(query, layout, shared)
        least = least_of(len(nodes), self._answering)
        if len(answered) < least:
            raise PrivacyError(
                f"{where}: {len(answered)} of {len(nodes)} nodes answered ({'; '.join(steps.failed)}), and it is "
                f"opened for {least} or more (privacy.answering = {self._answering}); see that they run, then resume"
            )
        if panel is not None:
            panel.require([nodes[number - 1] for number in answered])
        revealed = steps.unmask(answered)
        try:
            opened = unmask(session, list(adverts.values()), shared, total, answered, revealed)
        except PrivacyError as error:  # it speaks of users by number, and of one at a time
            raise PrivacyError(
                f"{where}: {len(answered)} of {len(nodes)} nodes answered, and too many were lost then for it to be "
                f"opened ({'; '.join(steps.failed)}); see that they run, then resume"
            ) from error
        # A node that fails at one step is not asked at the next, so that each is counted once.
        assert sum(steps.failed.values()) <= len(nodes)
        totals = Totals({}, bytes_up=steps.up, bytes_down=steps.down, nodes=len(nodes), failed=dict(steps.failed))
        return layout.tables_of(opened), totals


class _Steps:
    """The four steps of one secure sum, each of the nodes that are still there.

    Args:
        post: carries the messages.
        request: the circumstances of the sum.
        session: what is agreed on.
        nodes: that are asked, of numbers 1, 2, ...
        place: of the sum, for the log.

    Attributes:
        failed: what was wrong at which step -> number of nodes.
        up, down: bytes of what was sent.
    """

    def __init__(self, post: Post, request: Request, session: Session, nodes: Sequence[int], place: str) -> None:
        self._post, self._request, self._session = post, request, session
        self._nodes = dict(enumerate(nodes, start=1))
        self._numbers = {node: number for number, node in self._nodes.items()}
        self.place = place
        self.failed: Counter[str] = Counter()
        self.up = self.down = 0

    def advertise(self) -> dict[int, Advert]:
        """Everyone's public keys, by number."""
        return self._ask(secure.ADVERTISE, {number: self._about() for number in self._session.users}, _advert)

    def share(self, adverts: Mapping[int, Advert]) -> dict[int, list[Sealed]]:
        """Each node's secrets in boxes that its neighbours can open."""
        contents = {}
        for number in adverts:
            theirs = [adverts[other] for other in self._session.neighbors_of(number) if other in adverts]
            contents[number] = self._about(secure.adverts_to_record(theirs))
        return self._ask(secure.SHARE, contents, _boxes)

    def mask(
        self, query: Query, layout: secure.SumLayout, shared: Mapping[int, Sequence[Sealed]]
    ) -> tuple[Words, set[int]]:
        """The sum of masked words of those who answer the query, and who they are; of a single one nothing is kept."""
        inbox: dict[int, list[Sealed]] = {number: [] for number in shared}
        for box in (box for boxes in shared.values() for box in boxes):
            if box.receiver in inbox:
                inbox[box.receiver].append(box)
        asked = request_to_record(query, self._request)
        layout.write(asked)
        contents = {n: RecordDict({**dict(asked), **dict(secure.boxes_to_record(inbox[n]))}) for n in shared}
        total = np.zeros(layout.length, dtype=np.uint32)

        def add(number: int, reply: RecordDict) -> None:
            np.add(total, secure.masked_from_record(number, reply, layout.length).words, out=total)

        answered = set(self._ask(secure.MASK, contents, add))
        return total, answered

    def unmask(self, answered: Iterable[int]) -> list[Shares]:
        """What opens the sum of those who answered."""
        survivors = secure.survivors_to_record(sorted(answered))
        contents = {number: self._about(survivors) for number in answered}
        return list(self._ask(secure.UNMASK, contents, secure.shares_from_record).values())

    def _about(self, more: RecordDict | None = None) -> RecordDict:
        """A message about the sum that does not ask its query."""
        return RecordDict({**dict(request_alone(self._request)), **dict(more or {})})

    def _ask(self, step: str, contents: Mapping[int, RecordDict], read: Callable[[int, RecordDict], T]) -> dict[int, T]:
        """One step: message by number -> what is read of the answer."""
        sent = {self._nodes[n]: secure.step_of(content, self._session, n, step) for n, content in contents.items()}
        self.down += sum(map(_bytes, sent.values()))
        found, failed = {}, Counter[str]()
        for node, answer, reply in self._post.hear(
            SECURE,
            sent,
            lambda node, reply: read(self._numbers[node], reply),
            question=f"secure-{step}",
            request=self._request,
            place=self.place,
            failed=failed,
        ):
            found[self._numbers[node]] = answer
            self.up += _bytes(reply)
        self.failed.update({f"{step}: {reason}": nodes for reason, nodes in failed.items()})
        return found


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
