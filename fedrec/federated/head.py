"""The head of the catalogue: the items that many users have, to which a method may confine itself.

What a user adds to a sum is bounded, whatever the number of its items: among fewer items each counts for more. Under a
guarantee the head is found by a release of its own, which takes a small share of the budget.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedrec.federated.cohort import Cohort


def most_popular(counts: Tensor, size: int) -> Tensor:
    """The items of the highest counts, [size] int64 ascending; of equal ones those of lower codes."""
    return counts.sort(descending=True, stable=True).indices[:size].sort().values


def histories(cohort: Cohort, head: Tensor, dtype: torch.dtype) -> Tensor:
    """x_u on the items of the head, [n, len(head)] of 0 and 1."""
    history = torch.zeros(len(cohort), cohort.n_items, dtype=dtype, device=head.device)
    history[cohort.owner, cohort.items] = 1.0
    return history if len(head) == cohort.n_items else history[:, head]


def over_catalogue(scores: Tensor, known: Tensor, head: Tensor, counts: Tensor) -> Tensor:
    """Scores of every item, those of the head being given.

    An item outside the head comes after all of its items, by its count. A user who has none of the head's items, of
    whom nothing is known, is shown all items by their counts.

    Args:
        scores: [n, m] of the items of the head.
        known: [n, m] the histories that they were computed from.
        head: [m] int64 ascending.
        counts: [n_items], none outside the head above one within.

    Returns:
        [n, n_items].
    """
    ahead = (counts - counts[head].min()).to(scores.dtype)
    placed = ahead + scores.min(dim=1, keepdim=True).values
    placed[:, head] = scores
    return torch.where(known.any(dim=1, keepdim=True), placed, ahead)
