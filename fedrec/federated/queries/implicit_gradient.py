"""ImplicitGradient: what a user's implicit feedback says about the item vectors (FCF).

The objective of Hu et al. (2008) that federated collaborative filtering takes (Ammad-ud-din et al. 2019) is, with
confidence c = 1 + α for own items (r = 1) and c = 1 for all others (r = 0),

    J = Σ_u Σ_i c_ui (r_ui − p_u·q_i)² + λ (Σ_u ‖p_u‖² + Σ_i ‖q_i‖²).

Given Q, a user solves its own part exactly:  (QᵀQ + α Σ_{i∈N_u} q_i q_iᵀ + λ I) p_u = (1 + α) Σ_{i∈N_u} q_i.
The paper's user then sends its gradient, f_ui = −c_ui (r_ui − p_u·q_i) p_u (half of ∂J/∂q_i), of *every* item. Of items
that it does not have this is p_u p_uᵀ q_i, and the server knows q_i. So the sum over users is

    Σ_u f_ui = (Σ_u p_u p_uᵀ) q_i − Σ_{u: i∈N_u} (1 + α − α p_u·q_i) p_u,

and a user sends d(d + 1)/2 numbers and a row for each own item, instead of the whole table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows
from fedrec.federated.queries.least_squares import normal_equations, outer_triangles, solve_ridge
from fedrec.federated.query import Query, allow
from fedrec.streams import Streams


@allow("implicit-gradient")
@dataclass(frozen=True, eq=False)
class ImplicitGradient(Query):
    """(1 + α − α p_u·q_i) p_u to each own item, and the upper triangle of p_u p_uᵀ once; p_u is solved for here.

    Attributes:
        items: [n_items, d], Q.
        gram: [d, d], QᵀQ.
        confidence: α.
        regularization: λ.
    """

    items: Tensor
    gram: Tensor
    confidence: float
    regularization: float

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`items`: [n_items, d]; `everyone`: [1, d(d + 1)/2]."""
        n_items, dim = self.items.shape
        return {"items": (n_items, dim), "everyone": (1, dim * (dim + 1) // 2)}

    @property
    def bytes_per_interaction(self) -> int:
        """The item's row, the answer, and its copy scaled to the clip."""
        return 3 * self.items.element_size() * self.items.shape[1]

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """Solve for every user of the cohort, and say what that asks of its items."""
        vectors = self.solve(cohort)
        mine = vectors.index_select(0, cohort.owner)
        scores = (mine * self.items.index_select(0, cohort.items)).sum(dim=1, keepdim=True)
        users = torch.arange(len(cohort), device=vectors.device)
        return {
            "items": Rows(cohort.owner, cohort.items, (1.0 + self.confidence - self.confidence * scores) * mine),
            "everyone": Rows(users, torch.zeros_like(users), outer_triangles(vectors)),
        }, state

    def solve(self, cohort: Cohort) -> Tensor:
        """p_u, [n, d]; zero for a user without items."""
        matrices, right = normal_equations(cohort, self.items)
        ridge = torch.full((len(cohort),), self.regularization, dtype=torch.float64, device=right.device)
        return solve_ridge(self.gram + self.confidence * matrices, (1.0 + self.confidence) * right, ridge)
