"""Users as what they touched: all that *folding in* needs to know of somebody who was not there at training.

A recommender that folds in computes a user from their items alone. It then serves new users without being fitted again,
and for a known user it gives what `score` gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.recommenders.sampling import pairs_of


@dataclass(frozen=True, eq=False)
class Histories:
    """The items of some users, ragged.

    Attributes:
        indptr: [n + 1] int64; user u's items are items[indptr[u]:indptr[u + 1]].
        items: [m] int64 item codes of the training catalogue, ascending and distinct within a user.
        n_items: size of the catalogue.
    """

    indptr: Tensor
    items: Tensor
    n_items: int

    @classmethod
    def of(cls, train: Interactions) -> Histories:
        """Those of every user of the vocabulary, in code order."""
        return cls(*train.csr, train.n_items)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def degrees(self) -> Tensor:
        """[n] int64 number of items of each user."""
        return self.indptr.diff()

    @cached_property
    def matrix(self) -> sp.csr_matrix:
        """[n, n_items] float64, 1 where a user has an item."""
        parts = (np.ones(len(self.items)), self.items.numpy(), self.indptr.numpy())
        return sp.csr_matrix(parts, shape=(len(self), self.n_items))

    def take(self, users: Tensor) -> Histories:
        """Those of the users at some positions, [b] int64, in the order given."""
        owner, items = pairs_of(users, self.indptr, self.items)
        indptr = torch.zeros(len(users) + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(owner, minlength=len(users)), dim=0, out=indptr[1:])
        return Histories(indptr, items, self.n_items)

    def fill_empty(self, scores: Tensor, instead: Tensor) -> Tensor:
        """`scores` with the rows of users without items replaced: nothing is known of them, so all get `instead`.

        Args:
            scores: [n, n_items], changed in place.
            instead: [n_items], most often the popularity of items.
        """
        scores[self.degrees == 0] = instead.to(scores.dtype)
        return scores


@runtime_checkable
class FoldIn(Protocol):
    """A recommender that serves users whom it was not fitted on."""

    @property
    def folds_in(self) -> bool:
        """Whether it does: a model that is made of others may only if they do."""

    def score_histories(self, histories: Histories) -> Tensor:
        """Scores of every item for users who have these items: [len(histories), n_items].

        A user with the items of a training user gets that user's scores, save for those of the items themselves.
        """


def folds_in(recommender: object) -> bool:
    """Whether a recommender serves new users by folding in."""
    return isinstance(recommender, FoldIn) and recommender.folds_in
