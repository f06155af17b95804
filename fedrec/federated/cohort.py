"""Users and what they hold: `Devices` are the whole population, a `Cohort` is a batch of it, `State` is their memory.

A cohort of one and of a million are the same code. Clients' rows are disjoint, so one batched computation over the
disjoint union trains them all, exactly as PyG batches graphs.

A client is one user, or a silo of several. What a user holds out for evaluation lies beside the training items and is
handed only to a query that declares it (`Query.held_out`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.errors import DataError
from fedrec.federated.contribution import Rows

Csr = tuple[Tensor, Tensor]
"""Items by user: (indptr [n + 1], items [R] ascending within a user), both int64."""


def _rows_of(csr: Csr, users: Tensor) -> Csr:
    """The items of some users, in the order given."""
    starts = csr[0][users]
    degrees = csr[0][users + 1] - starts
    indptr = torch.zeros(len(users) + 1, dtype=torch.int64, device=users.device)
    torch.cumsum(degrees, dim=0, out=indptr[1:])
    offset = torch.repeat_interleave(starts - indptr[:-1], degrees)
    return indptr, csr[1][offset + torch.arange(len(offset), device=users.device)]


@dataclass(frozen=True, eq=False)
class HeldOutItems:
    """One held-out part of some users, and what ranking it takes.

    Attributes:
        indptr, items: the held-out items by user.
        known: items by user that are no candidates, beside the training items (validation, when testing).
        item_keys: [n_items] int64 stream keys of the public catalogue, which order ties.
        groups: name -> [n] int64 code of each user's group by an attribute that stays on the device; -1 is unknown.
    """

    indptr: Tensor
    items: Tensor
    known: tuple[Csr, ...]
    item_keys: Tensor
    groups: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, part: Interactions, *known: Interactions, groups: Mapping[str, Tensor] | None = None) -> Self:
        """What the users of a vocabulary hold out.

        Args:
            part: the held-out interactions.
            known: parts whose items are no candidates, beside training.
            groups: name -> [n_users] int64 codes.
        """
        return cls(*part.csr, tuple(other.csr for other in known), part.items.keys, dict(groups or {}))

    def to(self, device: torch.device | str) -> HeldOutItems:
        """The same on another device."""
        return HeldOutItems(
            self.indptr.to(device),
            self.items.to(device),
            tuple((indptr.to(device), items.to(device)) for indptr, items in self.known),
            self.item_keys.to(device),
            {name: codes.to(device) for name, codes in self.groups.items()},
        )

    def take(self, users: Tensor) -> HeldOutItems:
        """That of some users, [m] int64 positions, in the order given."""
        indptr, items = _rows_of((self.indptr, self.items), users)
        known = tuple(_rows_of(csr, users) for csr in self.known)
        return HeldOutItems(
            indptr, items, known, self.item_keys, {name: code[users] for name, code in self.groups.items()}
        )


@dataclass(frozen=True, eq=False)
class Cohort:
    """A batch of users as one ragged structure.

    Attributes:
        keys: [n] int64 stream keys, a function of the original user ids.
        indptr: [n + 1] int64; user u's training items are items[indptr[u]:indptr[u + 1]].
        items: [R] int64 item codes of the public catalogue, ascending within a user.
        n_items: size of the catalogue.
        silo: [n] int64 silo of each user, those of one silo adjacent; None where every user is a client.
        held_out: what a query that declares it is handed, and None for every other.
    """

    keys: Tensor
    indptr: Tensor
    items: Tensor
    n_items: int
    silo: Tensor | None = None
    held_out: HeldOutItems | None = None

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

    @cached_property
    def client(self) -> Tensor:
        """[n] int64 which of the cohort's clients each user belongs to, ascending from 0 without a gap."""
        if self.silo is None:
            return torch.arange(len(self), device=self.keys.device)
        change = torch.zeros_like(self.silo)
        change[1:] = self.silo[1:] != self.silo[:-1]
        return change.cumsum(0)

    @cached_property
    def n_clients(self) -> int:
        """Number of clients."""
        return int(self.client[-1]) + 1 if len(self) else 0

    def take(self, users: Tensor) -> Cohort:
        """Some of the cohort's users, [m] int64 positions, in the order given, without what they hold out."""
        return Devices(self.keys, self.indptr, self.items, self.n_items, self.silo).cohort(users)

    def sum_by_user(self, values: Tensor) -> Tensor:
        """Σ over each user's items: [R, ...] -> [n, ...]. A user without items gets zero."""
        total = torch.zeros(len(self), *values.shape[1:], dtype=values.dtype, device=values.device)
        return total.index_add_(0, self.owner, values)


@dataclass(frozen=True, eq=False)
class Devices:
    """A population: every user with what they hold. Only engines hold it; queries are handed cohorts.

    Attributes:
        keys, indptr, items, n_items: as in `Cohort`, over the whole population.
        silo: [U] int64 silo of each user, numbered from 0 without a gap; None where every user is a client.
        held_out: by part ("valid"), what the users hold out.
    """

    keys: Tensor
    indptr: Tensor
    items: Tensor
    n_items: int
    silo: Tensor | None = None
    held_out: Mapping[str, HeldOutItems] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        train: Interactions,
        device: torch.device | str = "cpu",
        *,
        silo: Tensor | None = None,
        held_out: Mapping[str, HeldOutItems] | None = None,
    ) -> Devices:
        """One device for each user of the vocabulary, in code order; some may hold no interaction."""
        indptr, items = train.csr
        parts = {name: part.to(device) for name, part in (held_out or {}).items()}
        of_users = None if silo is None else silo.to(device)
        return cls(train.users.keys.to(device), indptr.to(device), items.to(device), train.n_items, of_users, parts)

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def client_keys(self) -> Tensor:
        """[C] int64 stream keys of the clients: a user's own, or the smallest of a silo's users'."""
        if self.silo is None:
            return self.keys
        largest = torch.full((self._members[0].numel() - 1,), torch.iinfo(torch.int64).max, device=self.keys.device)
        return largest.scatter_reduce(0, self.silo, self.keys, "amin")

    def members(self, clients: Tensor) -> Tensor:
        """The users of some clients, [m] int64 -> positions, client by client."""
        return clients if self.silo is None else _rows_of(self._members, clients)[1]

    @cached_property
    def _members(self) -> Csr:
        assert self.silo is not None
        sizes = torch.bincount(self.silo)
        return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]), torch.argsort(self.silo, stable=True)

    def cohort(self, users: Tensor, held_out: str | None = None) -> Cohort:
        """The users at some positions, [n] int64, in the order given.

        Args:
            users: positions.
            held_out: the part that the cohort's users bring with them; None is none.

        Raises:
            DataError: if no such part was dealt to them.
        """
        indptr, items = _rows_of((self.indptr, self.items), users)
        silo = None if self.silo is None else self.silo[users]
        cohort = Cohort(self.keys[users], indptr, items, self.n_items, silo)
        if held_out is None:
            return cohort
        if held_out not in self.held_out:
            raise DataError(
                f"the devices hold out {sorted(self.held_out) or 'nothing'} and the query asks for '{held_out}'; deal "
                "them that part"
            )
        return replace(cohort, held_out=self.held_out[held_out].take(users))

    def take(self, users: Tensor) -> Devices:
        """A population of some of the users: what one node holds."""
        cohort = self.cohort(users)
        silo = None if cohort.silo is None else torch.unique(cohort.silo, return_inverse=True)[1]
        held_out = {name: part.take(users) for name, part in self.held_out.items()}
        return Devices(cohort.keys, cohort.indptr, cohort.items, self.n_items, silo, held_out)


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
