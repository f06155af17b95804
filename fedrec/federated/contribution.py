"""What a user's answer to a query is made of: `Rows` of a table, or the outer product of one sparse vector.

A contribution carries the answers of a whole cohort at once, ragged by user. It can tell each user's squared norm (what
clipping needs), drop users (what refusing needs), and fold itself, scaled per user, into a running total. Nothing else
is ever done with it, and the total is all that a method sees.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor

from fedrec.errors import DataError

_COMPILED = (torch.float32, torch.float64, torch.int64)


def compiles(tensor: Tensor) -> bool:
    """Whether loops over a tensor run compiled: on the CPU, unless FEDREC_COMPILED=0 asks for the plain versions."""
    usual = tensor.device.type == "cpu" and tensor.dtype in _COMPILED
    return usual and os.environ.get("FEDREC_COMPILED", "1") != "0"


def _sum_by_owner(owner: Tensor, values: Tensor, n_users: int) -> Tensor:
    return torch.zeros(n_users, dtype=values.dtype, device=values.device).index_add_(0, owner, values)


def _arrays(*tensors: Tensor) -> list[Any]:
    """Tensors as NumPy arrays of the same memory, for compiled loops."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _misplaced(owner: Tensor, index: Tensor) -> Tensor:
    """The owners whose entries are not one run of ascending rows, or whose run comes before that of a lower owner."""
    same = owner[1:] == owner[:-1]
    within = owner[1:][same & (index[1:] <= index[:-1])]
    first = torch.ones_like(owner, dtype=torch.bool)
    first[1:] = ~same
    runs = owner[first]
    distinct, times = torch.unique(runs, return_counts=True)
    return torch.cat([within, runs[1:][runs[1:] < runs[:-1]], distinct[times > 1]])


