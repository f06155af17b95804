"""`Node`: a node's side of the federation, without Flower's processes around it: a message in, an answer out.

A node runs a `LocalEngine` over its own users, be they one or a hundred thousand, and answers with its folded sum. What
its users remember stays in its store.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar

from flwr.app import ConfigRecord, RecordDict

from fedrec.errors import ConfigError, DataError, FedrecError, PrivacyError
from fedrec.federated import Devices, LocalEngine, ParticipationConfig, Query, Totals
from fedrec.flower import secure
from fedrec.flower.exact_layout import exact_layout, is_exact
from fedrec.flower.holdings import as_one_silo, digest_of
from fedrec.flower.own_noise import OwnNoise, content_of, own_noise, source_of, with_state
from fedrec.flower.records import LARGEST, query_from_record, size, totals_to_record
from fedrec.flower.remembered import after, agreed, begun, remembered, require_same, require_tested, require_unopened
from fedrec.flower.requests import (
    Greeting,
    Request,
    drawn_to_record,
    greeting_to_record,
    head,
    refusal,
    request_from_record,
    require_greeting,
)
from fedrec.flower.secure import WordLayout
from fedrec.flower.spent import Account
from fedrec.flower.stores import Kept, Store
from fedrec.privacy import SeededNoise, SystemNoise, check_delta
from fedrec.privacy.fixed_point import Words
from fedrec.privacy.secure_sum import Session, Summand
from fedrec.streams import Streams

T = TypeVar("T")

_ROOM = 16  # times the largest message, for tables: those that a few users' answers are added up in are mostly zeros


@dataclass(frozen=True, eq=False)
class Holding:
    """What a node holds.

    Attributes:
        devices: its users.
        catalogue: fingerprint of the public catalogue.
    """

    devices: Devices
    catalogue: str

    def greeting(self) -> Greeting:
        """What it says of itself."""
        parts = ",".join(sorted(self.devices.held_out))
        return Greeting(len(self.devices), self.devices.n_items, self.catalogue, parts)

    @cached_property
    def digest(self) -> str:
        """Of all that its users hold."""
        return digest_of(self.devices)


class Payloads:
    """The last query that this process read. Nodes of one process, as simulations have them, read it once together.

    Messages of one moment are told apart by their settings and sizes, and not by all that their tensors hold. Where
    noise is secret each is read: the same noise on two queries would tell the difference of their answers.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._query: Query | None = None

    def read(self, record: RecordDict, request: Request, largest: int) -> Query:
        """The query of a message."""
        if size(record) > largest:
            raise DataError(f"a payload of {size(record):,} bytes; this node reads at most {largest:,}")
        if request.randomness == "os":
            return query_from_record(record, largest)
        kind = record.get("query")
        # By its content too: two messages of one moment that differ in size or settings are not the same.
        key = (
            request,
            dict(kind) if isinstance(kind, ConfigRecord) else None,
            repr(record.config_records.get("settings")),
            size(record),
        )
        if self._query is None or key != self._key:
            self._key, self._query = key, query_from_record(record, largest)
        return self._query


