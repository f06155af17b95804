"""Gram and Subspace: what the server needs to find the leading eigenspace of the item graph.

Both are about M = Σ_u c_u c_uᵀ, where c_u is the user's weighted, normalised history: weight_i / √d_u at each of its
items i. With weights of at most 1, ‖c_u‖ ≤ 1, and so is the norm of either contribution to M. Gram may also be
asked for histories that are normalised less, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Outer, Rows
from fedrec.federated.query import Query, allow
from fedrec.streams import Streams


def history(cohort: Cohort, weight: Tensor, activity_power: float = 0.5) -> Tensor:
    """The entries of every c_u, weight_i / d_u^activity_power, [R] in the order of the cohort's items."""
    scale = cohort.degrees.clamp(min=1).to(weight.dtype).pow(-activity_power)
    return weight[cohort.items] * scale[cohort.owner]


@allow("gram")
@dataclass(frozen=True, eq=False)
class Gram(Query):
    """c_u c_uᵀ: the whole item-item matrix in one release.

    Attributes:
        weight: [n_items] weight of each item, public or released before. The matrix is that of the m items whose weight
            is not 0, in their order: of the others nothing is asked, and a history is what it has of those.
        activity_power: a user's history is divided by its number of items to this power. With weights of 1 the norm of
            c_u c_uᵀ is d_u^(1 − 2·activity_power): 1 at ½, and d_u at 0, where M counts who has both of two items.
        without_zeros: whether the sum may be a sparse tensor, for catalogues whose square does not fit into memory. A
            private release is always dense.
    """

    weight: Tensor
    activity_power: float = 0.5
    without_zeros: bool = False
    symmetric = frozenset({"gram"})

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`gram`: [m, m]."""
        size = int(torch.count_nonzero(self.weight))
        return {"gram": (size, size)}

    @property
    def bytes_per_interaction(self) -> int:
        """A user is folded in as one dense row, which costs most where histories are short; or as pairs of items."""
        return 32 if self.without_zeros else self.weight.element_size() * len(self.weight) // 16

    @property
    def sparse(self) -> frozenset[str]:
        """`gram`, if it may be without zeros."""
        return frozenset({"gram"}) if self.without_zeros else frozenset()

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """The outer product of each user's history with itself."""
        asked = self.weight != 0
        if bool(asked.all()):
            return {"gram": Outer(cohort.owner, cohort.items, history(cohort, self.weight, self.activity_power))}, state
        own = asked[cohort.items]
        owner, items = cohort.owner[own], cohort.items[own]
        degrees = torch.bincount(owner, minlength=len(cohort)).clamp(min=1).to(self.weight.dtype)
        entries = self.weight[items] * degrees.pow(-self.activity_power)[owner]
        return {"gram": Outer(owner, asked.cumsum(0)[items] - 1, entries)}, state


@allow("subspace")
@dataclass(frozen=True, eq=False)
class Subspace(Query):
    """c_u (c_uᵀ V): one multiplication of M with a basis, M itself never being formed.

    Attributes:
        weight: [n_items] weight of each item, public or released before.
        basis: [n_items, k], V.
    """

    weight: Tensor
    basis: Tensor

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`product`: [n_items, k]."""
        return {"product": (self.basis.shape[0], self.basis.shape[1])}

    @property
    def bytes_per_interaction(self) -> int:
        """A gathered row of the basis and a row of the answer."""
        return 2 * self.basis.element_size() * self.basis.shape[1]

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """Each user's history times its projection on the basis."""
        entries = history(cohort, self.weight).unsqueeze(1)
        projection = cohort.sum_by_user(entries * self.basis[cohort.items])
        return {"product": Rows(cohort.owner, cohort.items, entries * projection[cohort.owner])}, state
