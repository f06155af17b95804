"""PersonalTraining: a user's own score function and item rows, trained in turn from the common item table (PFedRec).

The model of user u (Zhang et al. 2023, "Dual Personalization on Federated Recommendation") scores an item by a linear
function of its vector, s_i = w_u · T_i + b_u, and both (w_u, b_u) and the vectors T_i are the user's own: T starts from
the common table Q in every round and is kept, while its change goes to the server. For each batch of the user's items
and negatives, of mean binary cross-entropy ℓ,

    1.  (w_u, b_u) ← (w_u, b_u) − score_rate · ∂ℓ/∂(w_u, b_u)       with T as it is,
    2.  T_i ← T_i − item_rate · ∂ℓ/∂T_i                               with the new score function,

and with g = (σ(s) − y)/B the gradients are ∂ℓ/∂w = Σ g T_i, ∂ℓ/∂b = Σ g, ∂ℓ/∂T_i = Σ g w over the batch's B samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows
from fedrec.federated.queries.samples import Samples
from fedrec.federated.query import Query, allow
from fedrec.streams import Streams


@allow("personal-training")
@dataclass(frozen=True, eq=False)
class PersonalTraining(Query):
    """The change of the item table, T − Q, on the rows that a user's local training touched.

    Attributes:
        items: [n_items, d], the common item table Q.
        epochs: passes over the user's samples.
        batch_size: samples of one step.
        score_rate: learning rate of the score function.
        item_rate: learning rate of the item rows; it applies to a mean over the batch, so it is large.
        negatives: sampled for each own item, once a round.
        alone: train from the user's own rows instead of the common table, and send nothing.
    """

    items: Tensor
    epochs: int
    batch_size: int
    score_rate: float
    item_rate: float
    negatives: int
    alone: bool
    private = ("score", "items")

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`items`: [n_items, d]."""
        return {"items": (self.items.shape[0], self.items.shape[1])}

    @property
    def bytes_per_interaction(self) -> int:
        """Four arrays of the width of the table (rows, their start, two temporaries) a sample."""
        return 4 * self.items.element_size() * self.items.shape[1] * (1 + self.negatives)

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        """(w, b), uniform within ±1/√d and the same for everybody; no row of one's own.

        Users must begin with the same score function: the mean of changes towards random directions is nothing.
        """
        dim = self.items.shape[1]
        same = torch.zeros_like(cohort.keys).unsqueeze(1)
        share = draw.uniform("score-function", same, torch.arange(dim + 1, device=same.device))
        score = ((2 * share - 1) / dim**0.5).to(self.items.dtype)
        return State({"score": score}, {"items": _nothing(cohort, self.items)})

    def pool(self, cohort: Cohort) -> tuple[Tensor, Tensor]:
        """Items that are no negatives, by user (indptr, items): those of training, and none that is held out."""
        return cohort.indptr, cohort.items

    def samples(self, cohort: Cohort, draw: Streams) -> Samples:
        """What the users train on in this round."""
        return Samples.draw(cohort, draw, self.negatives, self.items.dtype, self.pool(cohort))

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """Train every user of the cohort at once. A user who has every item has no negative, and learns nothing."""
        samples = self.samples(cohort, draw)
        owner, index, row = samples.rows(cohort.n_items)
        kept = state.ragged["items"]
        start = self.items.index_select(0, index)
        if self.alone:
            start = _overlaid(start, owner * cohort.n_items + index, kept, cohort.n_items)
        table, score = start, state.dense["score"]
        for batch in samples.batches(draw, cohort.keys, self.epochs, self.batch_size):
            table, score = self._step(table, score, row[batch], samples.owner[batch], samples.target[batch])
        personal = Rows(owner, index, table)
        if self.alone:
            personal, sent = _merged(kept, personal, cohort.n_items), _nothing(cohort, self.items)
        else:
            sent = Rows(owner, index, table - start)
        return {"items": sent}, State({"score": score}, {"items": personal})

    def _step(self, table: Tensor, score: Tensor, row: Tensor, owner: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """One batch of every user: first the score functions, then the item rows."""
        size = torch.bincount(owner, minlength=len(score)).clamp(min=1).to(table.dtype)[owner]
        vectors = table.index_select(0, row)
        weight, bias = score[:, :-1], score[:, -1]
        slope = (_slope(vectors, weight.index_select(0, owner), bias[owner], target) / size).unsqueeze(1)
        pull = torch.zeros_like(weight).index_add_(0, owner, slope * vectors)
        offset = torch.zeros_like(score[:, -1:]).index_add_(0, owner, slope)
        score = score - self.score_rate * torch.cat([pull, offset], dim=1)
        mine, bias = score[:, :-1].index_select(0, owner), score[:, -1]
        slope = (_slope(vectors, mine, bias[owner], target) / size).unsqueeze(1)
        return table.index_add(0, row, slope * mine, alpha=-self.item_rate), score


def personal_scores(private: State, items: Tensor) -> Tensor:
    """w_u · T_i + b_u for every item, [n, n_items]; T_i is the user's own row, and the common one where it has none."""
    score, rows = private.dense["score"], private.ragged["items"]
    scores = torch.addmm(score[:, -1:], score[:, :-1], items.T)
    mine = score.index_select(0, rows.owner)
    scores[rows.owner, rows.index] = (rows.value * mine[:, :-1]).sum(dim=1) + mine[:, -1]
    return scores


def _slope(vectors: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    """σ(s) − y of each sample, [m]."""
    return torch.sigmoid((vectors * weight).sum(dim=1) + bias) - target


def _nothing(cohort: Cohort, items: Tensor) -> Rows:
    return Rows(cohort.owner[:0], cohort.items[:0], items[:0])


def _overlaid(start: Tensor, pairs: Tensor, kept: Rows, n_items: int) -> Tensor:
    """The rows of some (user, item) pairs, those that are kept in place of the common ones."""
    place, found = _find(pairs, kept, n_items)
    return torch.where(found.unsqueeze(1), kept.value[place], start) if len(kept.owner) else start


def _merged(kept: Rows, new: Rows, n_items: int) -> Rows:
    """All rows of both, the new ones in place of those that were kept."""
    pairs = new.owner * n_items + new.index
    place, found = _find(pairs, kept, n_items)
    value = kept.value.index_copy(0, place[found], new.value[found])
    if bool(found.all()):
        return Rows(kept.owner, kept.index, value)
    every, order = torch.cat([kept.owner * n_items + kept.index, pairs[~found]]).sort()
    return Rows(every // n_items, every % n_items, torch.cat([value, new.value[~found]])[order])


def _find(pairs: Tensor, kept: Rows, n_items: int) -> tuple[Tensor, Tensor]:
    """Where (user, item) pairs are among the rows that are kept, and whether they are: both [P]."""
    stored = kept.owner * n_items + kept.index
    place = torch.searchsorted(stored, pairs).clamp(max=max(0, len(stored) - 1))
    found = stored[place] == pairs if len(stored) else torch.zeros_like(pairs, dtype=torch.bool)
    return place, found