class Node:
    """Answers queries with the sums of its users.

    Args:
        holding: gives what it holds; it is asked when that is needed, and may refuse.
        store: where its users' private state is kept.
        payloads: what this process read last.
        largest: bytes of a message's arrays that it reads.
        plain: whether it sends sums that are neither masked nor noised by its users.
        account: of what its users may spend; then nothing that is not a test's goes without noise of their own. None
            sets no bound.
    """

    def __init__(
        self,
        holding: Callable[[], Holding],
        store: Store,
        payloads: Payloads | None = None,
        *,
        largest: int = LARGEST,
        plain: bool = True,
        account: Account | None = None,
    ) -> None:
        self._holding = holding
        self._store = store
        self._payloads = payloads or Payloads()
        self._largest = largest
        self._plain = plain and account is None
        self._account = account

    def greet(self, record: RecordDict) -> RecordDict:
        """Say what it holds, or why it does not."""
        try:
            require_greeting(record)
            self._require_sound_grant()
            return greeting_to_record(self._holding().greeting())
        except FedrecError as error:
            return refusal(str(error))

    def draw(self, record: RecordDict) -> RecordDict:
        """How many of its clients take part in a round, or a refusal."""
        return self._told(record, self._draw)

    def _draw(self, record: RecordDict, request: Request) -> RecordDict:
        _, engine = self._engine(request)
        return head(drawn_to_record(engine.taking_part(request.round)), "draw", request)

    def answer(self, record: RecordDict) -> RecordDict:
        """The sum over its users, or a refusal that names what is wrong with the message."""
        return self._told(record, self._answer)

    def _answer(self, record: RecordDict, request: Request) -> RecordDict:
        query = self._payloads.read(record, request, self._largest)
        noise = self._own_noise(record, query, request)
        if noise is None:
            self._require_plain()
            totals = self.sum(query, request)
        else:
            own = content_of(record, request, self._holding().digest) if request.randomness == "os" else ""
            totals = self._over(query, request, partial(_noised, noise, request), noise, own)
        return head(totals_to_record(totals), query.kind, request)

    def _told(self, record: RecordDict, answer: Callable[[RecordDict, Request], RecordDict]) -> RecordDict:
        """An answer, or a refusal.

        Messages of one run are answered one after the other: Flower starts a process for each, and two that came at
        once would both find that a sum had not been masked yet, or overwrite what the other remembers.
        """
        try:
            request = self._request(record)
            with self._store.alone(request.run):
                return answer(record, request)
        except FedrecError as error:
            return refusal(str(error))

    def _request(self, record: RecordDict) -> Request:
        """The circumstances of a message's query, in which its operator lets the node answer."""
        request = request_from_record(record)
        if self._account is not None and request.randomness != "os":
            raise PrivacyError(
                "this node's operator grants an epsilon, and noise that a seed tells keeps none; set "
                "engine.randomness = 'os'"
            )
        self._require_sound_grant()
        return request

    def _require_sound_grant(self) -> None:
        """Refuse, with a PrivacyError, a grant whose δ would let one of its users be published outright."""
        if self._account is not None:
            check_delta(self._account.grant.delta, len(self._holding().devices))

    def _require_plain(self) -> None:
        """Refuse, with a PrivacyError, a plain sum where the operator lets none go."""
        if not self._plain:
            raise PrivacyError(
                "this node's operator lets no plain sums go (plain = false); set privacy.trust = 'secagg', "
                "'distributed' or 'local' in every arm"
            )

    def secure(self, record: RecordDict) -> RecordDict:
        """One step of a secure sum, or a refusal."""
        return self._told(record, self._secure)

    def _secure(self, record: RecordDict, request: Request) -> RecordDict:
        session, number = secure.session_from_record(record)
        kept = remembered(self._store, request)
        step = secure.step_from(record)
        noised = False
        if step == secure.ADVERTISE:
            summand = Summand(number, session)
        else:
            summand, noised = begun(kept, session, number, request)
        if step == secure.MASK:
            answer, noised = self._masked(summand, record, request)
            kept = remembered(self._store, request)
            if is_exact(record):
                kept = replace(kept, tested=self._holding().digest)
        else:
            answer = _step(step, summand, record)
        if step == secure.UNMASK and noised:
            kept = replace(kept, opened=max(kept.opened, request.moment))
        state = {"agreed": agreed(session, request), "number": number, "noised": noised, **summand.pack()}
        latest = min(kept.latest, request.moment)  # a server that goes back has several steps to ask for
        self._store.save(replace(kept, attempt=request.attempt, latest=latest, summand=json.dumps(state)))
        return head(answer, f"secure-{step}", request)

    def _masked(self, summand: Summand, record: RecordDict, request: Request) -> tuple[RecordDict, bool]:
        """Its masked words, and whether its users' noise is in them."""
        query = self._payloads.read(record, request, self._largest)
        noise = self._own_noise(record, query, request)
        if noise is not None:
            require_unopened(remembered(self._store, request), request)
            secure.require_length(noise.length(query, request), summand.session)
            words = self._over(query, request, partial(_noised_words, noise, request), noise)
        else:
            layout = self._layout(record, query, request, summand.session)
            secure.require_length(layout.length, summand.session)
            words = layout.words_of(self.sum(query, request))
        return secure.masked_to_record(summand.mask(words, secure.boxes_from_record(record))), noise is not None

    def _own_noise(self, record: RecordDict, query: Query, request: Request) -> OwnNoise | None:
        """The noise that a message asks for.

        Raises:
            PrivacyError: if it cannot be drawn again, and the node might forget that it was drawn.
        """
        noise = own_noise(record, query, request)
        if noise is not None and request.randomness == "os" and not self._store.lasting:
            raise PrivacyError(
                'noise that no seed tells: start the node with state="...", a folder to remember it in, or a run that '
                "is resumed would be given other noise on the same sum"
            )
        return noise

    def _layout(self, record: RecordDict, query: Query, request: Request, session: Session) -> WordLayout:
        """How the sum becomes words: by its clip, or by the query's own bounds.

        Raises:
            DataError: if both are asked for, or neither.
            PrivacyError: if it is for a release without noise of the node's users, and they may spend so much alone;
                or for a test over other data than an earlier one of the run.
        """
        exact = exact_layout(record, query, session, len(self._holding().devices))
        if exact is None:
            if self._account is not None:
                raise PrivacyError(
                    "this node's operator grants an epsilon, and this sum has no noise but the server's; set "
                    "privacy.trust = 'distributed' or 'local' in every arm"
                )
            if not request.clip:
                raise DataError(f"query '{query.kind}' without a clip, for a sum that a server is to noise")
            return secure.layout_from_record(record, query)
        if request.clip:
            raise DataError(f"query '{query.kind}' with a clip, for a sum that is no release")
        require_tested(remembered(self._store, request), self._holding().digest)
        return exact

    def sum(self, query: Query, request: Request) -> Totals:
        """The sum over its users, their private state being committed under the moment.

        Raises:
            ConfigError: if a later moment was answered already, or participation cannot be drawn by nodes.
            DataError: if the query's tables are too large to make room for.
        """

        def summed(engine: LocalEngine, query: Query, *_: str) -> Totals:
            return engine.sum(query, round=request.round, phase=request.phase, clip=request.bound)

        return self._over(query, request, summed)

    def _over(
        self,
        query: Query,
        request: Request,
        answer: Callable[[LocalEngine, Query, str, str], T],
        noise: OwnNoise | None = None,
        content: str = "",
    ) -> T:
        """What an engine over its users makes of a query, with the node's secret; state is committed as in `sum`.

        Args:
            query, request: what is asked.
            answer: from engine, query, secret and what noise by the secret is for.
            noise: of its users that is in the answer.
            content: what noise by the secret is for, but for the users' private state; "" where there is none.
        """
        _require_room(query, request, _ROOM * self._largest)
        kept, engine = self._engine(request, refuses_failures=noise is not None)
        base = kept.at(request.base)
        if content:
            content = with_state(content, base)
            require_same(kept, request, content)
        participation = engine.participation
        if request.randomness == "os":
            query = query.with_secret(_derived(kept.secret, "measure"))  # the same for all fits, which pairs them
        if base is not None:
            engine.restore(base)
        found = answer(engine, query, kept.secret, content)
        if noise is not None and self._account is not None:
            kept = self._charged(self._account, kept, engine, request, noise)
        same = base is not None and not query.private and participation.late == "discard"
        self._store.save(after(kept, request, base if base is not None and same else engine.tensors(), content))
        return found

    def _charged(self, account: Account, kept: Kept, engine: LocalEngine, request: Request, noise: OwnNoise) -> Kept:
        """Charge a round's participants for an answer, and remember it.

        Asked again in the same circumstances they pay only what it costs more than before: either the noise is the same
        again, or it is under masks again, and a server that follows the protocol opens one sum of a moment at most.
        """
        circumstances = repr((replace(request, attempt=0, keep=""), noise.discrete, self._holding().digest))
        what = hashlib.sha256(circumstances.encode()).hexdigest()
        before = kept.paid[1] if kept.paid[0] == what else 0.0
        keys = engine.devices.keys[engine.users_taking_part(request.round)]
        account.charge(keys, max(0.0, noise.cost - before), discrete=noise.discrete)
        return replace(kept, paid=(what, max(before, noise.cost)))

    def _engine(self, request: Request, *, refuses_failures: bool = False) -> tuple[Kept, LocalEngine]:
        """What is remembered, with a secret if one is needed, and an engine over its users who remember nothing yet.

        Where their noise is to hide what they answer, it hides also that one of them fails to (`refuses_failures`).
        """
        kept, sample = remembered(self._store, request), None
        if request.randomness == "os":
            if not kept.secret:
                kept = replace(kept, secret=secrets.token_hex(32))
                self._store.save(kept)
            sample = Streams(int.from_bytes(_derived(kept.secret, f"participants/{request.session}")))
        participation = require_own_draw(request.drawn_by)
        devices = self._holding().devices
        devices = as_one_silo(devices, request.silo_by) if request.silo_by else devices
        streams = Streams(request.seed)
        return kept, LocalEngine(devices, streams, participation, sample=sample, refuses_failures=refuses_failures)


