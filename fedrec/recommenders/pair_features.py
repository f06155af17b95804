"""Features of a user and an item, from training interactions and attributes, for models that rank by features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.recommenders.attributes import Columns, Features, encode
from fedrec.recommenders.histories import Histories
from fedrec.recommenders.neighbors import ItemNeighbors, UserNeighbors
from fedrec.recommenders.recommender import Training

FloatArray = npt.NDArray[np.float64]

NAMES = ("popularity", "activity", "item-neighbors", "user-neighbors", "affinity", "group-popularity")


@dataclass(frozen=True, eq=False)
class PairFeatures:
    """What is known of a user and an item.

    - popularity: log(1 + number of users of the item);
    - activity: log(1 + number of items of the user);
    - item-neighbors, user-neighbors: the scores of these models, divided by the user's largest;
    - affinity: over the attributes of the item, the mean share of the user's items that have each;
    - group-popularity: over the attributes of the user, the mean of log((1 + users of the item who have it) /
      (1 + users of the item · share of all users who have it)): what people like them have more often than others.

    A feature of an interaction that it was itself computed from would give the answer away: ask only about pairs that
    are not among the interactions given here.
    """

    histories: Histories
    popularity: Tensor
    items: ItemNeighbors
    users: UserNeighbors
    item_attributes: Features
    user_attributes: Features
    group_counts: sp.csr_matrix
    group_shares: FloatArray

    @classmethod
    def of(
        cls,
        known: Interactions,
        items: ItemNeighbors,
        users: UserNeighbors,
        user_columns: Columns,
        item_columns: Columns,
    ) -> PairFeatures:
        """Features from these interactions alone; the two models are fitted on them.

        Raises:
            ConfigError: if there is no such column.
        """
        items.fit(known, Training())
        users.fit(known, Training())
        histories = Histories.of(known)
        of_user = encode(known.user_attributes, user_columns, known.n_users, "user_columns")
        of_item = encode(known.item_attributes, item_columns, known.n_items, "item_columns")
        active = known.user_degrees > 0
        shares = np.asarray(of_user.matrix[active].sum(axis=0)).reshape(-1) / max(1, int(active.sum()))
        counts = sp.csr_matrix(of_user.matrix.T @ histories.matrix)  # [user attributes, n_items]
        popularity = torch.from_numpy(known.item_degrees)
        return cls(histories, popularity, items, users, of_item, of_user, counts, shares)

    def first_stage(self, users: Tensor) -> Tensor:
        """Scores that candidates are chosen by: those of the item neighbours, [n] -> [n, n_items] float64."""
        return self.items.score(users)

    def at(self, users: Tensor, owner: Tensor, items: Tensor) -> FloatArray:
        """The features of some pairs.

        Args:
            users: [n] int64 user codes.
            owner: [m] int64 position within `users` of each pair's user.
            items: [m] int64 item of each pair.

        Returns:
            [m, 6] float64, in the order of `NAMES`.
        """
        activity = self.histories.degrees[users].double()
        columns = (
            torch.log1p(self.popularity[items].double()),
            torch.log1p(activity)[owner],
            _relative(self.items.score(users))[owner, items],
            _relative(self.users.score(users))[owner, items],
            self._affinity(users)[owner, items],
            self._group_popularity(users)[owner, items],
        )
        return np.asarray(torch.stack(columns, dim=1).numpy())

    def _affinity(self, users: Tensor) -> Tensor:
        """[n, n_items]; 0 for users without items and for items without attributes."""
        history, attributes = self.histories.take(users).matrix, self.item_attributes.matrix
        share = (history @ attributes).toarray() / np.maximum(history.sum(axis=1).reshape(-1, 1), 1.0)
        width = np.maximum(np.asarray(attributes.sum(axis=1)).reshape(1, -1), 1.0)
        return torch.from_numpy(np.asarray(attributes @ share.T).T / width)

    def _group_popularity(self, users: Tensor) -> Tensor:
        """[n, n_items]; 0 for users without attributes."""
        of_user = self.user_attributes.matrix[users.numpy()]
        expected = np.outer(self.group_shares, self.popularity.numpy())
        lift = np.log((1.0 + self.group_counts.toarray()) / (1.0 + expected))
        width = np.maximum(np.asarray(of_user.sum(axis=1)).reshape(-1, 1), 1.0)
        return torch.from_numpy(np.asarray(of_user @ lift) / width)


def _relative(scores: Tensor) -> Tensor:
    """Scores divided by the user's largest: long histories make large sums."""
    return scores / scores.amax(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
