"""What goes with a query so that a node can answer it: when it is asked, of whom, and from which private state.

Every number here is the server's choice and public: the run's seed, how participants are drawn, the clip. A node reads
each field by its type and its range, and refuses a message that lacks one or has another besides.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, fields

import pydantic
from flwr.app import ConfigRecord, RecordDict

from fedrec.errors import DataError
from fedrec.federated import ParticipationConfig, Query
from fedrec.flower.records import part, query_to_record
from fedrec.privacy import Clip, Randomness

VERSION = 2
"""Of the messages. Server and nodes must have the same."""

Moment = tuple[int, int]
"""(round, phase)."""

_REQUEST = "request"


def run_of(session: str) -> str:
    """What a session is part of: one run of an experiment, whose fits are compared."""
    return session.partition(".")[0]


@dataclass(frozen=True)
class Request:
    """The circumstances of a query.

    Attributes:
        session: names what the users remember together: one fit of one arm with one seed; up to the first "." it names
            the run.
        attempt: grows whenever a server rolls its nodes back: those who sent before are refused from then on.
        seed: of the run's random streams.
        round, phase: the moment at which it is asked. A node answers a moment once and repeats that answer.
        base_round, base_phase: the moment whose private state it starts from.
        keep: further moments whose private state the server may come back to, "3/1,5/0".
        participation: who takes part, as JSON.
        randomness: whether the participants are drawn from the seed or from the node's operating system.
        clip: norm that each user's contribution is clipped to, over all tables; 0 is none.
        tables: a norm for each table, as JSON, of which `clip` is the root of the sum of squares; "" is one for all.
        silo_by: the public user column that all users of a node share a value of, where a node is one silo and answers
            as one client; "" where every user is a client.
    """

    session: str
    attempt: int
    seed: int
    round: int
    phase: int
    base_round: int
    base_phase: int
    keep: str
    participation: str
    randomness: Randomness
    clip: float
    tables: str = ""
    silo_by: str = ""

    @property
    def moment(self) -> Moment:
        """(round, phase)."""
        return self.round, self.phase

    @property
    def run(self) -> str:
        """What the session is part of."""
        return run_of(self.session)

    @property
    def base(self) -> Moment:
        """The moment whose private state it starts from."""
        return self.base_round, self.base_phase

    @property
    def kept(self) -> frozenset[Moment]:
        """Moments whose private state must not be forgotten."""
        return frozenset(_moment(text) for text in self.keep.split(",") if text)

    @property
    def bound(self) -> Clip | None:
        """What each user's contribution is clipped to."""
        if not self.clip:
            return None
        return Clip(self.clip, Clip.by_table(json.loads(self.tables)).tables if self.tables else ())

    @property
    def drawn_by(self) -> ParticipationConfig:
        """Who takes part."""
        return ParticipationConfig.model_validate_json(self.participation)


_TYPES = {"attempt": int, "seed": int, "round": int, "phase": int, "base_round": int, "base_phase": int, "clip": float}


def moments(of: frozenset[Moment]) -> str:
    """Moments as a request writes them."""
    return ",".join(f"{round}/{phase}" for round, phase in sorted(of))


def _moment(text: str) -> Moment:
    round, phase = map(int, text.split("/"))
    return round, phase


def _require_version(version: object) -> None:
    """Refuse, with a DataError, a message of another version than the one that is spoken here."""
    if version != VERSION:
        raise DataError(
            f"version {version} of the messages, where {VERSION} is spoken; install one fedrec on server and nodes"
        )


def request_to_record(query: Query, request: Request) -> RecordDict:
    """The message that asks a query."""
    record = query_to_record(query)
    record[_REQUEST] = ConfigRecord({"version": VERSION, **asdict(request)})
    return record


def request_alone(request: Request) -> RecordDict:
    """The circumstances of a query that another message brings."""
    return RecordDict({_REQUEST: ConfigRecord({"version": VERSION, **asdict(request)})})


