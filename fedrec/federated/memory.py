"""`PrivateMemory`: what the users of a population remember between queries, on their own devices.

Dense state is a row a user; ragged state is any number of item rows a user. Both are committed under (round, phase),
replayed, taken back and checkpointed alike, for a chunk of users at a time and without a loop over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor

from fedrec.errors import ConfigError, DataError
from fedrec.federated.cohort import NO_STATE, State
from fedrec.federated.contribution import Rows


class _DenseTable:
    """[U, width], a row a user, and who has one. What is overwritten is kept until the next transaction."""

    def __init__(self, value: Tensor, known: Tensor) -> None:
        self.value = value
        self.known = known
        self._undo: list[tuple[Tensor, Tensor, Tensor]] = []

    @classmethod
    def like(cls, values: Tensor, n_users: int) -> Self:
        """Nobody's state, of the width and type of `values`."""
        known = torch.zeros(n_users, dtype=torch.bool, device=values.device)
        return cls(values.new_zeros(n_users, values.shape[1]), known)

    @classmethod
    def restored(cls, saved: Mapping[str, Tensor]) -> Self:
        """From a checkpoint: the counterpart of `tensors`."""
        return cls(saved["dense"], saved["known"])

    def begin(self) -> None:
        self._undo = []

    def take_back(self) -> None:
        for users, values, known in reversed(self._undo):
            self.value[users] = values
            self.known[users] = known
        self._undo = []

    def read(self, users: Tensor, fresh: Tensor | None) -> Tensor:
        if fresh is None:
            return self.value[users]
        return torch.where(self.known[users].unsqueeze(1), self.value[users], fresh)

    def write(self, users: Tensor, values: Tensor) -> None:
        self._undo.append((users, self.value[users], self.known[users]))
        self.value[users] = values
        self.known[users] = True

    def tensors(self) -> dict[str, Tensor]:
        return {"dense": self.value, "known": self.known}


