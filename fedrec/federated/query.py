"""`Query`: the question a server asks, and the only code that runs on a user's data.

A query is a frozen dataclass. Its tensor fields are the broadcast, its other fields are settings, and its `kind` is a
name on the node's allow-list: nothing a server sends is ever imported. Reviewing what leaves a device means reading
the classes registered here (`fedrec/federated/queries/`), and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from fedrec.components import same_definition
from fedrec.errors import ConfigError, DataError, did_you_mean
from fedrec.federated.cohort import NO_STATE, Cohort, State
from fedrec.federated.contribution import Contribution
from fedrec.streams import Streams

Setting = int | float | str | bool


class Query(ABC):
    """A sum query. Subclasses are frozen dataclasses of tensors (broadcast) and plain settings.

    Attributes:
        kind: the name on the allow-list.
        private: names of the private state that it reads and steps on the device.
        symmetric: names of the tables that are symmetric matrices; their noise is symmetrised.
        sparse: names of the tables that may be summed without their zeros, if all that is added to them are `Outer`
            products; an engine that adds noise sums them in full.
        held_out: the part of users' held-out items that it is handed; None for all but evaluation.
        everyone: whether it is asked of the whole population, and waits for it, rather than of a round's participants.
    """

    kind: ClassVar[str]
    private: ClassVar[tuple[str, ...]] = ()
    symmetric: ClassVar[frozenset[str]] = frozenset()
    held_out: str | None = None
    everyone: bool = False

    @property
    @abstractmethod
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """name -> (rows, width) of each summed table; dense parameters are a (1, P) table."""

    @abstractmethod
    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """Each user's contribution to each table, and the users' new private state.

        It must treat users alone: no value of one user may depend on another's. A pure function of its arguments, which
        engines call from several threads at a time.
        """

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        """All of `private` for users who were never asked before; `draw` stands at round 0."""
        return NO_STATE

    @property
    def sparse(self) -> frozenset[str]:
        """None, unless the query says so."""
        return frozenset()

    @property
    def bounds(self) -> Mapping[str, tuple[float, ...]]:
        """table -> by column, what the absolute value of no entry of a user's answer exceeds, above 0.

        It follows from what is public. Only what has bounds can be summed under masks without a clip.
        """
        return {}

    @property
    def broadcast(self) -> Mapping[str, Tensor]:
        """The tensors that every participant downloads."""
        return {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}  # type: ignore[arg-type]

    @property
    def dtype(self) -> torch.dtype:
        """The precision of what is summed: that of the broadcast, or double if nothing is broadcast."""
        found = [tensor.dtype for tensor in self.broadcast.values() if tensor.is_floating_point()]
        return found[0] if found else torch.float64

    @property
    def settings(self) -> Mapping[str, Setting]:
        """The plain numbers and words that go with them."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not isinstance(getattr(self, f.name), Tensor)}  # type: ignore[arg-type]

    @classmethod
    def build(cls, broadcast: Mapping[str, Tensor], settings: Mapping[str, Setting]) -> Query:
        """The query of a message: the counterpart of `broadcast` and `settings`."""
        return cls(**broadcast, **settings)

    def with_secret(self, secret: bytes) -> Query:
        """The query as a node asks it of its users that keeps a secret: it takes the place of seeds that are public.

        Only of seeds for what nobody else has to draw alike. No message holds it.

        Args:
            secret: 32 bytes, the same for all queries of a run.
        """
        return self

    @property
    def bytes_per_interaction(self) -> int:
        """Working memory that one interaction of a cohort costs, for sizing chunks to the cache."""
        return 4 * max(width for _, width in self.tables.values())


Q = TypeVar("Q", bound=type[Query])

QUERIES: dict[str, type[Query]] = {}
"""The allow-list: what a node answers."""


def allow(kind: str) -> Callable[[Q], Q]:
    """Class decorator that puts a query on the allow-list under its kind."""

    def add(query: Q) -> Q:
        if kind in QUERIES and not same_definition(QUERIES[kind], query):
            raise ConfigError(f"query kind '{kind}' is taken by {QUERIES[kind].__qualname__}; rename one")
        query.kind = kind
        QUERIES[kind] = query
        return query

    return add


def build_query(kind: str, broadcast: Mapping[str, Tensor], settings: Mapping[str, Setting]) -> Query:
    """The query that a message describes.

    Raises:
        DataError: if the kind is not on the allow-list or the fields are not the query's own.
    """
    if kind not in QUERIES:
        raise DataError(f"query kind '{kind}' is not on this node's allow-list; {did_you_mean(kind, QUERIES)}")
    try:
        return QUERIES[kind].build(broadcast, settings)
    except TypeError as error:
        raise DataError(f"query '{kind}' does not fit its definition: {error}") from error
