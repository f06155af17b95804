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
STRETCH = 64  # scores that are compared with one bar at a time
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
def _sift_down(value: Array, word: Array, item: Array, r: int, size: int) -> None:
    """Let the root of row r's heap sink; the worst entry, of lowest score and largest word, is the root."""
    v, w, i = value[r, 0], word[r, 0], item[r, 0]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            value[r, other] < value[r, child]
            or (value[r, other] == value[r, child] and word[r, other] > word[r, child])
        ):
            child = other
        if not (value[r, child] < v or (value[r, child] == v and word[r, child] > w)):
            break
        value[r, at], word[r, at], item[r, at] = value[r, child], word[r, child], item[r, child]
        at = child
    value[r, at], word[r, at], item[r, at] = v, w, i


@_compiled
def _sift_up(value: Array, word: Array, item: Array, r: int, at: int) -> None:
    """Let an entry of row r's heap rise to its place."""
    v, w, i = value[r, at], word[r, at], item[r, at]
    while at > 0:
        parent = (at - 1) // 2
        if not (v < value[r, parent] or (v == value[r, parent] and w > word[r, parent])):
            break
        value[r, at], word[r, at], item[r, at] = value[r, parent], word[r, parent], item[r, parent]
        at = parent
    value[r, at], word[r, at], item[r, at] = v, w, i


