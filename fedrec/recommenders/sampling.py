"""Train-only negatives: uniform over the items outside a user's training items, without rejection, or by popularity.

The samplers are given training items and cannot see the rest, so held-out items are drawn like any other. A sampler
that avoids them tells the model which items are held out, and a ranking among the same candidates rewards it for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.errors import DataError
from fedrec.streams import Streams


@dataclass(frozen=True, eq=False)
class Complement:
    """The items outside each user's own, addressed by rank and never listed.

    A user's own items a_0 < a_1 < ... have a_j − j other items before them. So the other item of rank r is r + j, with
    j the number of own items for which a_j − j ≤ r: one binary search, which all users share because each user's
    numbers are moved into an interval of its own.

    Attributes:
        indptr: [n_users + 1] int64, where each user's items begin.
        before: [n] int64 ascending, a_j − j of all users in turn, plus user · stride.
        sizes: [n_users] int64, number of items outside each user's own.
        stride: length of a user's interval.
    """

    indptr: Tensor
    before: Tensor
    sizes: Tensor
    stride: int

    @classmethod
    def of(cls, indptr: Tensor, items: Tensor, n_items: int) -> Complement:
        """The complement of users' items within the catalogue.

        Args:
            indptr, items: items by user, ascending and distinct within a user (`Interactions.csr`).
            n_items: size of the catalogue.
        """
        degrees = indptr.diff()
        user = torch.repeat_interleave(torch.arange(len(degrees), device=items.device), degrees)
        rank = torch.arange(len(items), device=items.device) - indptr[user]
        stride = n_items + 1
        before = items - rank + user * stride
        return cls(indptr, before, n_items - degrees, stride)

    def at(self, user: Tensor, rank: Tensor) -> Tensor:
        """The item of a rank, 0 ≤ rank < sizes[user], outside a user's own: [m], [m] int64 -> [m] int64."""
        skipped = torch.searchsorted(self.before, user * self.stride + rank, right=True) - self.indptr[user]
        return rank + skipped

    def pick(self, user: Tensor, uniform: Tensor) -> Tensor:
        """The item that a uniform number picks among those outside a user's own.

        Args:
            user: [m] int64 positions of users.
            uniform: [m] float64 in [0, 1). Its 53 bits make any item's bias smaller than n_items / 2^53.

        Raises:
            DataError: if a user has every item of the catalogue.
        """
        sizes = self.sizes[user]
        if (sizes < 1).any():
            full = int((self.sizes < 1).sum())
            raise DataError(
                f"{full} users have all {self.stride - 1} items in training and no negative to draw; "
                "drop such users, or train with a loss that needs no negatives"
            )
        return self.at(user, (uniform * sizes).long())


def pairs_of(users: Tensor, indptr: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """The training interactions of a batch of users.

    Args:
        users: [b] int64 user codes.
        indptr, items: items by user (`Interactions.csr`).

    Returns:
        owner [m], position within `users`, ascending; item [m].
    """
    degrees = indptr.diff()[users]
    owner = torch.repeat_interleave(torch.arange(len(users), device=users.device), degrees)
    begins = degrees.cumsum(0) - degrees
    within = torch.arange(len(owner), device=users.device) - begins[owner]
    return owner, items[indptr[users][owner] + within]


def negatives(
    draw: Streams, keys: Tensor, indptr: Tensor, items: Tensor, owner: Tensor, counter: Tensor, n_items: int
) -> Tensor:
    """One negative a slot, which depends on nothing but the seed, the round, the user's key and items, and the counter.

    A user draws the same negatives alone on a device and within any cohort.

    Args:
        draw: the streams, at the round of the draw.
        keys: [n] int64 keys of the cohort's users.
        indptr, items: [n + 1] and [.] int64, the training items of these users, ascending and distinct within a user.
        owner: [m] int64 in [0, n), the user of each slot.
        counter: [m] int64, position of the slot within its user's stream.
        n_items: size of the catalogue.

    Returns:
        [m] int64 item codes, uniform over the items outside the owner's training items.

    Raises:
        DataError: if the owner of a slot has every item of the catalogue.
    """
    return Complement.of(indptr, items, n_items).pick(owner, draw.uniform("negatives", keys[owner], counter))


def sample_negatives(generator: torch.Generator, outside: Complement, users: Tensor, count: int) -> Tensor:
    """Negatives from one sequential generator, for training where all users are at hand.

    Args:
        generator: where the randomness comes from, on the device of `users`.
        outside: the complement of all users' training items.
        users: [m] int64 user codes, repeated at will.
        count: negatives for each.

    Returns:
        [m, count] int64 item codes, uniform over the items outside the user's training items, with replacement.

    Raises:
        DataError: if one of the users has every item of the catalogue.
    """
    uniform = torch.rand(len(users) * count, generator=generator, dtype=torch.float64, device=users.device)
    return outside.pick(users.repeat_interleave(count), uniform).view(len(users), count)


@dataclass(frozen=True, eq=False)
class SharedNegatives:
    """Negatives that all users of a batch share, each user without their own training items.

    Attributes:
        items: [m] int64, distinct, ascending.
        correction: [users, m] what is added to a user's scores of them: the logarithm of how often the item was drawn,
            so that one score stands for all its draws, and next to nothing (−10⁹) for the user's own items.
    """

    items: Tensor
    correction: Tensor

    @classmethod
    def of(cls, drawn: Tensor, n_users: int, owner: Tensor, item: Tensor, n_items: int) -> SharedNegatives:
        """The negatives that were drawn, seen by each user of a batch.

        Args:
            drawn: [n] int64 item codes, repeated at will.
            n_users: users of the batch.
            owner, item: [r] int64, the training items of these users (`pairs_of`).
            n_items: size of the catalogue.
        """
        items, times = torch.unique(drawn, return_counts=True)
        place = torch.full((n_items,), -1, device=items.device)
        place[items] = torch.arange(len(items), device=items.device)
        own = place[item]
        correction = times.float().log().repeat(n_users, 1)
        # Not −∞: if a user owns all that was drawn, the loss is 0, and its gradient should be as well.
        correction[owner[own >= 0], own[own >= 0]] = -1e9
        return cls(items, correction)


def sample_by_popularity(generator: torch.Generator, degrees: Tensor, power: float, count: int) -> Tensor:
    """Items that all users of a batch share as negatives, drawn in proportion to degree^power.

    If the power is 1, an item is a negative as often as it is a positive: the distribution of in-batch negatives.

    Args:
        generator: where the randomness comes from, on the device of `degrees`.
        degrees: [n_items] number of training interactions of each item, one above 0.
        power: 0 draws all items alike, those without an interaction among them.
        count: how many are drawn, with replacement.

    Returns:
        [count] int64 item codes.
    """
    upto = degrees.double().pow(power).cumsum(0)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64, device=degrees.device)
    return torch.searchsorted(upto, uniform * upto[-1], right=True).clamp(max=len(degrees) - 1)
