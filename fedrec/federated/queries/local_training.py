"""LocalTraining: a few steps of gradient descent on a user's own star graph.

The client's graph is its own star, on which one LightGCN layer gives the user vector
e_u = ½ (p_u + Σ_{i∈N_u} q_i/√d_u). Items are scored by e_u · q_i. The user vector p_u is private state and never
leaves; the item table's change does.

The gradient is written out by hand over the disjoint union of the cohort's local item tables. With T the local rows of
the item table, s = T e_u their scores and g = ∂loss/∂s, the chain rule gives

    ∂loss/∂e_u = Σ_j g_j T_j =: h_u          ∂loss/∂p_u = ½ h_u
    ∂loss/∂T_j = g_j e_u + [j ∈ N_u] ½ h_u / √d_u
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows
from fedrec.federated.query import Query, allow
from fedrec.recommenders.sampling import negatives
from fedrec.streams import Streams


def user_vectors(cohort: Cohort, user: Tensor, items: Tensor) -> Tensor:
    """e_u = ½ (p_u + Σ_{i∈N_u} q_i/√d_u), [n, d].

    Args:
        cohort: the users and their items.
        user: [n, d], p_u.
        items: [n_items, d], the item table.
    """
    summed = cohort.sum_by_user(items.index_select(0, cohort.items))
    return 0.5 * (user + summed * cohort.degrees.clamp(min=1).to(items.dtype).rsqrt().unsqueeze(1))


@dataclass(frozen=True, eq=False)
class _LocalRows:
    """The rows of the item table that each user touches in one round: own items and sampled negatives, merged.

    Attributes:
        owner, index: [P] int64, unique and sorted pairs of user and item.
        own: [R] int64 position among the pairs of each of the cohort's items.
        sampled: [steps, R, negatives] int64 position of each negative.
    """

    owner: Tensor
    index: Tensor
    own: Tensor
    sampled: Tensor

    @classmethod
    def draw(cls, cohort: Cohort, draw: Streams, steps: int, count: int) -> _LocalRows:
        """Sample `count` negatives an own item and step, for every user."""
        size = len(cohort.items)
        rank = torch.arange(size, device=cohort.items.device) - cohort.indptr[cohort.owner]
        slot = rank.unsqueeze(1) * count + torch.arange(count, device=rank.device)
        per_step = (cohort.degrees * count)[cohort.owner].unsqueeze(1)
        counter = torch.stack([slot + step * per_step for step in range(steps)])
        owner = cohort.owner.view(1, size, 1).expand_as(counter)
        drawn = negatives(
            draw, cohort.keys, cohort.indptr, cohort.items, owner.reshape(-1), counter.reshape(-1), cohort.n_items
        )
        pairs = torch.cat([cohort.owner * cohort.n_items + cohort.items, owner.reshape(-1) * cohort.n_items + drawn])
        unique, position = torch.unique(pairs, return_inverse=True)
        return cls(
            owner=unique // cohort.n_items,
            index=unique % cohort.n_items,
            own=position[:size],
            sampled=position[size:].view(steps, size, count),
        )


@allow("local-training")
@dataclass(frozen=True, eq=False)
class LocalTraining(Query):
    """The change of the item table, Q_u' − Q, on the rows that a user's local steps touched.

    Attributes:
        items: [n_items, d], the item table Q.
        loss: "bce" or "bpr".
        steps: local gradient steps, E.
        item_rate: learning rate of the local copy of the item table.
        user_rate: learning rate of p_u.
        negatives: sampled for each own item in each step.
        activity_power: a user's loss is the sum over its items, divided by d_u to this power: 0 counts interactions
            alike, 1 counts users alike.
        initial_scale: standard deviation of p_u before training.
    """

    items: Tensor
    loss: str
    steps: int
    item_rate: float
    user_rate: float
    negatives: int
    activity_power: float
    initial_scale: float
    private = ("user",)

    def __post_init__(self) -> None:
        if self.loss not in ("bce", "bpr"):
            raise DataError(f"local-training: loss '{self.loss}' is unknown; valid: bce, bpr")

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`items`: [n_items, d]."""
        return {"items": (self.items.shape[0], self.items.shape[1])}

    @property
    def bytes_per_interaction(self) -> int:
        """Five arrays of the width of the table (local rows, their start, gradient, two temporaries) a touched row."""
        return 5 * self.items.element_size() * self.items.shape[1] * (1 + self.negatives * self.steps)

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        """p_u drawn from the user's own stream."""
        vectors = draw.normal("user-vector", cohort.keys, self.items.shape[1]) * self.initial_scale
        return State({"user": vectors.to(self.items.dtype)})

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """Train every user of the cohort at once, each on local rows of its own.

        A user who has every item has no negative to learn from, and adds nothing.
        """
        able = torch.nonzero(cohort.degrees < cohort.n_items).flatten()
        if len(able) < len(cohort):
            rows, vectors = self._train(cohort.take(able), state.dense["user"][able], draw)
            user = state.dense["user"].index_copy(0, able, vectors)
            return {"items": Rows(able[rows.owner], rows.index, rows.value)}, State({"user": user})
        rows, user = self._train(cohort, state.dense["user"], draw)
        return {"items": rows}, State({"user": user})

    def _train(self, cohort: Cohort, user: Tensor, draw: Streams) -> tuple[Rows, Tensor]:
        """The change of the users' local rows, and their new vectors."""
        rows = _LocalRows.draw(cohort, draw, self.steps, self.negatives)
        start = self.items.index_select(0, rows.index)
        table = start
        degree = cohort.degrees.clamp(min=1).to(table.dtype)
        share, weight = degree.rsqrt().unsqueeze(1), degree.pow(-self.activity_power)[rows.owner]
        for step in range(self.steps):
            vectors = 0.5 * (user + share * cohort.sum_by_user(table.index_select(0, rows.own)))
            scores = (table * vectors.index_select(0, rows.owner)).sum(dim=1)
            slope = (weight * self._slope(scores, rows.own, rows.sampled[step])).unsqueeze(1)
            pull = torch.zeros_like(user).index_add_(0, rows.owner, slope * table)
            gradient = slope * vectors.index_select(0, rows.owner)
            gradient.index_add_(0, rows.own, (0.5 * share * pull).index_select(0, cohort.owner))
            table = table - self.item_rate * gradient
            user = user - self.user_rate * 0.5 * pull
        return Rows(rows.owner, rows.index, table - start), user

    def _slope(self, scores: Tensor, own: Tensor, sampled: Tensor) -> Tensor:
        """∂loss/∂score of every local row, [P], before the user's weight.

        BCE adds −ln σ(s_i) for each own item and −ln σ(−s_j) for each negative. BPR adds −ln σ(s_i − s_j), averaged
        over the negatives of an own item.
        """
        slope = torch.zeros_like(scores)
        if self.loss == "bce":
            slope.index_add_(0, own, torch.sigmoid(scores[own]) - 1.0)
            return slope.index_add_(0, sampled.flatten(), torch.sigmoid(scores[sampled.flatten()]))
        pairwise = torch.sigmoid(scores[sampled] - scores[own].unsqueeze(1)) / self.negatives
        slope.index_add_(0, own, -pairwise.sum(dim=1))
        return slope.index_add_(0, sampled.flatten(), pairwise.flatten())
