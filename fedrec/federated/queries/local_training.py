"""LocalTraining: a few steps of gradient descent on a user's own star graph.

The client's graph is its own star, on which one LightGCN layer gives the user vector
e_u = ½ (p_u + Σ_{i∈N_u} q_i/√d_u). Items are scored by e_u · q_i. The user vector p_u is private state and never
leaves; the item table's change does.

The gradient is written out by hand over the disjoint union of the clients' local item tables. With T the local rows of
the item table, s = T e_u their scores and g = ∂loss/∂s, the chain rule gives

    ∂loss/∂e_u = Σ_j g_j T_j =: h_u          ∂loss/∂p_u = ½ h_u
    ∂loss/∂T_j = g_j e_u + [j ∈ N_u] ½ h_u / √d_u
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows, compiles
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
    """The rows of the item table that each client touches in one round: own items and sampled negatives, merged.

    Attributes:
        owner, index: [P] int64, unique and sorted pairs of user and item; a silo's rows are under its first user.
        own: [R] int64 local row of each of the cohort's items.
        sampled: [Σ steps · degree · negatives] int64 local row of each negative, by user, step, item and number.
        begin: [n + 1] int64, where each user's negatives begin.
    """

    owner: Tensor
    index: Tensor
    own: Tensor
    sampled: Tensor
    begin: Tensor

    @classmethod
    def draw(cls, cohort: Cohort, draw: Streams, steps: Tensor, count: int) -> _LocalRows:
        """Sample `count` negatives an own item and step, for every user; `steps` is [n] int64."""
        draws = steps * cohort.degrees * count
        begin = torch.cat([draws.new_zeros(1), draws.cumsum(0)])
        user = torch.repeat_interleave(torch.arange(len(cohort), device=draws.device), draws)
        counter = torch.arange(len(user), device=draws.device) - begin[user]
        drawn = negatives(draw, cohort.keys, cohort.indptr, cohort.items, user, counter, cohort.n_items)
        holder = _first_of_client(cohort)
        pairs = torch.cat([holder[cohort.owner] * cohort.n_items + cohort.items, holder[user] * cohort.n_items + drawn])
        unique, position = torch.unique(pairs, return_inverse=True)
        size = len(cohort.items)
        return cls(unique // cohort.n_items, unique % cohort.n_items, position[:size], position[size:], begin)

    def of_step(self, cohort: Cohort, step: int, items: Tensor, count: int) -> Tensor:
        """The negatives of some of the cohort's items, [m] positions, in one step: [m, count] local rows."""
        user = cohort.owner[items]
        rank = items - cohort.indptr[user]
        first = self.begin[user] + (step * cohort.degrees[user] + rank) * count
        return self.sampled[first.unsqueeze(1) + torch.arange(count, device=items.device)]