def request_from_record(record: RecordDict) -> Request:
    """The circumstances of a message's query.

    Raises:
        DataError: if it is of another version of the messages, or a field is missing, unknown or impossible.
    """
    values = dict(part(record, _REQUEST, ConfigRecord))
    _require_version(values.pop("version", None))
    names = {field.name for field in fields(Request)}
    if set(values) != names:
        raise DataError(f"a request with {sorted(set(values) ^ names)} missing or unknown")
    for name, value in values.items():
        wanted = _TYPES.get(name, str)
        if type(value) is not wanted:
            raise DataError(f"a request whose {name} is {value!r}; it needs a value of type {wanted.__name__}")
    request = Request(**values)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", request.session):
        raise DataError(f"a session named {request.session!r}; use letters, digits, '-', '_' and '.'")
    if request.randomness not in ("seeded", "os"):
        raise DataError(f"randomness {request.randomness!r}; there is 'seeded' and 'os'")
    if not request.clip >= 0 or min(request.base) < 0 or not request.base < request.moment:
        raise DataError(f"round {request.round}, phase {request.phase} from {request.base} with clip {request.clip}")
    try:
        if not all(kept <= request.base for kept in request.kept):
            raise DataError(f"moments {request.keep} to be kept, which are later than {request.base}")
        request.drawn_by  # noqa: B018 (it is read to see that it can be)
        by_table = request.bound.tables if request.bound is not None else ()
        if request.tables and not math.isclose(math.hypot(*(norm for _, norm in by_table)), request.clip):
            raise DataError(f"clips by table {request.tables}, which are not those of norm {request.clip}")
    except (AttributeError, TypeError, ValueError, RecursionError, pydantic.ValidationError) as error:
        raise DataError(f"a request that cannot be read: {error}") from error
    return request


_ANSWER = "answer"


@dataclass(frozen=True)
class Heading:
    """What an answer says it answers."""

    kind: str
    round: int
    phase: int
    attempt: int


def head(record: RecordDict, kind: str, request: Request) -> RecordDict:
    """An answer, with what it answers."""
    heading = Heading(kind, request.round, request.phase, request.attempt)
    record[_ANSWER] = ConfigRecord({"version": VERSION, **asdict(heading)})
    return record


def require_heading(record: RecordDict, kind: str, request: Request) -> None:
    """Refuse an answer to another question.

    Raises:
        DataError: naming what it answers, and what was asked.
    """
    values = dict(part(record, _ANSWER, ConfigRecord))
    _require_version(values.get("version"))
    wanted = asdict(Heading(kind, request.round, request.phase, request.attempt))
    wrong = [name for name, value in wanted.items() if values.get(name) != value]
    if wrong:
        raise DataError(
            "an answer to another question: "
            + ", ".join(f"{name} {values.get(name)!r} instead of {wanted[name]!r}" for name in wrong)
        )


_DRAWN = "drawn"


def drawn_to_record(clients: int) -> RecordDict:
    """How many of a node's clients take part in a round."""
    return RecordDict({_DRAWN: ConfigRecord({"clients": clients})})


def drawn_from_record(record: RecordDict, users: int) -> int:
    """How many of a node's clients take part in a round.

    Args:
        record: the message.
        users: of the node.

    Raises:
        DataError: if it is not the number of some of the node's users.
    """
    clients = part(record, _DRAWN, ConfigRecord).get("clients")
    if type(clients) is not int or not 0 <= clients <= users:
        raise DataError(f"{clients!r} clients of a node of {users} users take part")
    return clients


_REFUSED = "refused"


def refusal(reason: str) -> RecordDict:
    """A node's answer where it does not answer; the reason is one line about the message, not about its users."""
    return RecordDict({_REFUSED: ConfigRecord({"version": VERSION, "reason": " ".join(reason.split())[:500]})})


def refused(record: RecordDict) -> str | None:
    """Why a node did not answer, or None if it did."""
    found = record.get(_REFUSED)
    return str(found.get("reason", "no reason")) if isinstance(found, ConfigRecord) else None


_GREETING = "greeting"


@dataclass(frozen=True)
class Greeting:
    """What a node says of itself: all of it is a count, or public.

    Attributes:
        users: whom it holds.
        items: size of its catalogue.
        catalogue: fingerprint of the catalogue, by original ids.
        parts: the held-out parts that its users bring, "valid,test".
    """

    users: int
    items: int
    catalogue: str
    parts: str


def greeting_request() -> RecordDict:
    """The message that asks a node what it holds."""
    return RecordDict({_GREETING: ConfigRecord({"version": VERSION})})


def require_greeting(record: RecordDict) -> None:
    """Refuse a greeting of another version.

    Raises:
        DataError: naming it.
    """
    _require_version(part(record, _GREETING, ConfigRecord).get("version"))


def greeting_to_record(greeting: Greeting) -> RecordDict:
    """A node's answer to a greeting."""
    return RecordDict({_GREETING: ConfigRecord({"version": VERSION, **asdict(greeting)})})


def greeting_from_record(record: RecordDict) -> Greeting:
    """What a node holds.

    Raises:
        DataError: if it cannot be read.
    """
    values = dict(part(record, _GREETING, ConfigRecord))
    _require_version(values.pop("version", None))
    wanted = {"users": int, "items": int, "catalogue": str, "parts": str}
    if {name: type(value) for name, value in values.items()} != wanted:
        raise DataError(f"a greeting of {sorted(values)}, which needs {sorted(wanted)}")
    greeting = Greeting(**values)
    if greeting.users < 1 or greeting.items < 1:
        raise DataError(f"a greeting of {greeting.users} users and {greeting.items} items")
    return greeting