def _step(step: str, summand: Summand, record: RecordDict) -> RecordDict:
    """A node's answer to a step that asks nothing of its users."""
    if step == secure.ADVERTISE:
        return secure.adverts_to_record([summand.advertise()])
    if step == secure.SHARE:
        return secure.boxes_to_record(summand.share(secure.adverts_from_record(record)))
    if step == secure.UNMASK:
        return secure.shares_to_record(summand.unmask(secure.survivors_from_record(record)))
    raise DataError(f"step '{step}' of a secure sum; there is none such")


def _noised_words(noise: OwnNoise, request: Request, engine: LocalEngine, query: Query, *_: str) -> Words:
    source = SystemNoise() if request.randomness == "os" else SeededNoise(Streams(request.seed), noise.stream)
    return noise.words(engine, query, request, source)


def _noised(noise: OwnNoise, request: Request, engine: LocalEngine, query: Query, secret: str, content: str) -> Totals:
    return noise.noised(engine, query, request, source_of(noise, request, content, secret))


def _derived(secret: str, purpose: str) -> bytes:
    """What a node draws one thing from; it tells nothing of the secret, nor of what is drawn for another purpose."""
    return hashlib.blake2b(purpose.encode(), key=bytes.fromhex(secret), digest_size=32).digest()


def _require_room(query: Query, request: Request, most: int) -> None:
    """Refuse tables that a few words of a message can ask for, and that no memory holds."""
    in_full = request.clip or request.drawn_by.late == "fold"
    shapes = [shape for name, shape in query.tables.items() if in_full or name not in query.sparse]
    size = 8 * sum(map(math.prod, shapes))
    if size > most:
        raise DataError(f"query '{query.kind}' asks for tables of {size:,} bytes; this node has room for {most:,}")


def require_own_draw(participation: ParticipationConfig) -> ParticipationConfig:
    """The participation, if a node can draw it alone.

    Raises:
        ConfigError: if it is a sample of a fixed size, which takes somebody who knows everyone.
    """
    if participation.sampling == "fixed":
        raise ConfigError(
            "participation.sampling = 'fixed': nodes draw their participants alone, and a sample of a fixed size takes "
            "who knows everyone's draw; set 'poisson' or 'cyclic'"
        )
    return participation
