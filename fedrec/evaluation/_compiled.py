"""The inner loops of ranking in machine code: numba, without the interpreter's lock, kept on disk.

`topk` has a plain version in torch beside them that tests hold them equal to. Importing this module imports numba, so
it is imported where something is first ranked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

F = TypeVar("F", bound=Callable[..., Any])
Array = npt.NDArray[Any]

BLOCK = 16  # scores whose maximum stands for them; taken in steps of four
_TILE = 4096  # scores that are compared with every held-out item in turn while they lie in the first-level cache


def _compiled(function: F) -> F:
    # A maximum runs in vector lanes only if it need not keep NaN or the sign of zero. NaN is looked for in the bits.
    return njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})(function)  # type: ignore[no-any-return]


@_compiled
def _word(start: np.int64, step: np.int64) -> np.int64:
    """`streams.mix` of a sum: SplitMix64's finaliser, on words that wrap around."""
    x = np.uint64(start) + np.uint64(step)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64(x ^ (x >> np.uint64(31)))


@_compiled
def _sift_down(value: Array, word: Array, item: Array, size: int) -> None:
    """Let the root of a heap sink to its place; the worst entry, of lowest score and largest word, is the root."""
    v, w, i = value[0], word[0], item[0]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            value[other] < value[child] or (value[other] == value[child] and word[other] > word[child])
        ):
            child = other
        if not (value[child] < v or (value[child] == v and word[child] > w)):
            break
        value[at], word[at], item[at] = value[child], word[child], item[child]
        at = child
    value[at], word[at], item[at] = v, w, i


@_compiled
def _sift_up(value: Array, word: Array, item: Array, at: int) -> None:
    """Let an entry of a heap rise to its place."""
    v, w, i = value[at], word[at], item[at]
    while at > 0:
        parent = (at - 1) // 2
        if not (v < value[parent] or (v == value[parent] and w > word[parent])):
            break
        value[at], word[at], item[at] = value[parent], word[parent], item[parent]
        at = parent
    value[at], word[at], item[at] = v, w, i


@_compiled
def _wins(row: Array, relevant: Array, marks: Array, mark: int, out: Array) -> np.int64:
    """Twice the pairs of a relevant item and another candidate that are in order, plus the pairs that are level."""
    total = np.int64(0)
    for first in range(0, len(row), _TILE):
        for item in relevant:
            score = row[item]
            level_or_below, below = np.int32(0), np.int32(0)
            for x in row[first : first + _TILE]:
                level_or_below = np.int32(level_or_below + np.int32(x <= score))
                below = np.int32(below + np.int32(x < score))
            total += np.int64(level_or_below) + np.int64(below)
    # What is no other candidate was counted too: the excluded items, and the relevant ones.
    for item in relevant:
        score = row[item]
        for other in out:
            if marks[other] == mark:
                total -= np.int64(row[other] <= score) + np.int64(row[other] < score)
        for other in relevant:
            if marks[other] != mark:
                total -= np.int64(row[other] <= score) + np.int64(row[other] < score)
    return total


@_compiled
def _maxima(row: Array, pattern: Array, magnitude: Any, largest: Array, most: Array) -> None:
    """The largest score and the largest magnitude of each block: `BLOCK` scores that lie len(largest) apart.

    Blocks side by side are compared in vector lanes, four scores at a time.
    """
    blocks = len(largest)
    largest[:] = row[:blocks]
    most[:] = pattern[:blocks] & magnitude
    for first in range(0, BLOCK * blocks, 4 * blocks):
        second, third, fourth, end = first + blocks, first + 2 * blocks, first + 3 * blocks, first + 4 * blocks
        a, b, c, d = row[first:second], row[second:third], row[third:fourth], row[fourth:end]
        p, q, r, s = pattern[first:second], pattern[second:third], pattern[third:fourth], pattern[fourth:end]
        for j in range(blocks):
            largest[j] = max(largest[j], max(max(a[j], b[j]), max(c[j], d[j])))
            most[j] = max(
                most[j],
                max(
                    max(p[j] & magnitude, q[j] & magnitude),
                    max(r[j] & magnitude, s[j] & magnitude),
                ),
            )


@_compiled
def rank_rows(
    scores: Array,
    bits: Array,
    magnitude: Any,
    infinite: Any,
    starts: Array,
    steps: Array,
    out_indptr: Array,
    out_items: Array,
    relevant_indptr: Array,
    relevant_items: Array,
    marks: Array,
    values: Array,
    items: Array,
    wins: Array,
    others: Array,
) -> bool:
    """The best candidates of some rows, by (score descending, word ascending), in about one pass over the scores.

    Blocks of scores below the worst of the best so far are skipped. Excluded items are looked up only if they reach it.

    Args:
        scores: [n, n_items] floating point.
        bits: the same memory as integers of that width.
        magnitude: mask of all bits but the sign.
        infinite: the magnitude from which on a number is infinite or NaN.
        starts: [n] int64 start of each row's stream of words.
        steps: [n_items] int64 what an item adds to it.
        out_indptr, out_items: [n + 1] and [.] int64, the excluded items of each row, distinct.
        relevant_indptr, relevant_items: likewise the relevant ones, or none for every row.
        marks: [n_items] int64, all -1; overwritten.
        values, items: [n, k] float64 and int64, filled with the lists; -inf and -1 where candidates ran out.
        wins: [n] int64, filled with `_wins`.
        others: [n] int64, filled with the number of candidates that are not relevant.

    Returns:
        Whether every score is finite; what was filled in is worth nothing otherwise.
    """
    n, n_items = scores.shape
    k = values.shape[1]
    value, word, item = np.empty(k, scores.dtype), np.empty(k, np.int64), np.empty(k, np.int64)
    blocks = n_items // BLOCK
    largest, most = np.empty(blocks, scores.dtype), np.empty(blocks, bits.dtype)
    for r in range(n):
        row, pattern = scores[r], bits[r]
        out = out_items[out_indptr[r] : out_indptr[r + 1]]
        for excluded in out:
            marks[excluded] = r
        if blocks:
            _maxima(row, pattern, magnitude, largest, most)
        for bound in most:
            if bound >= infinite:
                return False
        size = 0
        for block in range(blocks + 1):
            if block < blocks:
                if size == k and largest[block] < value[0]:
                    continue
                first, end, step = block, BLOCK * blocks, blocks
            else:  # what is left over of the row
                first, end, step = BLOCK * blocks, n_items, 1
            for j in range(first, end, step):
                score = row[j]
                if block == blocks and pattern[j] & magnitude >= infinite:
                    return False
                if (size == k and score < value[0]) or marks[j] == r:
                    continue
                hashed = _word(starts[r], steps[j])
                if size < k:
                    value[size], word[size], item[size] = score, hashed, j
                    _sift_up(value, word, item, size)
                    size += 1
                elif score > value[0] or hashed < word[0]:
                    value[0], word[0], item[0] = score, hashed, j
                    _sift_down(value, word, item, size)
        for rank in range(k - 1, size - 1, -1):
            values[r, rank], items[r, rank] = -np.inf, -1
        for rank in range(size - 1, -1, -1):
            values[r, rank], items[r, rank] = value[0], item[0]
            value[0], word[0], item[0] = value[rank], word[rank], item[rank]
            _sift_down(value, word, item, rank)
        relevant = relevant_items[relevant_indptr[r] : relevant_indptr[r + 1]]
        if len(relevant):
            wins[r] = _wins(row, relevant, marks, r, out)
            others[r] = n_items - len(out) - len(relevant)
    return True
