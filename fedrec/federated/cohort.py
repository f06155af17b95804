"""Users and what they hold: `Devices` are the whole population, a `Cohort` is a batch of it, `State` is their memory.

A cohort of one and of a million are the same code. Clients' rows are disjoint, so one batched computation over the
disjoint union trains them all, exactly as PyG batches graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.federated.contribution import Rows


@dataclass(frozen=True, eq=False)
class Cohort:
    """A batch of users as one ragged structure.

    Attributes:
        keys: [n] int64 stream keys, a function of the original user ids.
        indptr: [n + 1] int64; user u's training items are items[indptr[u]:indptr[u + 1]].
        items: [R] int64 item codes of the public catalogue, ascending within a user.
        n_items: size of the catalogue.
    """

    keys: Tensor
    indptr: Tensor
    items: Tensor
    n_items: int

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def degrees(self) -> Tensor:
        """[n] int64 number of training items of each user."""
        return self.indptr.diff()

    @cached_property
    def owner(self) -> Tensor:
        """[R] int64 position within the cohort of the user whom each item belongs to."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.items.device), self.degrees)

    def take(self, users: Tensor) -> Cohort:
        """Some of the cohort's users, [m] int64 positions, in the order given."""
        return Devices(self.keys, self.indptr, self.items, self.n_items).cohort(users)

    def sum_by_user(self, values: Tensor) -> Tensor:
        """Σ over each user's items: [R, ...] -> [n, ...]. A user without items gets zero."""
        total = torch.zeros(len(self), *values.shape[1:], dtype=values.dtype, device=values.device)
        return total.index_add_(0, self.owner, values)


@dataclass(frozen=True, eq=False)
class Devices:
    """A population: every user with their own training items. Only engines hold it; queries are handed cohorts.

    Attributes:
        keys, indptr, items, n_items: as in `Cohort`, over the whole population.
    """

    keys: Tensor
    indptr: Tensor
    items: Tensor
    n_items: int

    @classmethod
    def of(cls, train: Interactions, device: torch.device | str = "cpu") -> Devices:
        """One device for each user of the vocabulary, in code order; some may hold no interaction."""
        indptr, items = train.csr
        return cls(train.users.keys.to(device), indptr.to(device), items.to(device), train.n_items)

    def __len__(self) -> int:
        return len(self.keys)

    def cohort(self, users: Tensor) -> Cohort:
        """The users at some positions, [n] int64, in the order given."""
        starts = self.indptr[users]
        degrees = self.indptr[users + 1] - starts
        indptr = torch.zeros(len(users) + 1, dtype=torch.int64, device=self.items.device)
        torch.cumsum(degrees, dim=0, out=indptr[1:])
        offset = torch.repeat_interleave(starts - indptr[:-1], degrees)
        items = self.items[offset + torch.arange(len(offset), device=offset.device)]
        return Cohort(self.keys[users], indptr, items, self.n_items)

    def take(self, users: Tensor) -> Devices:
        """A population of some of the users: what one node holds."""
        cohort = self.cohort(users)
        return Devices(cohort.keys, cohort.indptr, cohort.items, self.n_items)


@dataclass(frozen=True, eq=False)
class State:
    """The private memory of a cohort's users. It enters a contribution only through what a query computes.

    Attributes:
        dense: name -> [n, width], a row a user (user vector, optimiser moments).
        ragged: name -> any number of rows a user (a personal item table); `Rows.owner` is the position in the cohort,
            and (owner, index) pairs are unique and sorted.
    """

    dense: Mapping[str, Tensor] = field(default_factory=dict)
    ragged: Mapping[str, Rows] = field(default_factory=dict)

    def take(self, users: Tensor) -> State:
        """The memory of some of the users, [m] int64 ascending positions: the state of `cohort.take(users)`."""
        return State(
            {name: values[users] for name, values in self.dense.items()},
            {name: rows.take(users) for name, rows in self.ragged.items()},
        )


NO_STATE = State()
