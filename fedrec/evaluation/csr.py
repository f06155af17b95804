"""Items by user, and the order of equal scores: what ranking is built on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedrec.streams import Streams

Csr = tuple[Tensor, Tensor]
"""Items by user code: (indptr [n_users + 1], items [n] ascending within a user), both int64."""


def rows_of(csr: Csr, users: Tensor) -> tuple[Tensor, Tensor]:
    """The items of some users: (position in `users`, item), both [total] int64, in the order of `users`."""
    indptr, items = csr
    start = indptr[users]
    count = indptr[users + 1] - start
    row = torch.repeat_interleave(torch.arange(len(users)), count)
    within = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
    return row, items[start[row] + within]


def tie_hash(ties: Streams, user_keys: Tensor, item_keys: Tensor) -> Tensor:
    """The order of equal scores: int64 words of the broadcast shape, smaller first.

    The word at the item's place in the user's stream `ties`. Different items of one user never share a word, and the
    order depends on the original ids alone, so a device finds the same one as a simulation.
    """
    return ties.words("ties", user_keys, item_keys)


def union_of(csrs: Sequence[Csr], users: Tensor, n_items: int) -> Csr:
    """The items that any of several tables has for some users, each once: a table by position in `users`."""
    if len(csrs) == 1:
        row, item = rows_of(csrs[0], users)
    else:
        flat = [row * n_items + item for row, item in (rows_of(csr, users) for csr in csrs)]
        together = torch.unique(torch.cat([torch.empty(0, dtype=torch.int64), *flat]))
        row, item = together // n_items, together % n_items
    counts = torch.bincount(row, minlength=len(users))
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), item
