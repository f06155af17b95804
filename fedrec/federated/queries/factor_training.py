"""FactorTraining: local steps of matrix factorisation with a private user vector (FedMF).

A user scores item i by p_u · q_i. Over its own items (y = 1) and negatives (y = 0) its objective is

    d_u^−a · Σ_i ℓ(p_u · q_i, y_i) + ½ λ (‖p_u‖² + Σ_i ‖q_i‖²),    ℓ = (s − y)² or the cross-entropy of σ(s),

and a step moves p_u and the local item rows at the same time, along their gradients at the same point:

    g_i = d_u^−a ∂ℓ/∂s_i,    ∂/∂p_u = Σ_i g_i q_i + λ p_u,    ∂/∂q_i = g_i p_u + λ q_i.

With one step the change of the item rows is −item_rate times the gradient that the paper's user sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows
from fedrec.federated.queries.samples import Samples
from fedrec.federated.query import Query, allow
from fedrec.streams import Streams


@allow("factor-training")
@dataclass(frozen=True, eq=False)
class FactorTraining(Query):
    """The change of the item table on the rows that a user's local steps touched.

    Attributes:
        items: [n_items, d], the item table Q.
        loss: "squared" or "bce".
        steps: local gradient steps, each over all samples of the round.
        item_rate: learning rate of the local item rows.
        user_rate: learning rate of p_u.
        negatives: sampled for each own item, once a round.
        activity_power: a.
        l2: λ.
        initial_scale: standard deviation of p_u before training.
    """

    items: Tensor
    loss: str
    steps: int
    item_rate: float
    user_rate: float
    negatives: int
    activity_power: float
    l2: float
    initial_scale: float
    private = ("user",)

    def __post_init__(self) -> None:
        if self.loss not in ("squared", "bce"):
            raise DataError(f"factor-training: loss '{self.loss}' is unknown; valid: squared, bce")

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`items`: [n_items, d]."""
        return {"items": (self.items.shape[0], self.items.shape[1])}

    @property
    def bytes_per_interaction(self) -> int:
        """Four arrays of the width of the table (rows, their start, two temporaries) a sample."""
        return 4 * self.items.element_size() * self.items.shape[1] * (1 + self.negatives)

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        """p_u drawn from the user's own stream."""
        vectors = draw.normal("user-vector", cohort.keys, self.items.shape[1]) * self.initial_scale
        return State({"user": vectors.to(self.items.dtype)})

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """Train every user of the cohort at once. A user without items or without negatives learns nothing."""
        samples = Samples.draw(cohort, draw, self.negatives, self.items.dtype)
        owner, index, row = samples.rows(cohort.n_items)
        weight = samples.weights(cohort, self.activity_power)
        learns = (samples.sizes > 0).to(self.items.dtype).unsqueeze(1)
        table = start = self.items.index_select(0, index)
        user = state.dense["user"]
        for _ in range(self.steps):
            vectors, mine = table.index_select(0, row), user.index_select(0, samples.owner)
            slope = (weight * self._slope((vectors * mine).sum(dim=1), samples.target)).unsqueeze(1)
            pull = (self.l2 * learns * user).index_add(0, samples.owner, slope * vectors)
            gradient = (self.l2 * table).index_add(0, row, slope * mine)
            table, user = table - self.item_rate * gradient, user - self.user_rate * pull
        return {"items": Rows(owner, index, table - start)}, State({"user": user})

    def _slope(self, scores: Tensor, target: Tensor) -> Tensor:
        """∂ℓ/∂s of each sample."""
        return 2.0 * (scores - target) if self.loss == "squared" else torch.sigmoid(scores) - target
