"""Exact top-k lists over the full catalogue, with ties ordered by a hash of user and item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.errors import ConfigError, ModelError
from fedrec.evaluation import plain
from fedrec.evaluation.accuracy import auc
from fedrec.evaluation.csr import Csr, rows_of, union_of
from fedrec.evaluation.heaps import Heaps, require_finite_scores
from fedrec.streams import GAMMA, Streams

Scorer = Callable[[Tensor], Tensor]
"""[n] int64 user codes -> [n, n_items] scores; larger is better."""


@dataclass(frozen=True, eq=False)
class Factors:
    """A scorer that is a product of two tables: the score of user u and item i is Σ_d users[u, d] items[i, d].

    It can be called like any other. `top_k` takes the product tile by tile and never holds whole rows of scores, which
    is faster than the product alone when that is written to memory.

    Attributes:
        users: [n_users, d] floating point.
        items: [n_items, d] of the same type.
    """

    users: Tensor
    items: Tensor

    def __call__(self, users: Tensor) -> Tensor:
        """Scores of every item, [n, n_items]."""
        return self.users[users.to(self.users.device)] @ self.items.T


SCORES_PER_CHUNK = 1 << 21  # 8 MB of float32: large enough for the scorer's matrix product, small enough for a cache

_SCORES_PER_THREAD = 1 << 16  # fewer are ranked before another thread has begun
_TILE_USERS, _TILE_ITEMS = 512, 1024  # 2 MB of float32, which are read again before they have left the cache


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


@dataclass(frozen=True, eq=False)
class Ranking:
    """The lists of some users, and where the relevant items stand among all candidates.

    Attributes:
        lists: best item first.
        auc: [n] float64, `accuracy.auc` of each user over every candidate; None if nothing was said to be relevant.
    """

    lists: TopK
    auc: Tensor | None = None


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
    return rank(
        score,
        users,
        k,
        exclude=exclude,
        user_keys=user_keys,
        item_keys=item_keys,
        ties=ties,
        chunk=chunk,
    ).lists


def rank(
    score: Scorer,
    users: Tensor,
    k: int,
    *,
    exclude: Sequence[Csr],
    user_keys: Tensor,
    item_keys: Tensor,
    ties: Streams,
    relevant: Csr | None = None,
    watch: Callable[[Tensor, Tensor], None] | None = None,
    chunk: int | None = None,
) -> Ranking:
    """`top_k`, and what else can be seen in the same scores while they are at hand.

    Scores on the CPU are ranked by compiled loops, on as many threads as torch has; others by plain torch where they
    lie. Both find the same lists.

    Args:
        score, users, k, exclude, user_keys, item_keys, ties, chunk: as `top_k` has them.
        relevant: items whose place among all candidates is wanted, by user code, none of them excluded.
        watch: is shown every chunk once it is ranked: (users, finite scores of every item).
    """
    n_items = len(item_keys)
    if not 1 <= k <= n_items:
        raise ConfigError(
            f"k = {k} does not lie between 1 and the {n_items} items of the catalogue; lower evaluation.k"
        )
    values, items = torch.empty((len(users), k), dtype=torch.float64), torch.empty((len(users), k), dtype=torch.int64)
    areas = None if relevant is None else torch.empty(len(users), dtype=torch.float64)
    steps = (item_keys + 1) * GAMMA
    if isinstance(score, Factors) and relevant is None and watch is None and _can_tile(score, n_items):
        _rank_factors(score, users, exclude, ties.starts("ties", user_keys[users]), steps, (values, items, None))
        return Ranking(TopK(users, items, values))
    done = 0
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for some, scores in score_chunks(score, users, n_items, chunk):
            rows = slice(done, done + len(some))
            done += len(some)
            into = values[rows], items[rows], None if areas is None else areas[rows]
            if scores.device.type == "cpu":
                keys = ties.starts("ties", user_keys[some])
                _rank_compiled(scores, some, exclude, relevant, keys, steps, into, pool)
            else:
                _rank_plain(scores, some, exclude, relevant, user_keys[some], item_keys, ties, into)
            if watch is not None:
                watch(some, scores)
    return Ranking(TopK(users, items, values), areas)


def score_chunks(
    score: Scorer, users: Tensor, n_items: int, chunk: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some users at a time, and their scores of every item.

    Args:
        score: scores of every item, in a floating-point type.
        users: [n] int64 user codes.
        n_items: size of the catalogue.
        chunk: users scored at a time; by default as many as make `SCORES_PER_CHUNK` scores.

    Raises:
        ModelError: if the scores have the wrong shape or type.
    """
    step = chunk or max(1, SCORES_PER_CHUNK // n_items)
    for start in range(0, len(users), step):
        some = users[start : start + step]
        with torch.no_grad():
            scores = score(some)
        if scores.shape != (len(some), n_items) or not scores.is_floating_point():
            raise ModelError(
                f"score() returned {scores.dtype} of shape {list(scores.shape)} for {len(some)} users; "
                f"return floating-point scores of shape [{len(some)}, {n_items}]"
            )
        yield some, scores.detach()


_Into = tuple[Tensor, Tensor, Tensor | None]
"""Where the scores, items and areas of a chunk are written to."""


def _rank_compiled(
    scores: Tensor,
    users: Tensor,
    exclude: Sequence[Csr],
    relevant: Csr | None,
    starts: Tensor,
    steps: Tensor,
    into: _Into,
    pool: ThreadPoolExecutor,
) -> None:
    # Half precision is widened, which neither makes nor breaks a tie.
    scores = (scores if scores.dtype in (torch.float32, torch.float64) else scores.float()).contiguous()
    n, n_items = scores.shape
    out, wanted = union_of(exclude, users, n_items), None if relevant is None else union_of([relevant], users, n_items)
    values, items, areas = into

    def part(first: int, last: int) -> None:
        rows = slice(first, last)
        heaps = Heaps.of(starts[rows], steps, (out[0][first : last + 1], out[1]), values.shape[1], scores.dtype)
        heaps.enter(scores[rows], 0)
        heaps.sort_into(values[rows], items[rows])
        if areas is not None and wanted is not None:
            areas[rows] = heaps.areas(scores[rows], (wanted[0][first : last + 1], wanted[1]))

    threads = max(1, min(torch.get_num_threads(), scores.numel() // _SCORES_PER_THREAD, n))
    bounds = [n * place // threads for place in range(threads + 1)]
    if threads == 1:
        part(0, n)
    else:
        list(pool.map(part, bounds[:-1], bounds[1:]))


def _rank_plain(
    scores: Tensor,
    users: Tensor,
    exclude: Sequence[Csr],
    relevant: Csr | None,
    user_keys: Tensor,
    item_keys: Tensor,
    ties: Streams,
    into: _Into,
) -> None:
    require_finite_scores(scores)
    values, items, areas = into
    candidates = plain.candidate_scores(scores, users, exclude)
    best = plain.ranked(candidates, values.shape[1], user_keys, item_keys, ties)
    values.copy_(best[0])
    items.copy_(best[1])
    if areas is not None and relevant is not None:
        row, item = rows_of(relevant, users)
        wanted = torch.zeros_like(candidates, dtype=torch.bool)
        wanted[row.to(wanted.device), item.to(wanted.device)] = True
        areas.copy_(auc(candidates, wanted))


def _can_tile(factors: Factors, n_items: int) -> bool:
    """Whether the tables are such as the compiled loops take; others are multiplied as any scorer would."""
    users, items = factors.users, factors.items
    return (
        users.device.type == items.device.type == "cpu"
        and users.dtype == items.dtype
        and users.dtype in (torch.float32, torch.float64)
        and len(items) == n_items
    )


def _products(vectors: Tensor, others: Tensor) -> Tensor:
    """Inner products of rows, [n, width].

    By oneDNN, where torch has it: for tables this narrow its kernels take half the time of MKL on an AMD processor.
    This is the operator that `torch.compile` calls for a linear layer; it does not multiply float64.
    """
    linear: Callable[..., Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear is None or vectors.dtype != torch.float32 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return vectors @ others.T
    return linear(vectors, others, None, "none", [], "")


def _surely_finite(factors: Factors) -> bool:
    """Whether no product can overflow: none, nor any part of its sum, exceeds the product of the rows' lengths."""
    users, items = (float(table.detach().norm(dim=1).amax()) for table in (factors.users, factors.items))
    return 2 * users * items < torch.finfo(factors.items.dtype).max  # false if one is infinite or NaN


def _rank_factors(
    factors: Factors, users: Tensor, exclude: Sequence[Csr], starts: Tensor, steps: Tensor, into: _Into
) -> None:
    table = factors.items.detach()
    values, items, _ = into
    k, n_items, surely_finite = values.shape[1], len(table), _surely_finite(factors)

    def part(first: int) -> None:
        rows = slice(first, first + _TILE_USERS)
        vectors = factors.users.detach()[users[rows]]
        out = union_of(exclude, users[rows], n_items)
        heaps = Heaps.of(starts[rows], steps, out, k, table.dtype)
        for begin in range(0, n_items, _TILE_ITEMS):
            heaps.enter(_products(vectors, table[begin : begin + _TILE_ITEMS]), begin, surely_finite)
        heaps.sort_into(values[rows], items[rows])

    begins = range(0, len(users), _TILE_USERS)
    threads_before = torch.get_num_threads()
    threads = min(threads_before, len(begins))
    if threads <= 1:
        for begin in begins:
            part(begin)
        return
    try:  # one product a thread: what torch is told in a thread of the pool reaches the threads that come after it
        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
            list(pool.map(part, begins))
    finally:
        torch.set_num_threads(threads_before)
