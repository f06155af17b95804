"""Sums that are no releases, under masks: without a clip, by what a query says that no user's answer exceeds.

The test of a deployment asks for such sums. They are exact where they are whole numbers, and else to a step that leaves
room for the largest sum there can be, so that nothing wraps around; a node refuses to send what is larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from fedrec.errors import ConfigError, DataError
from fedrec.federated import Query, Totals
from fedrec.flower.records import part
from fedrec.privacy.fixed_point import SharedPoint, Words
from fedrec.privacy.secure_sum import Session

_EXACT = "exact"


@dataclass(frozen=True)
class ExactLayout:
    """How the tables of a sum without a clip become words: column by column, one table after the other.

    Attributes:
        shapes: of the tables, by name.
        points: of their columns.
        users: of all nodes together.
        own: of the node that encodes.
    """

    shapes: Mapping[str, tuple[int, int]]
    points: Mapping[str, tuple[SharedPoint, ...]]
    users: int
    own: int

    @classmethod
    def of(cls, query: Query, users: int, nodes: int, own: int | None = None) -> ExactLayout:
        """That of a query.

        Args:
            query: with bounds.
            users: of all nodes together.
            nodes: whose sums are added up.
            own: users of the node that encodes; none where sums are decoded alone.

        Raises:
            ConfigError: if the query says of some table not how large its entries can be.
            PrivacyError: if a sum has no room in two words.
        """
        shapes, bounds = query.tables, query.bounds
        if {name: len(of) for name, of in bounds.items()} != {name: width for name, (_, width) in shapes.items()}:
            raise ConfigError(
                f"query '{query.kind}' does not say how large a user's answer can be, so that a masked sum could "
                "overflow; give it `bounds`, or ask with a clip"
            )
        points = {name: tuple(SharedPoint(bound, users, nodes) for bound in bounds[name]) for name in shapes}
        return cls(shapes, points, users, users if own is None else own)

    @property
    def length(self) -> int:
        """Words of a sum."""
        return sum(rows * sum(point.words for point in self.points[name]) for name, (rows, _) in self.shapes.items())

    @property
    def largest_errors(self) -> dict[str, Tensor]:
        """How far an entry of a decoded table can be from the real one: [1, width] a table."""
        return {name: torch.tensor([[point.largest_error for point in of]]) for name, of in self.points.items()}

    def words_of(self, totals: Totals) -> Words:
        """A node's sum as words.

        Raises:
            PrivacyError: if an entry is larger than the query says that so many users can make it.
        """
        words = []
        for name, columns in self.points.items():
            table = totals.sums[name].to_dense().double().numpy()
            words += [point.encode(table[:, place], self.own).reshape(-1) for place, point in enumerate(columns)]
        return np.concatenate(words)

    def tables_of(self, words: Words) -> dict[str, Tensor]:
        """The tables that words stand for, float64."""
        found, columns = {}, self._columns(words)
        for name, (rows, width) in self.shapes.items():
            found[name] = torch.empty(rows, width, dtype=torch.float64)
            for place in range(width):
                found[name][:, place] = next(columns)
        return found

    def _columns(self, words: Words) -> Iterator[Tensor]:
        start = 0
        for name, (rows, _) in self.shapes.items():
            for point in self.points[name]:
                end = start + point.words * rows
                yield torch.from_numpy(point.decode(words[start:end].reshape(point.words, rows)))
                start = end

    def write(self, record: RecordDict) -> None:
        """Put into a message what a node needs beside the query."""
        record[_EXACT] = ConfigRecord({"users": self.users})


def is_exact(record: RecordDict) -> bool:
    """Whether a message asks for a sum without a clip, as tests do."""
    return _EXACT in record


def exact_layout(record: RecordDict, query: Query, session: Session, own: int) -> ExactLayout | None:
    """The layout of a message that asks for a sum without a clip; None of another.

    Args:
        record: the message.
        query: that it asks.
        session: of the secure sum.
        own: users of this node.

    Raises:
        DataError: if it says of fewer users than the node has.
        ConfigError: if the query is not for such sums.
    """
    if not is_exact(record):
        return None
    users = part(record, _EXACT, ConfigRecord).get("users")
    if type(users) is not int or users < own:
        raise DataError(f"a sum over {users!r} users, and this node alone has {own}")
    return ExactLayout.of(query, users, len(session.users), own)
