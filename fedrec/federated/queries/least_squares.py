"""NormalEquations: what one side of a matrix factorisation is solved from when the other side is known (iALS).

The implicit least squares of Hu et al. (2008), in the form of Rendle et al. (2022), are

    Σ_{u, i ∈ N_u} (p_u·q_i − 1)² + α Σ_{u, i} (p_u·q_i)² + λ (Σ_u (d_u + α|I|)^ν ‖p_u‖² + Σ_i (d_i + α|U|)^ν ‖q_i‖²)

and given Q a user's own best vector needs nobody else:

    (Σ_{i∈N_u} q_i q_iᵀ + α QᵀQ + λ (d_u + α|I|)^ν I) p_u = Σ_{i∈N_u} q_i.

Given P an item's best vector solves the same with users and items exchanged, so that sums over its users are all that
the server needs: Σ p_u p_uᵀ and Σ p_u over them, and Σ_u p_u p_uᵀ over everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows
from fedrec.federated.query import Query, allow
from fedrec.streams import Streams

_BATCH = 1 << 15  # item vectors gathered at once: 8 MB at d = 64


def outer_triangles(vectors: Tensor) -> Tensor:
    """The upper triangle of each v vᵀ, row by row: [m, d] -> [m, d(d + 1)/2]."""
    row, column = torch.triu_indices(vectors.shape[1], vectors.shape[1], device=vectors.device)
    return vectors.index_select(1, row) * vectors.index_select(1, column)


def symmetric(triangles: Tensor, dim: int) -> Tensor:
    """The symmetric matrices of upper triangles: [m, d(d + 1)/2] -> [m, d, d]."""
    row, column = torch.triu_indices(dim, dim, device=triangles.device)
    matrices = triangles.new_empty(len(triangles), dim, dim)
    matrices[:, row, column] = triangles
    matrices[:, column, row] = triangles
    return matrices


def solve_ridge(matrices: Tensor, right: Tensor, ridge: Tensor) -> Tensor:
    """The solutions x of (A + r I) x = b, in double precision.

    Args:
        matrices: [m, d, d], A, positive semi-definite.
        right: [m, d], b.
        ridge: [m], r, above 0.

    Returns:
        [m, d] in the dtype of `right`.
    """
    shifted = matrices.double() + torch.diag_embed(ridge.double().unsqueeze(1).expand_as(right))
    factor = torch.linalg.cholesky(shifted)
    return torch.cholesky_solve(right.double().unsqueeze(2), factor).squeeze(2).to(right.dtype)


@allow("normal-equations")
@dataclass(frozen=True, eq=False)
class NormalEquations(Query):
    """p_u p_uᵀ (its upper triangle) and p_u to each item of the user's own, and p_u p_uᵀ once; p_u is solved for here.

    With t = ‖triangle of p_u p_uᵀ‖² the contribution's squared norm is (d_u + 1) t + d_u ‖p_u‖².

    Attributes:
        items: [n_items, d], Q.
        gram: [d, d], QᵀQ.
        unobserved: α, the weight of every pair.
        regularization: λ.
        frequency_power: ν.
    """

    items: Tensor
    gram: Tensor
    unobserved: float
    regularization: float
    frequency_power: float

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`items`: [n_items, d(d + 1)/2 + d], triangles before vectors; `everyone`: [1, d(d + 1)/2]."""
        n_items, dim = self.items.shape
        triangle = dim * (dim + 1) // 2
        return {"items": (n_items, triangle + dim), "everyone": (1, triangle)}

    @property
    def bytes_per_interaction(self) -> int:
        """A row of the answer, and its copy scaled to the clip."""
        return 2 * self.items.element_size() * self.tables["items"][1]

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """Solve for every user of the cohort, and put each solution at the user's items."""
        vectors = self.solve(cohort)
        triangles = outer_triangles(vectors)
        users = torch.arange(len(cohort), device=vectors.device)
        row = torch.cat([triangles, vectors], dim=1)
        return {
            "items": Rows(cohort.owner, cohort.items, row.index_select(0, cohort.owner)),
            "everyone": Rows(users, torch.zeros_like(users), triangles),
        }, state

    def solve(self, cohort: Cohort) -> Tensor:
        """p_u, [n, d]; zero for a user without items."""
        matrices, right = normal_equations(cohort, self.items)
        weight = cohort.degrees.double() + self.unobserved * cohort.n_items
        ridge = self.regularization * weight.pow(self.frequency_power)
        return solve_ridge(matrices + self.unobserved * self.gram, right, ridge)


def normal_equations(cohort: Cohort, items: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_{i∈N_u} q_i q_iᵀ, [n, d, d], and Σ_{i∈N_u} q_i, [n, d], of every user.

    Users of about as many items are padded to the same number with zero vectors and multiplied as one batch: outer
    products of single items would be d times as large as the items.
    """
    n_items, dim = items.shape
    padded = torch.cat([items, items.new_zeros(1, dim)])
    matrices, right = items.new_zeros(len(cohort), dim, dim), items.new_zeros(len(cohort), dim)
    width = 1
    while width // 2 < int(cohort.degrees.max()):
        users = torch.nonzero((cohort.degrees > width // 2) & (cohort.degrees <= width)).flatten()
        slots = torch.arange(width, device=items.device)
        for some in torch.split(users, max(1, _BATCH // width)):
            position = (cohort.indptr[some].unsqueeze(1) + slots).clamp(max=len(cohort.items) - 1)
            outside = slots >= cohort.degrees[some].unsqueeze(1)
            own = padded[cohort.items[position].masked_fill(outside, n_items)]
            matrices[some], right[some] = own.mT @ own, own.sum(dim=1)
        width *= 2
    return matrices, right
