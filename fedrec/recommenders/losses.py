"""Losses of implicit feedback, as functions of scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking: the mean of −log σ(s⁺ − s⁻) over pairs (Rendle et al. 2009).

    Args:
        positive: [m] scores of interactions.
        negative: [m, n] scores of the negatives drawn for each.

    Returns:
        A scalar; log 2 where positives and negatives are alike.
    """
    return F.softplus(negative - positive.unsqueeze(1)).mean()


def bce(positive: Tensor, negative: Tensor) -> Tensor:
    """Binary cross-entropy, −log σ(s⁺) − Σ log σ(−s⁻), averaged over all scores.

    Args:
        positive: [m] scores of interactions.
        negative: [m, n] scores of the negatives drawn for each.

    Returns:
        A scalar; log 2 where all scores are 0.
    """
    total = F.softplus(-positive).sum() + F.softplus(negative).sum()
    return total / (positive.numel() + negative.numel())


def softmax(scores: Tensor, user: Tensor, item: Tensor) -> Tensor:
    """Cross-entropy against the whole catalogue: the mean of log Σ_j exp s_uj − s_ui over interactions (u, i).

    Args:
        scores: [users, n_items] of a batch of users.
        user: [m] int64 row of each interaction.
        item: [m] int64 item of each interaction.

    Returns:
        A scalar; log n_items where all scores are alike.
    """
    # index_select rather than indexing: its backward pass adds rows, where indexing's sorts them first.
    positive = scores.view(-1).index_select(0, user * scores.shape[1] + item)
    return (scores.logsumexp(dim=1).index_select(0, user) - positive).mean()


def sampled_softmax(positive: Tensor, negative: Tensor) -> Tensor:
    """Cross-entropy against sampled negatives: the mean of log(exp s⁺ + Σ exp s⁻) − s⁺ (Wu et al. 2022).

    Args:
        positive: [m] scores of interactions.
        negative: [m, n] scores of the negatives drawn for each.

    Returns:
        A scalar; log(1 + n) where all scores are alike. With one negative it is `bpr`.
    """
    together = torch.cat([positive.unsqueeze(1), negative], dim=1)
    return (together.logsumexp(dim=1) - positive).mean()


def shared_softmax(positive: Tensor, negative: Tensor, owner: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy against negatives that a batch shares: the mean of log(exp s_ui + Σ_j exp s_uj) − s_ui.

    One matrix product scores them for all interactions of a user (sampled softmax; Wu et al. 2022).

    Args:
        positive: [m] scores of interactions (u, i).
        negative: [users, n] scores of the shared negatives j.
        owner: [m] int64 row of each interaction in `negative`.
        weight: [m] of each interaction in the mean.

    Returns:
        A scalar; log(1 + n) where all scores are alike. `sampled_softmax` of the same scores, a user's repeated for
        each of their interactions.
    """
    losses = torch.logaddexp(negative.logsumexp(dim=1).index_select(0, owner), positive) - positive
    return (losses * weight).sum() / weight.sum()
