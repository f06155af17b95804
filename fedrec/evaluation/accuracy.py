"""Accuracy of ranked lists against held-out items: plain functions of hits, one value a user.

In the formulas h_r is 1 if the item at rank r = 1..k is relevant and 0 otherwise, H = Σ_r h_r the number of hits, and
T = |test_u| the number of relevant items. A list shorter than k, of a user with few candidates, has no hit at its empty
ranks and is still divided by k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fedrec.errors import DataError


def precision(hits: Tensor, relevant: Tensor) -> Tensor:
    """Share of the list that is relevant: H / k.

    Follows trec_eval and PyG: the divisor is k even if the user has fewer than k relevant items or candidates.

    Args:
        hits: [users, k] bool, whether the item at each rank is relevant.
        relevant: [users] int, number of relevant items of each user, at least 1.

    Returns:
        [users] float64 in [0, 1]; larger is better.

    Raises:
        DataError: if a user has no relevant item; so do all functions of this module.
    """
    _require_relevant(relevant)
    return hits.sum(dim=1).double() / hits.shape[1]


def recall(hits: Tensor, relevant: Tensor) -> Tensor:
    """Share of the relevant items that the list contains: H / T.

    Follows trec_eval, PyG and LightGCN's code; RecBole's is the same. With T > k the largest value is k / T.

    Args:
        hits: [users, k] bool, whether the item at each rank is relevant.
        relevant: [users] int, number of relevant items of each user, at least 1.

    Returns:
        [users] float64 in [0, 1]; larger is better.
    """
    _require_relevant(relevant)
    return hits.sum(dim=1).double() / relevant


def hit_rate(hits: Tensor, relevant: Tensor) -> Tensor:
    """Whether the list contains a relevant item: 1[H > 0].

    Its mean over users is HR@k; with one relevant item a user it equals recall.

    Args:
        hits: [users, k] bool, whether the item at each rank is relevant.
        relevant: [users] int, number of relevant items of each user, at least 1.

    Returns:
        [users] float64, 0 or 1; larger is better.
    """
    _require_relevant(relevant)
    return hits.any(dim=1).double()


def f1(hits: Tensor, relevant: Tensor) -> Tensor:
    """Harmonic mean of a user's precision and recall: 2PR / (P + R) = 2H / (k + T), and 0 without a hit.

    It is taken per user and then averaged, as in PyG; the F1 of mean precision and mean recall is another number.

    Args:
        hits: [users, k] bool, whether the item at each rank is relevant.
        relevant: [users] int, number of relevant items of each user, at least 1.

    Returns:
        [users] float64 in [0, 1]; larger is better.
    """
    _require_relevant(relevant)
    return 2.0 * hits.sum(dim=1).double() / (hits.shape[1] + relevant)


def ndcg(hits: Tensor, relevant: Tensor) -> Tensor:
    """Discounted gain of the list over that of the best possible one (Järvelin and Kekäläinen 2002), binary gain.

    DCG = Σ_r h_r / log2(r + 1); IDCG = Σ_{r=1..min(k,T)} 1 / log2(r + 1); NDCG = DCG / IDCG. The ideal list is
    truncated at min(k, T), as in trec_eval's ndcg_cut, PyG and RecBole.

    Args:
        hits: [users, k] bool, whether the item at each rank is relevant.
        relevant: [users] int, number of relevant items of each user, at least 1.

    Returns:
        [users] float64 in [0, 1]; larger is better.
    """
    _require_relevant(relevant)
    k = hits.shape[1]
    discount = discounts(k)
    # Both sums run in the order of ranks, so that a perfect list is exactly 1.
    gained = (hits * discount).cumsum(dim=1)[:, -1]
    ideal = discount.cumsum(dim=0)[relevant.clamp(max=k) - 1]
    return gained / ideal


def ndcg_gains(hits: Tensor, relevant: Tensor) -> Tensor:
    """What each place of the list adds to `ndcg`: h_r / log2(r + 1) / IDCG.

    Args:
        hits: [users, k] bool, whether the item at each rank is relevant.
        relevant: [users] int, number of relevant items of each user, at least 1.

    Returns:
        [users, k] float64 in [0, 1]; a user's sum is the user's `ndcg`.
    """
    _require_relevant(relevant)
    k = hits.shape[1]
    discount = discounts(k)
    ideal = discount.cumsum(dim=0)[relevant.clamp(max=k) - 1]
    return hits * discount / ideal.unsqueeze(1)


def discounts(k: int) -> Tensor:
    """The weight of each rank in `ndcg`, 1 / log2(r + 1): [k] float64."""
    return 1.0 / torch.log2(_ranks(k) + 1.0)


def mrr(hits: Tensor, relevant: Tensor) -> Tensor:
    """Reciprocal rank of the first relevant item, max_r h_r / r; 0 if there is none within the list.

    Follows trec_eval's recip_rank cut at k, PyG and RecBole.

    Args:
        hits: [users, k] bool, whether the item at each rank is relevant.
        relevant: [users] int, number of relevant items of each user, at least 1.

    Returns:
        [users] float64 in [0, 1]; larger is better.
    """
    _require_relevant(relevant)
    return (hits / _ranks(hits.shape[1])).amax(dim=1)


def average_precision(hits: Tensor, relevant: Tensor) -> Tensor:
    """Precision at the rank of each hit, summed: Σ_r h_r · (Σ_{s≤r} h_s / r) / min(k, T). Its mean is MAP@k.

    Divided by min(k, T), as in PyG and RecBole, so that a perfect list is 1 even if T > k; trec_eval's map_cut divides
    by T.

    Args:
        hits: [users, k] bool, whether the item at each rank is relevant.
        relevant: [users] int, number of relevant items of each user, at least 1.

    Returns:
        [users] float64 in [0, 1]; larger is better.
    """
    _require_relevant(relevant)
    k = hits.shape[1]
    precisions = hits.cumsum(dim=1) / _ranks(k)
    return (hits * precisions).sum(dim=1) / relevant.clamp(max=k)


def auc(scores: Tensor, relevant: Tensor) -> Tensor:
    """Chance that a relevant candidate is above another one: Σ (1[s_i > s_j] + ½ 1[s_i = s_j]) / (T · N).

    i runs over a user's T relevant candidates and j over the N others: the Mann-Whitney statistic, as scikit-learn's
    roc_auc_score has it. It looks at the whole ranking and has no k. A tie counts half, which is what its orders by
    hash amount to on average. Without any other candidate it is ½, chance.

    Args:
        scores: [users, candidates] floating point; -inf where there is no candidate.
        relevant: [users, candidates] bool, at least one of each user's candidates.

    Returns:
        [users] float64 in [0, 1]; larger is better, ½ is chance.
    """
    candidate = scores > -torch.inf
    relevant = relevant & candidate
    counts, others = relevant.sum(dim=1), (candidate & ~relevant).sum(dim=1)
    _require_relevant(counts)
    rest = scores.masked_fill(relevant | ~candidate, torch.inf).sort(dim=1).values
    below = torch.searchsorted(rest, scores.contiguous())
    not_above = torch.searchsorted(rest, scores.contiguous(), right=True)
    wins = ((below + not_above) * relevant).sum(dim=1)
    return torch.where(others > 0, wins.double() / (2 * counts * others.clamp(min=1)), 0.5)


def rmse(predicted: Tensor, rating: Tensor) -> float:
    """Root of the mean squared error of predicted ratings, √(mean (r̂ − r)²), over all interactions together.

    Every rating counts the same, as in scikit-learn and the Netflix Prize; a mean of users' errors is another number.

    Args:
        predicted: [n] predicted ratings.
        rating: [n] the ratings that were given, at least one.

    Returns:
        A number from 0 upwards, in the unit of the ratings; smaller is better.

    Raises:
        DataError: if there is no rating.
    """
    return float(_errors(predicted, rating).square().mean().sqrt())


def mae(predicted: Tensor, rating: Tensor) -> float:
    """Mean absolute error of predicted ratings, mean |r̂ − r|; arguments, range and errors as `rmse`."""
    return float(_errors(predicted, rating).abs().mean())


RATING: Mapping[str, Callable[[Tensor, Tensor], float]] = {"rmse": rmse, "mae": mae}
"""The errors of models that predict ratings, by the name that they have in results."""

ACCURACY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "precision": precision,
    "recall": recall,
    "hit-rate": hit_rate,
    "f1": f1,
    "ndcg": ndcg,
    "mrr": mrr,
    "map": average_precision,
}
"""The accuracy metrics by the name that they have in results."""


def accuracy_at(hits: Tensor, relevant: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """Every accuracy metric at several lengths of the list: "name@k" -> [users] float64.

    Args:
        hits: [users, max(ks)] bool.
        relevant: [users] int, at least 1.
        ks: lengths of the list.
    """
    return {f"{name}@{k}": metric(hits[:, :k], relevant) for name, metric in ACCURACY.items() for k in ks}


def _errors(predicted: Tensor, rating: Tensor) -> Tensor:
    if not len(rating):
        raise DataError("there is no rating to compare with; evaluate at least one interaction")
    return predicted.double() - rating.double()


def _require_relevant(relevant: Tensor) -> None:
    if (relevant < 1).any():
        raise DataError(f"{int((relevant < 1).sum())} users have no relevant item; leave such users out of the mean")


def _ranks(k: int) -> Tensor:
    return torch.arange(1, k + 1, dtype=torch.float64)