class _RaggedTable:
    """Rows of all users in one pool; a user's are the `length` rows from `start` on.

    A write never touches the rows that were there when the transaction began, so that taking it back is a matter of
    starts and lengths. It fills the free space in front of them, if any, and goes on behind them. Rounds of the whole
    population thus swap between two halves; a pool that is less than a third in use is packed.
    """

    def __init__(self, index: Tensor, value: Tensor, start: Tensor, length: Tensor, known: Tensor) -> None:
        self.index = index
        self.value = value
        self.start = start
        self.length = length
        self.known = known
        self._undo: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.begin()

    @classmethod
    def like(cls, rows: Rows, n_users: int) -> Self:
        """Nobody's rows, of the width and type of `rows`."""
        nothing = torch.zeros(n_users, dtype=torch.int64, device=rows.index.device)
        return cls(rows.index[:0], rows.value[:0], nothing, nothing.clone(), nothing.bool())

    @classmethod
    def restored(cls, saved: Mapping[str, Tensor]) -> Self:
        """From a checkpoint: the counterpart of `tensors`."""
        length = saved["length"]
        return cls(saved["index"], saved["value"], length.cumsum(0) - length, length, saved["known"])

    def begin(self) -> None:
        self._undo = []
        used = self.length > 0
        live = int(self.length.sum())
        self._front, self._front_end = 0, int(self.start[used].min()) if live else 0
        self._back = int((self.start + self.length)[used].max()) if live else 0
        if self._back > 3 * live:
            self._pack()

    def _pack(self) -> None:
        position = _positions(self.start, self.length)
        self.index, self.value = self.index[position], self.value[position]
        self.start = self.length.cumsum(0) - self.length
        self._front_end, self._back = 0, len(position)

    def take_back(self) -> None:
        for users, start, length, known in reversed(self._undo):
            self.start[users], self.length[users], self.known[users] = start, length, known
        self.begin()

    def read(self, users: Tensor, fresh: Rows | None) -> Rows:
        """The users' rows; where a user has none yet, those of `fresh`."""
        length = self.length[users]
        position = _positions(self.start[users], length)
        owner = torch.repeat_interleave(torch.arange(len(users), device=users.device), length)
        stored = Rows(owner, self.index[position], self.value[position])
        if fresh is None:
            return stored
        new = fresh.without(self.known[users])
        owner = torch.cat([stored.owner, new.owner])
        order = torch.argsort(owner, stable=True)
        index, value = torch.cat([stored.index, new.index]), torch.cat([stored.value, new.value])
        return Rows(owner[order], index[order], value[order])

    def write(self, users: Tensor, rows: Rows) -> None:
        self._undo.append((users, self.start[users], self.length[users], self.known[users]))
        size = len(rows.owner)
        if self._front + size <= self._front_end:
            begin, self._front = self._front, self._front + size
        else:
            begin, self._back = self._back, self._back + size
        if self._back > len(self.index):
            self._grow(self._back)
        self.index[begin : begin + size], self.value[begin : begin + size] = rows.index, rows.value
        length = torch.bincount(rows.owner, minlength=len(users))
        self.start[users] = begin + length.cumsum(0) - length
        self.length[users] = length
        self.known[users] = True

    def _grow(self, needed: int) -> None:
        more = max(needed, len(self.index) * 3 // 2) - len(self.index)
        self.index = torch.cat([self.index, self.index.new_empty(more)])
        self.value = torch.cat([self.value, self.value.new_empty(more, self.value.shape[1])])

    def tensors(self) -> dict[str, Tensor]:
        position = _positions(self.start, self.length)
        packed = {"index": self.index[position], "value": self.value[position]}
        return packed | {"length": self.length, "known": self.known}


def _positions(start: Tensor, length: Tensor) -> Tensor:
    """start[0], start[0] + 1, ..., `length[0]` of them, then those of the next."""
    offset = torch.repeat_interleave(start - (length.cumsum(0) - length), length)
    return offset + torch.arange(len(offset), device=offset.device)


def _sort(dense: bool) -> str:
    return "dense" if dense else "ragged"


class PrivateMemory:
    """The private state of a whole population, committed under (round, phase).

    A commit can be taken back once: a query that is asked again under the same (round, phase) starts from the state
    before it, so that it returns the same answer and steps nothing twice. Asking for an earlier one is refused.
    """

    def __init__(self, n_users: int) -> None:
        self.n_users = n_users
        self.committed = (0, 0)
        self._dense: dict[str, _DenseTable] = {}
        self._ragged: dict[str, _RaggedTable] = {}

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
        for table in self._tables.values():
            table.begin()
        self.committed = moment
        try:
            yield
        except BaseException:
            self._take_back()
            raise

    @property
    def _tables(self) -> Mapping[str, _DenseTable | _RaggedTable]:
        return self._dense | self._ragged

    def _take_back(self) -> None:
        for table in self._tables.values():
            table.take_back()

    def read(self, users: Tensor, names: Sequence[str], initial: Callable[[], State]) -> State:
        """The state of some users, [n] distinct positions, under some names; initial where a user has none yet.

        Args:
            users: whose.
            names: of dense or ragged state.
            initial: gives all the names, for all the users.

        Raises:
            DataError: if a name is stored with another width, or was dense and is ragged.
        """
        stored = all(name in self._tables and bool(self._tables[name].known[users].all()) for name in names)
        if stored:
            fresh = NO_STATE
        else:
            fresh = initial()
            self._make_room(names, fresh)
        return State(
            {name: self._dense[name].read(users, fresh.dense.get(name)) for name in names if name in self._dense},
            {name: self._ragged[name].read(users, fresh.ragged.get(name)) for name in names if name in self._ragged},
        )

    def _make_room(self, names: Sequence[str], fresh: State) -> None:
        """A table for every name, or see that the one there is fits."""
        for name in names:
            dense = name in fresh.dense
            if dense and name not in self._tables:
                self._dense[name] = _DenseTable.like(fresh.dense[name], self.n_users)
            elif name not in self._tables:
                self._ragged[name] = _RaggedTable.like(fresh.ragged[name], self.n_users)
            held, asked = self._tables[name].value, fresh.dense[name] if dense else fresh.ragged[name].value
            if held.shape[1] != asked.shape[1] or dense != (name in self._dense):
                raise DataError(
                    f"private state '{name}' is {_sort(name in self._dense)} of width {held.shape[1]} and the query "
                    f"asks for {_sort(dense)} of width {asked.shape[1]}; start a new run"
                )

    def write(self, users: Tensor, state: State) -> None:
        """Commit the new state of some users, for each name that `read` was asked for.

        Raises:
            DataError: if ragged rows are not unique and sorted by owner and index.
        """
        for name, values in state.dense.items():
            self._dense[name].write(users, values)
        for name, rows in state.ragged.items():
            ascending = rows.owner.diff().sign() * 2 + rows.index.diff().sign()
            if bool((ascending <= 0).any()):
                raise DataError(f"private state '{name}': rows must be unique and sorted; build them by Rows.coalesce")
            self._ragged[name].write(users, rows)

    def tensors(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint."""
        saved = {"committed": torch.tensor(self.committed)}
        for name, table in self._tables.items():
            saved |= {f"{part}/{name}": tensor for part, tensor in table.tensors().items()}
        return saved

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Roll back to a checkpoint: the counterpart of `tensors`."""
        round, phase = tensors["committed"].tolist()
        self.committed = (round, phase)
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            if name:
                parts.setdefault(name, {})[part] = tensor.clone()
        self._dense = {name: _DenseTable.restored(saved) for name, saved in parts.items() if "dense" in saved}
        self._ragged = {name: _RaggedTable.restored(saved) for name, saved in parts.items() if "dense" not in saved}