@_compiled
def _nth_largest(values: Array, n: int) -> Any:
    """The n-th largest of some values, n from 1 on; puts them in another order (Hoare's selection)."""
    first, last, place = 0, len(values) - 1, n - 1
    while first < last:
        pivot = values[(first + last) // 2]
        i, j = first, last
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if place <= j:
            last = j
        elif place >= i:
            first = i
        else:
            break
    return values[place]


@_compiled
def _enter(
    value: Array, word: Array, item: Array, r: int, held: int, score: Any, start: np.int64, step: np.int64, code: int
) -> int:
    """Let a score that reaches the worst of row r's heap enter it; returns how many the heap holds then."""
    hashed = _word(start, step)
    if held < value.shape[1]:
        value[r, held], word[r, held], item[r, held] = score, hashed, code
        _sift_up(value, word, item, r, held)
        return held + 1
    if score > value[r, 0] or hashed < word[r, 0]:
        value[r, 0], word[r, 0], item[r, 0] = score, hashed, code
        _sift_down(value, word, item, r, held)
    return held


@_compiled
def rank_tile(
    scores: Array,
    bits: Array,
    magnitude: Any,
    infinite: Any,
    surely_finite: bool,
    first_item: int,
    starts: Array,
    steps: Array,
    excluded: Array,
    cursor: Array,
    ends: Array,
    value: Array,
    word: Array,
    item: Array,
    size: Array,
) -> bool:
    """Let some users' scores of some items enter the heaps of their best, in about one pass over the scores.

    Stretches of scores below the worst of the best so far, the bar, are skipped. As long as there are fewer than k, the
    bar is taken from the maxima of blocks. Whether an item is excluded is looked up only if its score reaches the bar.

    Args:
        scores: [n, width] floating point, of the items from `first_item` on.
        bits: the same memory as integers of that width.
        magnitude: mask of all bits but the sign.
        infinite: the magnitude from which on a number is infinite or NaN.
        surely_finite: whether it is known that there is none.
        first_item: code of the item of the first column.
        starts: [n] int64 start of each user's stream of words.
        steps: [n_items] int64 what an item adds to it.
        excluded: [.] int64 excluded items, ascending within a user.
        cursor, ends: [n] int64, where each user's excluded items from `first_item` on begin in `excluded`, and where
            they end; the cursor is moved on.
        value, word, item: [n, k], each row a heap of the best candidates so far.
        size: [n] int64 number of candidates in each heap.

    Returns:
        Whether every score is finite; what was entered is worth nothing otherwise.
    """
    n, width = scores.shape
    k = value.shape[1]
    blocks = width // BLOCK
    largest, most = np.empty(blocks, scores.dtype), np.empty(blocks, bits.dtype)
    selected = np.empty(blocks, scores.dtype)
    marks = np.full(width, -1, np.int64)
    for r in range(n):
        held = size[r]
        at = cursor[r]
        while at < ends[r] and excluded[at] < first_item + width:
            marks[excluded[at] - first_item] = r
            at += 1
        sure = k + at - cursor[r]
        cursor[r] = at
        bar = value[r, 0] if held == k else -scores.dtype.type(np.inf)  # what is below it is not among the best
        left_over = 0  # the column from which on every score is looked at
        if held == k:
            # Few reach the bar: a stretch is first asked whether any does, which vector lanes answer. They count in the
            # width of a score, and with unsigned indices, which numba need not look at for being negative.
            left_over = width - width % STRETCH
            for begin in range(0, left_over, STRETCH):
                first = np.uint64(begin)
                if not surely_finite:
                    odd = np.int32(0)
                    for within in range(STRETCH):
                        odd = np.int32(odd + np.int32(bits[r, first + np.uint64(within)] & magnitude >= infinite))
                    if odd > 0:
                        return False
                reached = np.int32(0)
                for within in range(STRETCH):
                    reached = np.int32(reached + np.int32(scores[r, first + np.uint64(within)] >= bar))
                if reached > 0:
                    for within in range(STRETCH):
                        column = first + np.uint64(within)
                        if scores[r, column] < bar or marks[column] == r:
                            continue
                        code = first_item + begin + within
                        held = _enter(value, word, item, r, held, scores[r, column], starts[r], steps[code], code)
                        bar = value[r, 0]
        elif blocks:
            # A block is `BLOCK` scores that lie `blocks` apart: blocks side by side are compared in vector lanes.
            # Arrays are indexed here, not handed to a function or sliced: either would keep the loop out of the lanes.
            for j in range(blocks):
                largest[j] = scores[r, j]
                most[j] = bits[r, j] & magnitude
            for quarter in range(BLOCK // 4):
                a = 4 * quarter * blocks
                b = a + blocks
                c = b + blocks
                d = c + blocks
                for j in range(blocks):
                    largest[j] = max(
                        largest[j],
                        max(max(scores[r, a + j], scores[r, b + j]), max(scores[r, c + j], scores[r, d + j])),
                    )
                    most[j] = max(
                        most[j],
                        max(
                            max(bits[r, a + j] & magnitude, bits[r, b + j] & magnitude),
                            max(bits[r, c + j] & magnitude, bits[r, d + j] & magnitude),
                        ),
                    )
            highest, extreme = largest[0], most[0]
            for block in range(blocks):
                highest, extreme = max(highest, largest[block]), max(extreme, most[block])
            if extreme >= infinite:
                return False
            left_over = BLOCK * blocks
            if held == 0 and sure < blocks:
                # Of so many largest scores at most those of excluded items fall away: k candidates reach the last one.
                selected[:] = largest
                bar = _nth_largest(selected, sure)
            if highest >= bar:
                for block in range(blocks):
                    if largest[block] < bar:
                        continue
                    for j in range(block, left_over, blocks):
                        if scores[r, j] < bar or marks[j] == r:
                            continue
                        held = _enter(
                            value, word, item, r, held, scores[r, j], starts[r], steps[first_item + j], first_item + j
                        )
                        if held == k:
                            bar = value[r, 0]
        for j in range(left_over, width):
            if bits[r, j] & magnitude >= infinite:
                return False
            if scores[r, j] < bar or marks[j] == r:
                continue
            held = _enter(value, word, item, r, held, scores[r, j], starts[r], steps[first_item + j], first_item + j)
            if held == k:
                bar = value[r, 0]
        size[r] = held
    return True


@_compiled
def sort_heaps(value: Array, word: Array, item: Array, size: Array, values: Array, items: Array) -> None:
    """Take the heaps of `rank_tile` apart into lists, best first; -inf and -1 where candidates ran out.

    Args:
        value, word, item, size: the heaps; used up.
        values, items: [n, k] float64 and int64, filled.
    """
    n, k = values.shape
    for r in range(n):
        for rank in range(k - 1, size[r] - 1, -1):
            values[r, rank], items[r, rank] = -np.inf, -1
        for rank in range(size[r] - 1, -1, -1):
            values[r, rank], items[r, rank] = value[r, 0], item[r, 0]
            value[r, 0], word[r, 0], item[r, 0] = value[r, rank], word[r, rank], item[r, rank]
            _sift_down(value, word, item, r, rank)


@_compiled
def count_wins(
    scores: Array,
    excluded: Array,
    begins: Array,
    ends: Array,
    relevant: Array,
    relevant_begins: Array,
    relevant_ends: Array,
    wins: Array,
    others: Array,
) -> None:
    """How relevant items stand against all other candidates of their users, as the area under the curve counts it.

    Args:
        scores: [n, n_items] finite scores.
        excluded, begins, ends: the excluded items, and where each user's begin and end.
        relevant, relevant_begins, relevant_ends: likewise the relevant ones, none of them excluded.
        wins: [n] int64, filled with twice the pairs that are in order plus the pairs that are level.
        others: [n] int64, filled with the number of other candidates.
    """
    n, n_items = scores.shape
    for r in range(n):
        row = scores[r]
        out, wanted = excluded[begins[r] : ends[r]], relevant[relevant_begins[r] : relevant_ends[r]]
        total = np.int64(0)
        for first in range(0, n_items, _TILE):
            for one in wanted:
                score = row[one]
                level_or_below, below = np.int32(0), np.int32(0)
                for x in row[first : first + _TILE]:
                    level_or_below = np.int32(level_or_below + np.int32(x <= score))
                    below = np.int32(below + np.int32(x < score))
                total += np.int64(level_or_below) + np.int64(below)
        for one in wanted:  # what is no other candidate was counted too
            score = row[one]
            for other in out:
                total -= np.int64(row[other] <= score) + np.int64(row[other] < score)
            for other in wanted:
                total -= np.int64(row[other] <= score) + np.int64(row[other] < score)
        wins[r], others[r] = total, n_items - len(out) - len(wanted)
