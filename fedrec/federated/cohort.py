"""Users and what they hold: `Devices` are the whole population, a `Cohort` is a batch of it, `State` is their memory.

A cohort of one and of a million are the same code. Clients' rows are disjoint, so one batched computation over the
disjoint union trains them all, exactly as PyG batches graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError, DataError


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
    """

    dense: Mapping[str, Tensor] = field(default_factory=dict)


NO_STATE = State()


class PrivateMemory:
    """The private state of a whole population, committed under (round, phase).

    A commit can be taken back once: a query that is asked again under the same (round, phase) starts from the state
    before it, so that it returns the same answer and steps nothing twice. Asking for an earlier one is refused.
    """

    def __init__(self, n_users: int) -> None:
        self.n_users = n_users
        self.committed = (0, 0)
        self._dense: dict[str, Tensor] = {}
        self._known: dict[str, Tensor] = {}
        self._undo: list[tuple[str, Tensor, Tensor, Tensor]] = []

    @contextmanager
    def transaction(self, moment: tuple[int, int]) -> Iterator[None]:
        """A query at (round, phase): all that is written within it is committed, or nothing if it fails.

        Raises:
            ConfigError: if a later one is committed already.
        """
        if moment < self.committed:
            raise ConfigError(
                f"round {moment[0]}, phase {moment[1]} was asked for after round {self.committed[0]}, phase "
                f"{self.committed[1]}; restore the checkpoint of that round first"
            )
        if moment == self.committed:
            self._take_back()
        self._undo = []
        self.committed = moment
        try:
            yield
        except BaseException:
            self._take_back()
            raise

    def _take_back(self) -> None:
        for name, users, values, known in reversed(self._undo):
            self._dense[name][users] = values
            self._known[name][users] = known
        self._undo = []

    def read(self, users: Tensor, names: Sequence[str], initial: Callable[[], State]) -> State:
        """The users' state of some names; where a user has none yet, the initial one ([n, width] for each name)."""
        stored = all(name in self._dense and bool(self._known[name][users].all()) for name in names)
        fresh = NO_STATE if stored else initial()
        return State({name: self._read_one(name, users, fresh.dense.get(name)) for name in names})

    def _read_one(self, name: str, users: Tensor, fresh: Tensor | None) -> Tensor:
        if fresh is None:
            return self._dense[name][users]
        if name not in self._dense:
            self._dense[name] = fresh.new_zeros(self.n_users, fresh.shape[1])
            self._known[name] = torch.zeros(self.n_users, dtype=torch.bool, device=fresh.device)
        if self._dense[name].shape[1] != fresh.shape[1]:
            raise DataError(
                f"private state '{name}' has width {self._dense[name].shape[1]} and the query asks for "
                f"{fresh.shape[1]}; start a new run"
            )
        return torch.where(self._known[name][users].unsqueeze(1), self._dense[name][users], fresh)

    def write(self, users: Tensor, state: State) -> None:
        """Commit the users' new state, [n, width] for each name that `read` was asked for."""
        for name, values in state.dense.items():
            self._undo.append((name, users, self._dense[name][users], self._known[name][users]))
            self._dense[name][users] = values
            self._known[name][users] = True

    def tensors(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint."""
        saved = {"committed": torch.tensor(self.committed)}
        for name, values in self._dense.items():
            saved |= {f"dense/{name}": values, f"known/{name}": self._known[name]}
        return saved

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Roll back to a checkpoint: the counterpart of `tensors`."""
        round, phase = tensors["committed"].tolist()
        self.committed, self._undo = (round, phase), []
        self._dense = {name[6:]: values.clone() for name, values in tensors.items() if name.startswith("dense/")}
        self._known = {name[6:]: values.clone() for name, values in tensors.items() if name.startswith("known/")}