def _first_of_client(cohort: Cohort) -> Tensor:
    """[n] int64, the first user of each user's client."""
    client = cohort.client
    first = torch.ones_like(client, dtype=torch.bool)
    first[1:] = client[1:] != client[:-1]
    return torch.nonzero(first).flatten()[client]


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
        fewest_steps: a user takes a number of steps of its own each round, uniform from here to `steps`; 0 means that
            all take `steps`.
    """

    items: Tensor
    loss: str
    steps: int
    item_rate: float
    user_rate: float
    negatives: int
    activity_power: float
    initial_scale: float
    fewest_steps: int = 0
    private = ("user",)

    def __post_init__(self) -> None:
        if self.loss not in ("bce", "bpr"):
            raise DataError(f"local-training: loss '{self.loss}' is unknown; valid: bce, bpr")
        if not 0 <= self.fewest_steps <= self.steps:
            raise DataError(f"local-training: fewest_steps = {self.fewest_steps} of {self.steps} steps; lower it")

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`items`: [n_items, d]."""
        return {"items": (self.items.shape[0], self.items.shape[1])}

    @property
    def bytes_per_interaction(self) -> int:
        """A touched row's change, owner, item and place; the plain version has some five more arrays of that width."""
        width = self.items.element_size() * self.items.shape[1]
        return (1 + self.negatives * self.steps) * (width + 24 if compiles(self.items) else 6 * width)

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
        steps = torch.full_like(cohort.degrees, self.steps)
        if 0 < self.fewest_steps < self.steps:
            choices = self.steps - self.fewest_steps + 1
            steps = self.fewest_steps + draw.integers("local-steps", cohort.keys, choices)
        if compiles(self.items) and cohort.n_clients == len(cohort):
            return self._train_compiled(cohort, user, draw, steps)
        return self._train_plain(cohort, user, draw, steps)

    def _train_plain(self, cohort: Cohort, user: Tensor, draw: Streams, steps: Tensor) -> tuple[Rows, Tensor]:
        """The readable version, for any device. The users of a silo share one local copy of the item table."""
        rows = _LocalRows.draw(cohort, draw, steps, self.negatives)
        start = self.items.index_select(0, rows.index)
        table = start
        share, weight = self._weights(cohort)
        for step in range(self.steps):
            vectors = 0.5 * (user + share.unsqueeze(1) * cohort.sum_by_user(table.index_select(0, rows.own)))
            training = torch.nonzero((steps > step)[cohort.owner]).flatten()  # items of users who take this step
            owner, own = cohort.owner[training], rows.own[training]
            sampled = rows.of_step(cohort, step, training, self.negatives)
            touched = torch.cat([own, sampled.flatten()])
            learner = torch.cat([owner, owner.repeat_interleave(self.negatives)])
            scores = (table.index_select(0, touched) * vectors.index_select(0, learner)).sum(dim=1)
            slope = (weight[learner] * self._slope(scores, len(own))).unsqueeze(1)
            pull = torch.zeros_like(user).index_add_(0, learner, slope * table.index_select(0, touched))
            gradient = torch.zeros_like(table).index_add_(0, touched, slope * vectors.index_select(0, learner))
            gradient.index_add_(0, own, (0.5 * share.unsqueeze(1) * pull).index_select(0, owner))
            table = table - self.item_rate * gradient
            user = user - self.user_rate * 0.5 * pull
        return Rows(rows.owner, rows.index, table - start), user

    def _slope(self, scores: Tensor, own: int) -> Tensor:
        """∂loss/∂score of some own items and then of the negatives of each, before the user's weight.

        BCE adds −ln σ(s_i) for each own item and −ln σ(−s_j) for each negative. BPR adds −ln σ(s_i − s_j), averaged
        over the negatives of an own item.
        """
        positive, negative = scores[:own], scores[own:]
        if self.loss == "bce":
            return torch.cat([torch.sigmoid(positive) - 1.0, torch.sigmoid(negative)])
        pairwise = torch.sigmoid(negative.view(own, self.negatives) - positive.unsqueeze(1)) / self.negatives
        return torch.cat([-pairwise.sum(dim=1), pairwise.flatten()])

    def _weights(self, cohort: Cohort) -> tuple[Tensor, Tensor]:
        """[n] 1/√d_u, an item's share in its user's vector, and [n] the weight of the user's loss."""
        degree = cohort.degrees.clamp(min=1).to(self.items.dtype)
        return degree.rsqrt(), degree.pow(-self.activity_power)

    def _train_compiled(self, cohort: Cohort, user: Tensor, draw: Streams, steps: Tensor) -> tuple[Rows, Tensor]:
        """The same, for clients of one user each, in machine code."""
        from fedrec.federated.queries import _star  # numba takes a while to import

        size, drawn = len(cohort.items), int((steps * cohort.degrees).sum()) * self.negatives
        owner, index = (torch.empty(size + drawn, dtype=torch.int64) for _ in range(2))
        row_ptr, own = torch.empty(len(cohort) + 1, dtype=torch.int64), torch.empty(size, dtype=torch.int64)
        sampled = torch.empty(drawn, dtype=torch.int64)
        indptr, steps_taken = cohort.indptr.numpy(), steps.numpy()
        n_rows = _star.draw_rows(
            draw.starts("negatives", cohort.keys).numpy().view(np.uint64),
            indptr,
            cohort.items.numpy(),
            cohort.n_items,
            steps_taken,
            self.negatives,
            row_ptr.numpy(),
            owner.numpy(),
            index.numpy(),
            own.numpy(),
            sampled.numpy(),
        )
        items, vectors = self.items.detach().contiguous(), user.detach().clone(memory_format=torch.contiguous_format)
        change = items.new_empty(n_rows, items.shape[1])
        share, weight = self._weights(cohort)
        _star.train_rows(
            items.numpy(),
            indptr,
            steps_taken,
            row_ptr.numpy(),
            index.numpy(),
            own.numpy(),
            sampled.numpy(),
            self.negatives,
            self.loss == "bpr",
            share.numpy(),
            weight.numpy(),
            items.new_tensor([self.item_rate, self.user_rate]).numpy(),
            vectors.numpy(),
            change.numpy(),
        )
        return Rows(owner[:n_rows], index[:n_rows], change), vectors
