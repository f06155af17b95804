"""Exact top-k lists over the full catalogue, with ties ordered by a hash of user and item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedrec.errors import ConfigError, ModelError
from fedrec.streams import Streams

Scorer = Callable[[Tensor], Tensor]
"""[n] int64 user codes -> [n, n_items] scores; larger is better."""

Csr = tuple[Tensor, Tensor]
"""Items by user code: (indptr [n_users + 1], items [n] ascending within a user), both int64."""

SCORES_PER_CHUNK = 1 << 21  # 8 MB of float32: large enough for the scorer's matrix product, small enough for a cache
BLOCK = 16  # columns whose maximum stands for them in `_largest`; 8 to 32 measured alike

_LAST = torch.iinfo(torch.int64).max  # the hash that sorts behind every other
_FIRST = torch.iinfo(torch.int64).min


@dataclass(frozen=True, eq=False)
class TopK:
    """The lists of some users, best item first.

    Attributes:
        users: [n] int64 user codes.
        items: [n, k] int64 item codes; -1 where a user has fewer than k candidates.
        scores: [n, k] float64, descending; -inf where there is no item.
    """

    users: Tensor
    items: Tensor
    scores: Tensor

    def hits(self, relevant: Csr) -> Tensor:
        """[n, k] bool, whether the item at each rank is among its user's relevant ones."""
        row, item = rows_of(relevant, self.users)
        width = 1 + max(int(part.max()) if part.numel() else 0 for part in (item, self.items))
        listed = torch.arange(len(self.users)).unsqueeze(1) * width + self.items
        return torch.isin(listed, row * width + item) & (self.items >= 0)


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


def top_k(
    score: Scorer,
    users: Tensor,
    k: int,
    *,
    exclude: Sequence[Csr],
    user_keys: Tensor,
    item_keys: Tensor,
    ties: Streams,
    chunk: int | None = None,
) -> TopK:
    """The k best candidates of each user, by (score descending, hash ascending), exactly.

    Every item outside the excluded ones is a candidate. The lists do not depend on `chunk`, as long as the scores of a
    user do not.

    Args:
        score: scores of every item, in a floating-point type; never written to.
        users: [n] int64 user codes.
        k: length of a list.
        exclude: items that a user must not be shown (training, validation), each by user code.
        user_keys: [n_users] int64 stream keys by user code.
        item_keys: [n_items] int64 stream keys by item code; its length is the size of the catalogue.
        ties: the streams of the run.
        chunk: users scored at a time; by default as many as make `SCORES_PER_CHUNK` scores.

    Raises:
        ConfigError: if the catalogue has fewer than k items.
        ModelError: if a score of any item, excluded or not, is NaN or infinite, or the scores have the wrong shape.
    """
    n_items = len(item_keys)
    if not 1 <= k <= n_items:
        raise ConfigError(
            f"k = {k} does not lie between 1 and the {n_items} items of the catalogue; lower evaluation.k"
        )
    items = torch.empty((len(users), k), dtype=torch.int64)
    scores = torch.empty((len(users), k), dtype=torch.float64)
    done = 0
    for some, of_some in score_chunks(score, users, n_items, chunk):
        rows = slice(done, done + len(some))
        scores[rows], items[rows] = _ranked(_candidates(of_some, some, exclude), k, user_keys[some], item_keys, ties)
        done += len(some)
    return TopK(users, items, scores)


def score_chunks(
    score: Scorer, users: Tensor, n_items: int, chunk: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some users at a time, and their finite scores of every item.

    Args:
        score: scores of every item, in a floating-point type.
        users: [n] int64 user codes.
        n_items: size of the catalogue.
        chunk: users scored at a time; by default as many as make `SCORES_PER_CHUNK` scores.

    Raises:
        ModelError: if a score is NaN or infinite, or the scores have the wrong shape.
    """
    step = chunk or max(1, SCORES_PER_CHUNK // n_items)
    for start in range(0, len(users), step):
        some = users[start : start + step]
        with torch.no_grad():
            scores = _checked(score(some), len(some), n_items)
        yield some, scores.detach()


def _checked(scores: Tensor, n_users: int, n_items: int) -> Tensor:
    if scores.shape != (n_users, n_items) or not scores.is_floating_point():
        raise ModelError(
            f"score() returned {scores.dtype} of shape {list(scores.shape)} for {n_users} users; "
            f"return floating-point scores of shape [{n_users}, {n_items}]"
        )
    low, high = scores.aminmax()  # NaN and inf both reach the extremes: one pass, a tenth of the time of isfinite
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = int((~torch.isfinite(scores)).sum())
        raise ModelError(
            f"score() returned {bad} NaN or infinite values for {n_users} users; "
            "the model diverged and must not be ranked: lower its learning rate"
        )
    return scores


def _candidates(scores: Tensor, users: Tensor, exclude: Sequence[Csr]) -> Tensor:
    """A copy with -inf at excluded items, and -inf columns up to a multiple of `BLOCK`, at least one of them."""
    masked = F.pad(scores, (0, BLOCK - scores.shape[1] % BLOCK), value=-torch.inf)
    for csr in exclude:
        row, item = rows_of(csr, users)
        masked[row.to(masked.device), item.to(masked.device)] = -torch.inf
    return masked


def _ranked(scores: Tensor, k: int, user_keys: Tensor, item_keys: Tensor, ties: Streams) -> tuple[Tensor, Tensor]:
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
