"""Secure sums over messages: nodes mask their sums, so that the server, which carries every message, sees the total.

The four steps are those of `fedrec.privacy.secure_sum`, with nodes in the place of users: they advertise keys, share
their secrets among each other in sealed boxes, mask their words, and reveal what opens the sum of those who answered. A
node keeps its side between messages in its store; it masks once and reveals once.

    step        to a node                                   from it
    advertise   the session                                 two public keys
    share       its neighbours' keys                        a sealed box for each
    mask        the query, and the boxes for it             its sum in fixed point, masked
    unmask      who answered                                shares of their seeds, of the others' keys
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from flwr.app import ConfigRecord, RecordDict

from fedrec.errors import DataError, PrivacyError
from fedrec.federated import Query, Totals
from fedrec.flower.records import arrays, part, tensors
from fedrec.privacy import BIT, BIT_CLIP
from fedrec.privacy.fixed_point import FixedPoint, Words
from fedrec.privacy.secure_sum import Advert, Masked, Sealed, Session, Shares

ADVERTISE, SHARE, MASK, UNMASK = "advertise", "share", "mask", "unmask"

_SESSION, _KEYS, _BOXES, _POINTS, _WORDS, _SHARES = "session", "keys", "boxes", "points", "words", "shares"

_LARGEST_SESSION = 1 << 20  # nodes of one sum; a node looks at every number


@dataclass(frozen=True)
class Layout:
    """How the tables of a sum become words: each table in fixed point of its own, one after the other.

    Attributes:
        names: of the tables, that of the clip's bits among them.
        shapes: of each.
        points: of each.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    points: tuple[FixedPoint, ...]

    @property
    def length(self) -> int:
        """Words of a sum."""
        return sum(math.prod(shape) for shape in self.shapes)

    def words_of(self, totals: Totals) -> Words:
        """A node's sum as words.

        Raises:
            PrivacyError: if an entry is larger than clips allow.
        """
        bits = torch.full((1, 1), BIT_CLIP * totals.answered - totals.clipped, dtype=torch.float64)
        tables = {**totals.sums, BIT: bits}
        encoded = [
            point.encode(tables[name].to_dense().double().numpy().reshape(-1))
            for name, point in zip(self.names, self.points, strict=True)
        ]
        return np.concatenate(encoded)

    def tables_of(self, words: Words) -> dict[str, torch.Tensor]:
        """The tables that words stand for."""
        found, start = {}, 0
        for name, shape, point in zip(self.names, self.shapes, self.points, strict=True):
            size = math.prod(shape)
            found[name] = torch.from_numpy(point.decode(words[start : start + size])).reshape(shape)
            start += size
        return found

    def write(self, record: RecordDict) -> None:
        """Put the fixed-point numbers of each table into a message."""
        record[_POINTS] = ConfigRecord(
            {
                "names": list(self.names),
                "bounds": [point.bound for point in self.points],
                "answers": [point.answers for point in self.points],
            }
        )


class SumLayout(Protocol):
    """How the tables of a sum become words, as far as the server needs it."""

    @property
    def length(self) -> int:
        """Words of a sum."""

    def tables_of(self, words: Words) -> dict[str, torch.Tensor]:
        """The tables that words stand for."""

    def write(self, record: RecordDict) -> None:
        """Put into a message what a node needs beside the query."""


class WordLayout(SumLayout, Protocol):
    """How the tables of a sum become words, where a node's sum does."""

    def words_of(self, totals: Totals) -> Words:
        """A node's sum as words."""


def session_to_record(session: Session, number: int) -> ConfigRecord:
    """What is agreed on, for the node of a number."""
    return ConfigRecord(
        {
            "number": number,
            "users": list(session.users),
            "length": session.length,
            "threshold": session.threshold,
            "neighbors": session.neighbors or 0,
            "label": session.label,
        }
    )


def session_from_record(record: RecordDict) -> tuple[Session, int]:
    """What is agreed on, and the node's own number.

    Raises:
        DataError: if it cannot be read.
        PrivacyError: if its numbers do not fit each other.
    """
    values = dict(part(record, _SESSION, ConfigRecord))
    wanted = {"number": int, "users": list, "length": int, "threshold": int, "neighbors": int, "label": str}
    if {name: type(value) for name, value in values.items()} != wanted:
        raise DataError(f"a secure sum agreed on by {sorted(values)}, which needs {sorted(wanted)}")
    users = cast(list[int], values["users"])
    if not 2 <= len(users) <= _LARGEST_SESSION or not all(type(user) is int for user in users):
        raise DataError(f"a secure sum of {len(users)} nodes; there are at least two and at most {_LARGEST_SESSION}")
    length, threshold, neighbors, number = (
        cast(int, values[name]) for name in ("length", "threshold", "neighbors", "number")
    )
    session = Session(tuple(users), length, threshold, neighbors or None, str(values["label"]))
    session.neighbors_of(number)
    return session, number


def step_of(record: RecordDict, session: Session, number: int, step: str) -> RecordDict:
    """A message of a secure sum: a step, and what was agreed on."""
    record[_SESSION] = session_to_record(session, number)
    record["step"] = ConfigRecord({"step": step})
    return record


def step_from(record: RecordDict) -> str:
    """The step of a message."""
    return str(part(record, "step", ConfigRecord).get("step"))


