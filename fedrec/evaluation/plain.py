"""Ranking in plain torch, on any device: what a GPU uses, and what the compiled loops are held equal to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fedrec.evaluation.csr import Csr, rows_of, tie_hash
from fedrec.streams import Streams

BLOCK = 16  # columns whose maximum stands for them in `_largest`; 8 to 32 measured alike

_LAST = torch.iinfo(torch.int64).max  # the hash that sorts behind every other
_FIRST = torch.iinfo(torch.int64).min


def candidate_scores(scores: Tensor, users: Tensor, exclude: Sequence[Csr]) -> Tensor:
    """A copy with -inf at excluded items, and -inf columns up to a multiple of `BLOCK`, at least one of them."""
    masked = F.pad(scores, (0, BLOCK - scores.shape[1] % BLOCK), value=-torch.inf)
    for csr in exclude:
        row, item = rows_of(csr, users)
        masked[row.to(masked.device), item.to(masked.device)] = -torch.inf
    return masked


def ranked(scores: Tensor, k: int, user_keys: Tensor, item_keys: Tensor, ties: Streams) -> tuple[Tensor, Tensor]:
    """Scores and items of the lists, both [n, k]; -inf and -1 where candidates ran out."""
    values, items = _largest(scores, k + 1)  # one more, to see whether a tie runs over the end of the list
    tied = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)
    values, items = values[:, :k], items[:, :k].where(values[:, :k] > -torch.inf, -1)
    rows = tied.any(dim=1).nonzero().squeeze(1)  # only these pay for the hash
    if len(rows):
        keys = user_keys.to(rows.device)[rows]
        values[rows], items[rows] = _break_ties(
            scores[rows], values[rows, -1:], k, keys, item_keys.to(rows.device), ties
        )
    return values, items


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`scores.topk(k)` in about one pass over memory; which of several equal columns it returns is undefined.

    Deal the columns into blocks. The k blocks with the largest maxima hold the k largest values: each of them holds an
    entry at least as large as anything outside. A block is a strided set of columns, so that the maxima vectorise.
    """
    n, width = scores.shape
    blocks = width // BLOCK
    if blocks < 4 * k:  # too few blocks to gain by
        return scores.topk(k)
    best = scores.view(n, BLOCK, blocks).amax(dim=1).topk(k, sorted=False).indices
    columns = (best.unsqueeze(1) + blocks * torch.arange(BLOCK, device=scores.device).unsqueeze(1)).flatten(1)
    values, position = scores.gather(1, columns).topk(k)
    return values, columns.gather(1, position)


def _break_ties(
    scores: Tensor, threshold: Tensor, k: int, user_keys: Tensor, item_keys: Tensor, ties: Streams
) -> tuple[Tensor, Tensor]:
    """The lists of rows with equal scores: everything from the threshold upwards, sorted by score and hash.

    Args:
        scores: [n, width], -inf where there is no candidate.
        threshold: [n, 1], the score at rank k, -inf if there are fewer candidates.
        k: length of a list.
        user_keys: [n] stream key of each row.
        item_keys: [n_items] stream keys.
        ties: the streams of the run.
    """
    row, item = ((scores >= threshold) & (scores > -torch.inf)).nonzero(as_tuple=True)
    count = torch.bincount(row, minlength=len(scores))
    place = (row, torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row])
    shape = (len(scores), max(k, int(count.max())))
    value = scores.new_full(shape, -torch.inf).index_put(place, scores[row, item])
    hashed = item.new_full(shape, _LAST).index_put(place, tie_hash(ties, user_keys[row], item_keys[item]))
    listed = item.new_full(shape, -1).index_put(place, item)

    # Fewer than k items lie above the threshold: they stay, and the smallest hashes of the tie fill up the list.
    chosen = hashed.masked_fill(value > threshold, _FIRST).topk(k, largest=False).indices
    value, hashed, listed = value.gather(1, chosen), hashed.gather(1, chosen), listed.gather(1, chosen)
    by_hash = hashed.argsort(dim=1)
    by_score = value.gather(1, by_hash).argsort(dim=1, descending=True, stable=True)
    final = by_hash.gather(1, by_score)
    return value.gather(1, final), listed.gather(1, final)
