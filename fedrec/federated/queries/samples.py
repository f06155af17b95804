"""Samples: the positives and negatives that users train on in one round, for queries of local training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.federated.cohort import Cohort
from fedrec.recommenders.sampling import negatives
from fedrec.streams import Streams


@dataclass(frozen=True, eq=False)
class Samples:
    """Own items and negatives of a cohort, drawn once a round.

    Attributes:
        owner: [S] int64 position of the user within the cohort.
        item: [S] int64.
        target: [S] 1 for an own item, 0 for a negative.
        slot: [S] int64 position within the user's samples.
        sizes: [n] int64 samples of each user.
    """

    owner: Tensor
    item: Tensor
    target: Tensor
    slot: Tensor
    sizes: Tensor

    @classmethod
    def draw(
        cls, cohort: Cohort, draw: Streams, count: int, dtype: torch.dtype, pool: tuple[Tensor, Tensor] | None = None
    ) -> Samples:
        """Every own item and `count` negatives for it. A user who has every item has no negative, and no sample.

        Args:
            cohort: the users.
            draw: the streams, at the round of the draw.
            count: negatives for each own item.
            dtype: of the targets.
            pool: items that are no negatives, by user (indptr, items); None takes the training items.
        """
        indptr, outside = (cohort.indptr, cohort.items) if pool is None else pool
        able = (indptr.diff() < cohort.n_items)[cohort.owner]
        owner, own = cohort.owner[able], cohort.items[able]
        rank = torch.arange(len(cohort.items), device=own.device)[able] - cohort.indptr[owner]
        counter = (rank.unsqueeze(1) * count + torch.arange(count, device=own.device)).flatten()
        owners = owner.repeat_interleave(count)
        drawn = negatives(draw, cohort.keys, indptr, outside, owners, counter, cohort.n_items)
        whose = torch.cat([owner, owners])
        return cls(
            owner=whose,
            item=torch.cat([own, drawn]),
            target=torch.cat([torch.ones_like(own), torch.zeros_like(drawn)]).to(dtype),
            slot=torch.cat([rank, cohort.degrees[owners] + counter]),
            sizes=torch.bincount(whose, minlength=len(cohort)),
        )

    def rows(self, n_items: int) -> tuple[Tensor, Tensor, Tensor]:
        """The distinct (user, item) pairs, sorted, and where each sample's is: owner [P], index [P], position [S]."""
        pairs, position = torch.unique(self.owner * n_items + self.item, return_inverse=True)
        return pairs // n_items, pairs % n_items, position

    def weights(self, cohort: Cohort, power: float) -> Tensor:
        """[S], 1 / d_u to a power: 0 counts interactions alike, 1 counts users alike."""
        return cohort.degrees.clamp(min=1).to(self.target.dtype).pow(-power)[self.owner]

    def batches(self, draw: Streams, keys: Tensor, epochs: int, batch_size: int) -> Iterator[Tensor]:
        """Positions of the samples that users train on at the same time, at most `batch_size` a user, in random order.

        Every epoch goes through each user's samples once. A user with few samples is through before the others.
        """
        for epoch in range(epochs):
            position = self.slot + epoch * self.sizes[self.owner]
            shuffled = draw.words("batches", keys[self.owner], position).argsort()
            shuffled = shuffled[self.owner[shuffled].argsort(stable=True)]
            begin = self.sizes.cumsum(0) - self.sizes
            rank = torch.arange(len(shuffled), device=keys.device) - begin[self.owner[shuffled]]
            batch = rank // batch_size
            # Sorted by batch, and by user within one.
            counts: list[int] = torch.bincount(batch).tolist()
            yield from torch.split(shuffled[batch.argsort(stable=True)], counts)
