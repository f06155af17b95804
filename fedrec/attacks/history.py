"""Reading a user's history from one answer to `LocalTraining`.

An answer without masking or noise has a row for each item of the user and for each sampled negative, and the two push
the item table in opposite directions: negatives move along −e_u, own items along +e_u and towards each other. With
more negatives than own items the sign of the majority is that of the negatives, so a stranger tells them apart.
"""

from __future__ import annotations

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fedrec.errors import DataError


def guess_history(change: Tensor) -> Tensor:
    """How much each item looks like one of the user's own.

    Args:
        change: [n_items, d], the change of the item table that the observer saw: one user's, a sum, or a noised sum.

    Returns:
        [n_items] scores; larger means more likely the user's own. Items that nothing happened to come last.
    """
    touched = change.abs().sum(dim=1) > 0
    direction = torch.linalg.svd(change, full_matrices=False).Vh[0]
    along = change @ direction
    majority = torch.sign(along[touched].sign().sum()) if touched.any() else along.new_ones(())
    scores = -along * torch.where(majority == 0, torch.ones_like(majority), majority)
    return torch.where(touched, scores, scores.min() - 1.0)


def area_under_curve(scores: Tensor, own: Tensor) -> float:
    """The probability that an own item scores above another one: 1 is a history read in full, .5 is chance.

    Args:
        scores: [n_items], from `guess_history`.
        own: [n_items] bool, the truth.

    Raises:
        DataError: if the user has no item, or all of them.
    """
    if bool(own.all()) or not bool(own.any()):
        raise DataError(f"{int(own.sum())} of {len(own)} items are the user's own; success is defined in between")
    return float(roc_auc_score(own.cpu().numpy(), scores.cpu().numpy()))
