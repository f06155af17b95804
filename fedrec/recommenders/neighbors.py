"""Neighbourhood models: item-based (Sarwar et al. 2001) and user-based (Herlocker et al. 1999), for sets of items.

One similarity serves both. Rows are compared over weighted contexts: items over the users who have them, users over the
items they have. With a weight w_c of each context and binary rows x, y,

    c = Σ w x y,  a = Σ w x,  b = Σ w y,  n = Σ w

    cosine:   c / (√(a b) + shrinkage)
    pearson:  (c − a b / n) / (√((a − a² / n) (b − b² / n)) + shrinkage)

The second is the weighted correlation of the two rows (the phi coefficient, if all weights are 1). The shrinkage lets
similarities that rest on little weigh little (Bell and Koren 2007). Only positive similarities make neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import Interactions
from fedrec.errors import ModelError
from fedrec.recommenders.histories import Histories
from fedrec.recommenders.recommender import RECOMMENDERS, Tensors, Training
from fedrec.spaces import Choice, Integers, Space, Uniform

FloatArray = npt.NDArray[np.float64]
Similarity = Literal["cosine", "pearson"]

_BLOCK = 1 << 24  # similarities held at a time, 128 MB


def similarity(
    queries: sp.csr_matrix, rows: sp.csr_matrix, weight: FloatArray, kind: Similarity, shrinkage: float
) -> FloatArray:
    """How alike each query is to each row; negative values are set to 0.

    Args:
        queries: [q, contexts] of 0 and 1.
        rows: [n, contexts] of 0 and 1.
        weight: [contexts] at least 0.
        kind: "cosine" or "pearson"; the equations stand above.
        shrinkage: added to the norm.

    Returns:
        [q, n] float64; 0 where a norm is 0.
    """
    common = (queries @ sp.diags_array(weight) @ rows.T).toarray()
    own, other = queries @ weight, rows @ weight
    if kind == "pearson":
        total = max(float(weight.sum()), np.finfo(np.float64).tiny)
        common = common - np.outer(own, other) / total
        own, other = own - own**2 / total, other - other**2 / total
    norm = np.sqrt(np.maximum(np.outer(own, other), 0.0)) + shrinkage
    alike: FloatArray = np.divide(common, norm, out=np.zeros_like(common), where=(norm > 0) & (common > 0))
    return alike


def nearest(similarities: FloatArray, k: int) -> sp.csr_matrix:
    """The k largest positive values of each row, and those that equal the k-th: [q, n] -> sparse [q, n]."""
    if k < similarities.shape[1]:
        kth = np.partition(similarities, -k, axis=1)[:, [-k]]
        similarities = np.where(similarities >= kth, similarities, 0.0)
    return sp.csr_matrix(similarities)


def _weight(degrees: npt.NDArray[np.int64], power: float) -> FloatArray:
    """degree^−power of each context, 0 for one that nobody is in."""
    return np.where(degrees > 0, np.maximum(degrees, 1.0) ** -power, 0.0)


class ItemNeighborsConfig(Config):
    """Settings of `ItemNeighbors`.

    Attributes:
        neighbors: k, the neighbours that an item keeps.
        similarity: "cosine" or "pearson".
        shrinkage: added to the norm of two items.
        activity_power: a user weighs 1 / (number of items)^power in the similarity of two items, so that those who
            have everything do not make everything alike.
    """

    neighbors: int = Field(200, ge=1)
    similarity: Similarity = "cosine"
    shrinkage: float = Field(0.0, ge=0)
    activity_power: float = Field(0.5, ge=0)

    space: ClassVar[Mapping[str, Space]] = {
        "neighbors": Integers(10, 400, log=True),
        "similarity": Choice(("cosine", "pearson")),
        "shrinkage": Choice((0.0, 1.0, 10.0, 50.0)),
        "activity_power": Uniform(0, 1),
    }


@RECOMMENDERS.register("item-neighbors")
class ItemNeighbors:
    """Items like those that the user has: s_ui = Σ over the k nearest neighbours j of i that u has, of sim(i, j)."""

    config_class: ClassVar[type[Config]] = ItemNeighborsConfig
    folds_in = True

    def __init__(self, config: ItemNeighborsConfig) -> None:
        self.config = config
        self._neighbors: sp.csr_matrix | None = None
        self._histories = Histories(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 0)
        self._popularity = torch.zeros(0)

    def fit(self, train: Interactions, training: Training) -> None:
        """Find the neighbours of every item, a block of items at a time."""
        self._histories = Histories.of(train)
        self._popularity = torch.from_numpy(train.item_degrees)
        users = self._histories.matrix.T.tocsr()  # [n_items, n_users]
        weight = _weight(train.user_degrees, self.config.activity_power)
        blocks = []
        step = max(1, _BLOCK // max(1, train.n_items))
        for first in range(0, train.n_items, step):
            block = users[first : first + step]
            alike = similarity(block, users, weight, self.config.similarity, self.config.shrinkage)
            alike[np.arange(block.shape[0]), first + np.arange(block.shape[0])] = 0.0  # nobody is their own neighbour
            blocks.append(nearest(alike, self.config.neighbors))
        self._neighbors = sp.vstack(blocks, format="csr")
        training.progress(1, 1, None)

    def score(self, users: Tensor) -> Tensor:
        """Sums of similarities, [n] -> [n, n_items] float64; popularity for a user without training items."""
        self._fitted()
        return self.score_histories(self._histories.take(users))

    def score_histories(self, histories: Histories) -> Tensor:
        """The same for any users, from their items."""
        scores = torch.from_numpy((histories.matrix @ self._fitted().T).toarray())
        return histories.fill_empty(scores, self._popularity)

    def tensors(self) -> Tensors:
        """The sparse matrix of neighbours, a row an item, and the popularity of items."""
        found = self._fitted()
        return {
            "indptr": torch.from_numpy(found.indptr.astype(np.int64)),
            "items": torch.from_numpy(found.indices.astype(np.int64)),
            "similarity": torch.from_numpy(found.data),
            "popularity": self._popularity,
        }

    def _fitted(self) -> sp.csr_matrix:
        if self._neighbors is None:
            raise ModelError("ItemNeighbors has not been fitted; call fit(train, training) before scoring")
        return self._neighbors


class UserNeighborsConfig(Config):
    """Settings of `UserNeighbors`.

    Attributes:
        neighbors: k, the neighbours of a user. A training user is the first of their own: that adds to the scores of
            their own items alone, and makes them one with a new user of the same items.
        similarity: "cosine" or "pearson".
        shrinkage: added to the norm of two users.
        popularity_power: an item weighs 1 / (number of users)^power in the similarity of two users, so that what
            everybody has does not make all alike.
    """

    neighbors: int = Field(100, ge=1)
    similarity: Similarity = "cosine"
    shrinkage: float = Field(0.0, ge=0)
    popularity_power: float = Field(0.5, ge=0)

    space: ClassVar[Mapping[str, Space]] = {
        "neighbors": Integers(10, 400, log=True),
        "similarity": Choice(("cosine", "pearson")),
        "shrinkage": Choice((0.0, 1.0, 10.0, 50.0)),
        "popularity_power": Uniform(0, 1),
    }


@RECOMMENDERS.register("user-neighbors")
class UserNeighbors:
    """What users like them have: s_ui = Σ over the k nearest neighbours v of u that have i, of sim(u, v)."""

    config_class: ClassVar[type[Config]] = UserNeighborsConfig
    folds_in = True

    def __init__(self, config: UserNeighborsConfig) -> None:
        self.config = config
        self._train: Histories | None = None
        self._weight = np.zeros(0)
        self._popularity = torch.zeros(0)

    def fit(self, train: Interactions, training: Training) -> None:
        """Keep the training users: neighbours are found when scores are asked for."""
        self._train = Histories.of(train)
        self._weight = _weight(train.item_degrees, self.config.popularity_power)
        self._popularity = torch.from_numpy(train.item_degrees)
        training.progress(1, 1, None)

    def score(self, users: Tensor) -> Tensor:
        """Sums of similarities, [n] -> [n, n_items] float64; popularity for a user without training items."""
        return self.score_histories(self._fitted().take(users))

    def score_histories(self, histories: Histories) -> Tensor:
        """The same for any users, from their items."""
        everyone = self._fitted().matrix
        alike = similarity(histories.matrix, everyone, self._weight, self.config.similarity, self.config.shrinkage)
        scores = torch.from_numpy((nearest(alike, self.config.neighbors) @ everyone).toarray())
        return histories.fill_empty(scores, self._popularity)

    def tensors(self) -> Tensors:
        """The training users' items, the weights of items, and their popularity."""
        train = self._fitted()
        weight = torch.from_numpy(self._weight)
        return {"indptr": train.indptr, "items": train.items, "weight": weight, "popularity": self._popularity}

    def _fitted(self) -> Histories:
        if self._train is None:
            raise ModelError("UserNeighbors has not been fitted; call fit(train, training) before scoring")
        return self._train