@dataclass(frozen=True, eq=False)
class Rows:
    """Sparse contributions to one table, ragged by user.

    (owner, index) pairs are unique and sorted. `Rows.coalesce` is the only way in from raw gradients, since duplicates
    would understate the norm that is clipped.

    Attributes:
        owner: [R] int64 position of the user within the cohort.
        index: [R] int64 row of the table.
        value: [R, width] what the user adds to the row.
    """

    owner: Tensor
    index: Tensor
    value: Tensor

    @classmethod
    def coalesce(cls, owner: Tensor, index: Tensor, value: Tensor, n_rows: int) -> Rows:
        """Sort raw (owner, index, value) entries and add up those of one pair.

        Args:
            owner: [M] int64, in any order.
            index: [M] int64 in [0, n_rows).
            value: [M, width].
            n_rows: rows of the table.
        """
        pairs, inverse = torch.unique(owner * n_rows + index, return_inverse=True)
        summed = torch.zeros(len(pairs), value.shape[1], dtype=value.dtype, device=value.device)
        return cls(pairs // n_rows, pairs % n_rows, summed.index_add_(0, inverse, value))

    def faults(self, n_users: int, table: tuple[int, int]) -> dict[int, str]:
        """Which users' answers break the contract, and how: position in the cohort -> reason.

        Raises:
            DataError: if the answer cannot be told apart by user at all (wrong lengths or owners).
        """
        n_rows, width = table
        if self.value.shape != (len(self.owner), width) or self.index.shape != self.owner.shape:
            raise DataError(
                f"an answer of {len(self.owner)} owners, {len(self.index)} rows and values of shape "
                f"{tuple(self.value.shape)} does not fit a table of width {width}"
            )
        if self.value.dtype not in (torch.float32, torch.float64):
            raise DataError(f"an answer of type {self.value.dtype}: its norm cannot be trusted; use float32 or float64")
        if compiles(self.owner):
            from fedrec.federated._folding import in_order  # numba takes a while to import

            owner, index = _arrays(self.owner, self.index)
            if in_order(owner, index, (n_users, n_rows)):
                return {}
        if len(self.owner) and (int(self.owner.min()) < 0 or int(self.owner.max()) >= n_users):
            raise DataError(f"an answer names an owner outside the cohort of {n_users} users")
        unknown = (self.index < 0) | (self.index >= n_rows)
        misplaced = _misplaced(self.owner, self.index)
        return dict.fromkeys(misplaced.tolist(), "rows repeated or out of order") | dict.fromkeys(
            self.owner[unknown].tolist(), "an unknown row"
        )

    def squared_norms(self, n_users: int) -> Tensor:
        """[n_users] float64, squared Euclidean norm of each user's contribution."""
        if compiles(self.value):
            from fedrec.federated._folding import squared_norms

            totals = torch.zeros(n_users, dtype=torch.float64)
            squared_norms(*_arrays(self.owner, self.value, totals))
            return totals
        rows = torch.linalg.vector_norm(self.value, dim=1, dtype=torch.float64)
        return _sum_by_owner(self.owner, rows.square(), n_users)

    def without(self, refused: Tensor) -> Rows:
        """The contributions of the users that are not refused ([n_users] bool)."""
        kept = ~refused[self.owner]
        return Rows(self.owner[kept], self.index[kept], self.value[kept])

    def take(self, users: Tensor) -> Rows:
        """The rows of some users, [m] int64 ascending positions, who are renumbered in that order."""
        if not len(users):
            return Rows(self.owner[:0], self.index[:0], self.value[:0])
        place = torch.searchsorted(users, self.owner).clamp(max=len(users) - 1)
        kept = users[place] == self.owner
        return Rows(place[kept], self.index[kept], self.value[kept])

    def by_client(self, client: Tensor, n_rows: int) -> Rows:
        """What clients of several users answer: the sum of their users' rows.

        Args:
            client: [n_users] int64 client of each user, ascending; it becomes the owner.
            n_rows: rows of the table.
        """
        return Rows.coalesce(client[self.owner], self.index, self.value, n_rows)

    def scaled(self, scale: Tensor) -> Rows:
        """Each contribution times its user's scale, [n_users], in double precision: rounding must not undo a clip."""
        return Rows(self.owner, self.index, self.value.double() * scale.double()[self.owner].unsqueeze(1))

    def add_to(self, total: Tensor, scale: Tensor | None) -> None:
        """Add the contributions, each times its user's scale ([n_users]; None is 1), to the table, in place.

        Raises:
            IndexError, RuntimeError: if a row is not one of the table's; `faults` would have told.
        """
        if compiles(self.value) and total.is_contiguous():
            from fedrec.federated._folding import add_rows

            scaling = torch.empty(0, dtype=torch.float64) if scale is None else scale.double()
            if not add_rows(*_arrays(total, self.owner, self.index, self.value, scaling)):
                raise IndexError(f"a contribution to a row that a table of {len(total)} rows does not have")
            return
        value = self.value if scale is None else self.value * scale[self.owner].unsqueeze(1)
        total.index_add_(0, self.index, value.to(total.dtype))

    def bytes(self) -> int:
        """What the cohort sends: a 4-byte row number and the values of each row."""
        return len(self.owner) * (4 + self.value.shape[1] * self.value.element_size())


@dataclass(frozen=True, eq=False)
class Outer:
    """c cᵀ of one sparse vector c a user: a contribution to a square, symmetric table. Its norm is ‖c‖².

    Attributes:
        owner: [R] int64 position of the user within the cohort; (owner, index) pairs are unique and sorted.
        index: [R] int64 entry of the vector.
        value: [R] the entry's value.
    """

    owner: Tensor
    index: Tensor
    value: Tensor

    def faults(self, n_users: int, table: tuple[int, int]) -> dict[int, str]:
        """As `Rows.faults`; the table must be square."""
        if table[0] != table[1]:
            raise DataError(f"an outer product adds to a square table, not to {table[0]} x {table[1]}")
        return Rows(self.owner, self.index, self.value.unsqueeze(1)).faults(n_users, (table[0], 1))

    def squared_norms(self, n_users: int) -> Tensor:
        """[n_users] float64, squared Frobenius norm of each c cᵀ, which is ‖c‖⁴."""
        return _sum_by_owner(self.owner, self.value.double().square(), n_users).square()

    def without(self, refused: Tensor) -> Outer:
        """The contributions of the users that are not refused ([n_users] bool)."""
        kept = ~refused[self.owner]
        return Outer(self.owner[kept], self.index[kept], self.value[kept])

    def by_client(self, client: Tensor, n_rows: int) -> Rows:
        """What clients of several users answer: the sum of their users' outer products, which is none itself.

        Args:
            client: [n_users] int64 client of each user, ascending; it becomes the owner.
            n_rows: rows of the square table.
        """
        parts = []
        for one in torch.unique(client[self.owner]).tolist():
            mine = client[self.owner] == one
            user = torch.unique_consecutive(self.owner[mine], return_inverse=True)[1]
            vectors = self.value.new_zeros(int(user[-1]) + 1, n_rows)
            vectors[user, self.index[mine]] = self.value[mine]
            touched = torch.unique(self.index[mine])
            parts.append(Rows(torch.full_like(touched, one), touched, vectors.T[touched] @ vectors))
        if not parts:
            return Rows(self.owner, self.index, self.value.new_zeros(0, n_rows))
        return Rows(*(torch.cat([getattr(part, name) for part in parts]) for name in ("owner", "index", "value")))

    def scaled(self, scale: Tensor) -> Outer:
        """Each contribution times its user's scale, [n_users] ≥ 0, in double precision."""
        return Outer(self.owner, self.index, self.value.double() * scale.double().sqrt()[self.owner])

    def add_to(self, total: Tensor, scale: Tensor | None) -> None:
        """Add Σ_u scale_u c_u c_uᵀ to the table, dense or a coalesced sparse COO tensor, in place."""
        if not len(self.owner):
            return
        if total.is_sparse:
            total.add_(self._sparse_sum(total, scale))
            return
        vectors = total.new_zeros(int(self.owner.max()) + 1, total.shape[0])
        value = self.value.to(total.dtype)
        vectors[self.owner, self.index] = value if scale is None else value * scale.sqrt()[self.owner]
        total.addmm_(vectors.T, vectors)

    def _sparse_sum(self, like: Tensor, scale: Tensor | None) -> Tensor:
        """Σ_u scale_u c_u c_uᵀ as a coalesced sparse tensor, by scipy: torch takes 20 times as long and more memory."""
        value = (self.value if scale is None else self.scaled(scale).value).to(like.dtype)
        entries = (value.cpu().numpy(), (self.owner.cpu().numpy(), self.index.cpu().numpy()))
        vectors = csr_array(entries, shape=(int(self.owner.max()) + 1, like.shape[0]))
        summed = csr_array(vectors.T @ vectors)
        summed.sort_indices()
        found = summed.tocoo()
        places = torch.stack([torch.from_numpy(axis).long() for axis in found.coords])
        return torch.sparse_coo_tensor(
            places,
            torch.from_numpy(found.data),
            like.shape,
            device=like.device,
            is_coalesced=True,
            check_invariants=False,
        )

    def bytes(self) -> int:
        """What the cohort sends when the server sees single answers: the vectors (a masked sum sends the table)."""
        return len(self.owner) * (4 + self.value.element_size())


Contribution = Rows | Outer
