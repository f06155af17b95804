"""Sampled candidates: held-out items ranked among 99 others, for comparison with papers that do so.

Metrics over sampled candidates are no estimate of those over the whole catalogue, and may order two models otherwise
(Krichene and Rendle 2020). Whatever is measured so has "sampled-99" in its name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedrec.evaluation.csr import Csr, rows_of, tie_hash
from fedrec.streams import Streams

N_SAMPLED = 99
"""Candidates beside the held-out items (He et al. 2017, NeuMF)."""

_WORDS_PER_CHUNK = 1 << 20  # 8 MB of int64
_NONE = torch.iinfo(torch.int64).max  # the word of an item that cannot be drawn: it sorts behind every other


def draw_candidates(
    draw: Streams, purpose: str, users: Tensor, exclude: Sequence[Csr], user_keys: Tensor, item_keys: Tensor
) -> Tensor:
    """`N_SAMPLED` items for each user, drawn without replacement from those outside the excluded ones.

    They are the items with the smallest words of the user's stream, each item having the word at the place of its own
    key: a device that knows its user, the seed and the catalogue draws the same ones, and codes decide nothing.

    Args:
        draw: the streams of the run.
        purpose: the stream's name; validation and test have one each.
        users: [n] int64 user codes.
        exclude: items that are not drawn, by user code.
        user_keys: [n_users] int64 stream keys by user code.
        item_keys: [n_items] int64 stream keys by item code.

    Returns:
        [n, N_SAMPLED] int64 item codes; -1 where there are not as many to draw from.
    """
    n_items = len(item_keys)
    drawn = torch.full((len(users), N_SAMPLED), -1, dtype=torch.int64)
    count = min(N_SAMPLED, n_items)
    step = max(1, _WORDS_PER_CHUNK // n_items)
    for start in range(0, len(users), step):
        some = users[start : start + step]
        words = draw.words(purpose, user_keys[some].unsqueeze(1), item_keys)
        for csr in exclude:
            words[rows_of(csr, some)] = _NONE
        smallest = words.topk(count, dim=1, largest=False)
        drawn[start : start + step, :count] = smallest.indices.where(smallest.values < _NONE, -1)
    return drawn


def with_relevant(drawn: Tensor, users: Tensor, relevant: Csr) -> Tensor:
    """The drawn candidates and every relevant item of their users: [n, N_SAMPLED + most relevant], -1 where none."""
    row, item = rows_of(relevant, users)
    count = torch.bincount(row, minlength=len(users))
    place = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
    held_out = drawn.new_full((len(users), int(count.max()) if len(count) else 0), -1)
    held_out[row, place] = item
    return torch.cat([drawn, held_out], dim=1)


def top_k_among(
    scores: Tensor, candidates: Tensor, k: int, user_keys: Tensor, item_keys: Tensor, ties: Streams
) -> tuple[Tensor, Tensor]:
    """The k best of a few candidates a user, by (score descending, hash ascending) as `topk.top_k` has it.

    Args:
        scores: [n, n_items] finite scores of every item.
        candidates: [n, c] int64 item codes, distinct within a user; -1 where there is none.
        k: length of a list.
        user_keys: [n] int64 stream keys of these users.
        item_keys: [n_items] int64 stream keys by item code.
        ties: the streams of the run.

    Returns:
        Scores and items of the lists, both [n, k]; -inf and -1 where candidates ran out.
    """
    known = candidates.clamp(min=0)
    values = scores.cpu().gather(1, known).double().masked_fill(candidates < 0, -torch.inf)
    by_hash = tie_hash(ties, user_keys.unsqueeze(1), item_keys[known]).argsort(dim=1)
    by_score = values.gather(1, by_hash).argsort(dim=1, descending=True, stable=True)
    order = by_hash.gather(1, by_score)[:, :k]
    short = max(0, k - candidates.shape[1])
    pad = torch.nn.functional.pad
    return (
        pad(values.gather(1, order), (0, short), value=-torch.inf),
        pad(candidates.gather(1, order), (0, short), value=-1),
    )
