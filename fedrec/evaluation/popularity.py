"""What lists show beyond the most popular items: the long tail, and what is right without being popular."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrec.evaluation.csr import Csr

HEAD_SHARE = 0.8
"""Share of all training interactions that the head has; what is left of the catalogue is the long tail."""

_ROUNDING = 1e-9
"""Relative difference up to which sums of fractions are equal: a sum of n doubles is off by some n·10⁻¹⁶, and what at
most 10⁸ interactions come to differs by more."""


def long_tail(popularity: Tensor, head: float = HEAD_SHARE) -> Tensor:
    """Which items are in the long tail: [n_items] bool.

    The head is the fewest most popular items that together have a share of all training interactions, 80% as in Elliot
    unless told otherwise; items exactly as popular as the last of them belong to it too, so that codes decide nothing.
    Nor does rounding, where popularity is a sum of shares: what differs by less than 10⁻⁹ of itself is equal.

    Args:
        popularity: [n_items] number of training interactions of each item, or shares of them.
        head: share of all of them that the head has, above 0.
    """
    popularity = popularity.double()  # a float32 cannot count beyond 2²⁴
    ranked = popularity.sort(descending=True).values
    reached = ranked.cumsum(dim=0) >= head * popularity.sum() * (1.0 - _ROUNDING)
    return popularity < ranked[int(reached.long().argmax())] * (1.0 - _ROUNDING)


def long_tail_share(items: Tensor, tail: Tensor) -> Tensor:
    """Share of the list that is in the long tail: |{i ∈ L : i ∈ tail}| / |L|.

    The average percentage of long-tail items (APLT), Abdollahpouri, Burke and Mobasher 2017; Elliot's APLT.

    Args:
        items: [users, k] lists, -1 where there is no item.
        tail: [n_items] bool, what `long_tail` found.

    Returns:
        [users] float64 in [0, 1]; larger is better. An empty list has no share of the tail: 0.
    """
    listed = items >= 0
    return (tail[items.clamp(min=0)] & listed).sum(dim=1).double() / listed.sum(dim=1).clamp(min=1)


def popularity_bar(popularity: Tensor, known: Csr, k: int) -> Tensor:
    """How popular an item must be to be in the list of the k most popular items that a user does not know: [users].

    The list holds every item that is as popular as its k-th, so that it does not depend on an order of equals. With
    fewer than k items left it holds them all: the bar is 0.

    Args:
        popularity: [n_items] int64 number of training interactions of each item.
        known: by row, the items that are no candidates of a user, (indptr [users + 1], items), each once.
        k: length of the list.
    """
    order = popularity.argsort(descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    indptr, items = known
    users, counts = len(indptr) - 1, indptr.diff()
    row = torch.repeat_interleave(torch.arange(users), counts)
    flat = torch.sort(row * len(order) + place[items]).values
    places = flat % len(order)
    # The j-th known item of a user (from 0) leaves places - j others above it: it is skipped on the way to the k-th.
    above = places - (torch.arange(len(places)) - indptr[:-1][row])
    skipped = torch.bincount(row[above < k], minlength=users)
    last = k - 1 + skipped
    return torch.where(last < len(order), popularity[order][last.clamp(max=len(order) - 1)], 0)


def serendipity(items: Tensor, hits: Tensor, popularity: Tensor, bar: Tensor) -> Tensor:
    """Share of the list that is relevant and not in the popularity list: |{i ∈ L : i relevant, pop_i < b}| / k.

    Useful and unexpected, where expected is what a primitive model recommends (Murakami, Mori and Orihara 2008; Ge,
    Delgado-Battenfeld and Jannach 2010), here the k most popular items that the user does not know.

    Args:
        items: [users, k] lists, -1 where there is no item.
        hits: [users, k] bool, whether the item at each rank is relevant.
        popularity: [n_items] number of training interactions of each item.
        bar: [users] what `popularity_bar` found for lists of this length.

    Returns:
        [users] float64 in [0, 1], never above precision; larger is better.
    """
    unexpected = popularity[items.clamp(min=0)] < bar.unsqueeze(1)
    return (hits & unexpected & (items >= 0)).sum(dim=1).double() / items.shape[1]