def adverts_to_record(adverts: Sequence[Advert]) -> RecordDict:
    """Public keys."""
    return RecordDict(
        {
            _KEYS: ConfigRecord(
                {
                    "users": [advert.user for advert in adverts],
                    "mask": [advert.mask_key for advert in adverts],
                    "seal": [advert.seal_key for advert in adverts],
                }
            )
        }
    )


def adverts_from_record(record: RecordDict) -> list[Advert]:
    """Public keys.

    Raises:
        DataError: if they are none.
    """
    users, masks, seals = _columns(record, _KEYS, "users", "mask", "seal")
    if any(len(key) != 32 for key in (*masks, *seals)):
        raise DataError("public keys that are not of 32 bytes")
    return [Advert(user, mask, seal) for user, mask, seal in zip(users, masks, seals, strict=True)]


def boxes_to_record(boxes: Sequence[Sealed]) -> RecordDict:
    """Sealed boxes."""
    return RecordDict(
        {
            _BOXES: ConfigRecord(
                {
                    "senders": [box.sender for box in boxes],
                    "receivers": [box.receiver for box in boxes],
                    "boxes": [box.box for box in boxes],
                }
            )
        }
    )


def boxes_from_record(record: RecordDict) -> list[Sealed]:
    """Sealed boxes.

    Raises:
        DataError: if they are none.
    """
    senders, receivers, boxes = _columns(record, _BOXES, "senders", "receivers", "boxes")
    return [Sealed(*box) for box in zip(senders, receivers, boxes, strict=True)]


def layout_from_record(record: RecordDict, query: Query) -> Layout:
    """How a query's tables become words.

    Raises:
        DataError: if they are not the query's tables.
        PrivacyError: if no number could be held.
    """
    values = dict(part(record, _POINTS, ConfigRecord))
    names, bounds, answers = (values.get(name) for name in ("names", "bounds", "answers"))
    if not (isinstance(names, list) and isinstance(bounds, list) and isinstance(answers, list)):
        raise DataError("fixed-point numbers that cannot be read")
    shapes = {**query.tables, BIT: (1, 1)}
    if not set(query.tables) <= set(names) <= set(shapes) or not len(names) == len(bounds) == len(answers):
        raise DataError(f"fixed-point numbers of {names} for a query of {sorted(query.tables)}")
    points = tuple(FixedPoint(float(bound), int(most)) for bound, most in zip(bounds, answers, strict=True))
    return Layout(tuple(names), tuple(shapes[name] for name in names), points)


def masked_to_record(masked: Masked) -> RecordDict:
    """Masked words."""
    words = torch.from_numpy(masked.words.view(np.int32))
    return RecordDict({_WORDS: arrays({_WORDS: words})})


def masked_from_record(number: int, record: RecordDict, length: int) -> Masked:
    """Masked words of a node.

    Raises:
        DataError: if they are not as many as were asked for.
    """
    found = tensors(record.array_records[_WORDS]) if _WORDS in record.array_records else {}
    words = found.get(_WORDS)
    if words is None or words.dtype != torch.int32 or words.shape != (length,):
        raise DataError(f"no {length} masked words")
    return Masked(number, words.numpy().view(np.uint32))


def survivors_to_record(answered: Sequence[int]) -> RecordDict:
    """Who answered."""
    return RecordDict({_SHARES: ConfigRecord({"answered": list(answered)})})


def survivors_from_record(record: RecordDict) -> list[int]:
    """Who answered.

    Raises:
        DataError: if that cannot be read.
    """
    answered = part(record, _SHARES, ConfigRecord).get("answered")
    if not isinstance(answered, list) or not all(type(user) is int for user in answered):
        raise DataError("a list of those who answered that cannot be read")
    return answered


def shares_to_record(shares: Shares) -> RecordDict:
    """What a node reveals."""
    return RecordDict(
        {
            _SHARES: ConfigRecord(
                {
                    "answered": list(shares.seeds),
                    "seeds": list(shares.seeds.values()),
                    "lost": list(shares.mask_keys),
                    "keys": list(shares.mask_keys.values()),
                }
            )
        }
    )


def shares_from_record(number: int, record: RecordDict) -> Shares:
    """What a node reveals.

    Raises:
        DataError: if it cannot be read.
    """
    answered, seeds = _columns(record, _SHARES, "answered", "seeds")
    lost, keys = _columns(record, _SHARES, "lost", "keys")
    return Shares(number, dict(zip(answered, seeds, strict=True)), dict(zip(lost, keys, strict=True)))


def _columns(record: RecordDict, name: str, *columns: str) -> list[list[Any]]:
    """Lists of one length: numbers of nodes first, then bytes.

    Raises:
        DataError: if they are not.
    """
    values: Mapping[str, object] = dict(part(record, name, ConfigRecord))
    found = [values.get(column, []) for column in columns]
    lists = [column for column in found if isinstance(column, list)]
    if len(lists) < len(found) or len({len(column) for column in lists}) > 1:
        raise DataError(f"'{name}' of a message with lists that do not belong together")
    for column, content in zip(columns, lists, strict=True):
        sort = int if column in ("users", "senders", "receivers", "answered", "lost") else bytes
        if not all(type(entry) is sort for entry in content):
            raise DataError(f"'{column}' of a message holds something else than {sort.__name__}")
    return lists


def require_length(length: int, session: Session) -> None:
    """Refuse a query of other tables than were agreed on.

    Raises:
        PrivacyError: naming both lengths.
    """
    if length != session.length:
        raise PrivacyError(f"a secure sum of {session.length} words, and a query of {length}")
