"""Adding up what nodes answer as it arrives, so that it makes no difference who comes first.

The usual sum of floats depends on their order. A compensated one keeps what each addition rounds away (TwoSum, Knuth
1998, as Neumaier 1974 uses it) and gives it back at the end. Its error is some 2^-100 of the sum of absolute values, so
that two orders give the same bits unless almost all of it cancels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedrec.federated import Query
from fedrec.flower.records import Part


class CompensatedSum:
    """A table that is being added up.

    Attributes:
        shape: of the table.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._sum = torch.zeros(shape, dtype=torch.float64)
        self._lost = torch.zeros(shape, dtype=torch.float64)

    def add(self, part: Part) -> None:
        """Add a node's share."""
        value = part.value.double()
        if part.index is None:
            self._sum, error = _two_sum(self._sum, value)
            self._lost += error
            return
        width = part.value.shape[1]
        sums, lost = self._sum.view(-1, width), self._lost.view(-1, width)
        sums[part.index], error = _two_sum(sums[part.index], value)
        lost[part.index] += error

    def total(self) -> Tensor:
        """The sum, float64."""
        return self._sum + self._lost


def _two_sum(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded sum, and what was rounded away: together exactly one + other."""
    total = one + other
    of_other = total - one
    return total, (one - (total - of_other)) + (other - of_other)


class SparseSum:
    """A table that is never held with its zeros; plainly added, in the order of arrival.

    Attributes:
        shape: of the table.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._sum = _sparse(torch.empty(2, 0, dtype=torch.int64), torch.empty(0, dtype=torch.float64), shape)

    def add(self, part: Part) -> None:
        """Add a node's share."""
        width = self.shape[1]
        if part.index is None:
            found = part.value.double().to_sparse()
        elif part.value.shape[1] == 1:
            places = torch.stack([part.index // width, part.index % width])
            found = _sparse(places, part.value.double().squeeze(1), self.shape)
        else:
            row, column = torch.nonzero(part.value, as_tuple=True)
            places = torch.stack([part.index[row], column])
            found = _sparse(places, part.value[row, column].double(), self.shape)
        self._sum = (self._sum + found).coalesce()

    def total(self) -> Tensor:
        """The sum, a coalesced sparse float64 tensor."""
        return self._sum.coalesce()


def _sparse(places: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_coo_tensor(places, values, shape, check_invariants=False)  # `records` has looked at the places


Sums = Mapping[str, CompensatedSum | SparseSum]
"""A sum for each table."""


def empty_sums(query: Query, *, clipped: bool) -> Sums:
    """A sum for each table of a query; sparse where the query may be summed so and no noise will be added."""
    return {
        name: SparseSum(shape) if name in query.sparse and not clipped else CompensatedSum(shape)
        for name, shape in query.tables.items()
    }
