"""The compiled loops of `LocalTraining`, for clients of one user each.

They do what its plain version does, user by user: arithmetic never crosses users, so a user's answer is the same bytes
in any cohort.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.federated._compiled import compiled, inlined_reordered, lowest_bit

Floats = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

# SplitMix64, as in `fedrec.streams`. Unsigned throughout: numba makes a float of a signed and an unsigned word.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_NOTHING, _ONE = np.uint64(0), np.uint64(1)


@compiled
def _uniform(start: np.uint64, counter: int) -> float:
    """`Streams.uniform` of one counter, from the start of the user's stream."""
    x = start + (np.uint64(counter) + _ONE) * _GAMMA
    x = (x ^ (x >> _30)) * _MIX_1
    x = (x ^ (x >> _27)) * _MIX_2
    x = x ^ (x >> _31)
    return np.float64(x >> _11) * 2.0**-53


@compiled
def _outside(items: Integers, low: int, high: int, rank: np.int64) -> Any:
    """`Complement.at`: the item of a rank among those that items[low:high] lacks."""
    first, size = low, high - low
    while size > 0:  # how many own items a_j have a_j − j ≤ rank
        half = size >> 1
        middle = first + half
        if items[middle] - (middle - low) <= rank:
            first = middle + 1
            size -= half + 1
        else:
            size = half
    return rank + (first - low)


@compiled
def draw_rows(
    starts: Words,
    indptr: Integers,
    items: Integers,
    n_items: int,
    steps: Integers,
    count: int,
    row_ptr: Integers,
    owner: Integers,
    index: Integers,
    own: Integers,
    sampled: Integers,
) -> int:
    """Draw every user's negatives and merge them with its own items.

    A set of items is kept as bits, and which of its words hold any as bits again, so that listing it in order takes
    time in proportion to its size and not to the catalogue's.

    Args:
        starts: [n] start of each user's stream of negatives.
        indptr, items: the users' items; no user has all.
        n_items: size of the catalogue.
        steps: [n] local steps of each user.
        count: negatives an own item and step.
        row_ptr: [n + 1] out, where each user's local rows begin.
        owner, index: [>= rows] out, user and item of each local row.
        own: [R] out, place of each item among its user's local rows.
        sampled: [Σ steps · degree · count] out, place of each negative among its user's local rows.

    Returns:
        The number of local rows.
    """
    words = np.zeros((n_items + 63) >> 6, dtype=np.uint64)
    filled = np.zeros((len(words) + 63) >> 6, dtype=np.uint64)
    place_of = np.empty(n_items, dtype=np.int64)
    row, slot = 0, 0
    row_ptr[0] = 0
    for user in range(len(starts)):
        low, high = indptr[user], indptr[user + 1]
        others = np.float64(n_items - (high - low))
        draws = steps[user] * (high - low) * count
        for k in range(low, high):
            item = items[k]
            words[item >> 6] |= _ONE << np.uint64(item & 63)
            filled[item >> 12] |= _ONE << np.uint64((item >> 6) & 63)
        for counter in range(draws):
            item = _outside(items, low, high, np.int64(_uniform(starts[user], counter) * others))
            sampled[slot + counter] = item
            words[item >> 6] |= _ONE << np.uint64(item & 63)
            filled[item >> 12] |= _ONE << np.uint64((item >> 6) & 63)
        for block in range(len(filled)):
            there = filled[block]
            filled[block] = _NOTHING
            while there != _NOTHING:
                word = (block << 6) + lowest_bit(there)
                there &= there - _ONE
                bits = words[word]
                words[word] = _NOTHING
                while bits != _NOTHING:
                    item = (word << 6) + lowest_bit(bits)
                    bits &= bits - _ONE
                    place_of[item] = row - row_ptr[user]
                    owner[row] = user
                    index[row] = item
                    row += 1
        for k in range(low, high):
            own[k] = place_of[items[k]]
        for k in range(slot, slot + draws):
            sampled[k] = place_of[sampled[k]]
        slot += draws
        row_ptr[user + 1] = row
    return row


@inlined_reordered
def _gather(items: Floats, index: Integers, change: Floats, first: bool, table: Floats) -> None:
    """The user's copy of the item table: before the first step its rows are the items', later they have changed."""
    for row in range(len(index)):
        item = index[row]
        if first:
            for c in range(items.shape[1]):
                table[row, c] = items[item, c]
        else:
            for c in range(items.shape[1]):
                table[row, c] = items[item, c] + change[row, c]


@inlined_reordered
def _sum(table: Floats, rows: Integers, total: Floats) -> None:
    """total = Σ_r table[r]"""
    total[:] = 0
    for row in rows:
        for c in range(len(total)):
            total[c] += table[row, c]


@inlined_reordered
def _multiply(table: Floats, vector: Floats, product: Floats) -> None:
    """product = table · vector"""
    for row in range(len(table)):
        total = vector.dtype.type(0)
        for c in range(len(vector)):
            total += table[row, c] * vector[c]
        product[row] = total


@inlined_reordered
def _combine(table: Floats, weights: Floats, total: Floats) -> None:
    """total = tableᵀ · weights"""
    total[:] = 0
    for row in range(len(table)):
        weight = weights[row]
        for c in range(len(total)):
            total[c] += weight * table[row, c]


@inlined_reordered
def _step(change: Floats, slopes: Floats, vector: Floats, rate: Any, first: bool) -> None:
    """change −= rate · slopes ⊗ vector, from zero at first."""
    for row in range(len(change)):
        factor = -rate * slopes[row]
        if first:
            for c in range(len(vector)):
                change[row, c] = factor * vector[c]
        else:
            for c in range(len(vector)):
                change[row, c] += factor * vector[c]


@inlined_reordered
def _move(change: Floats, rows: Integers, vector: Floats, rate: Any) -> None:
    """change[r] −= rate · vector, for each of some rows."""
    for row in rows:
        for c in range(len(vector)):
            change[row, c] -= rate * vector[c]


@inlined_reordered
def _sigmoid(x: Any) -> Any:
    one = type(x)(1)
    return one / (one + math.exp(-x))


@inlined_reordered
def _slope_bce(scores: Floats, own: Integers, sampled: Integers, slopes: Floats) -> None:
    """∂loss/∂score of every local row, as `LocalTraining._slope` has it. Overwrites scores."""
    one = scores.dtype.type(1)
    slopes[:] = 0
    for row in range(len(scores)):
        scores[row] = _sigmoid(scores[row])
    for mine in own:
        slopes[mine] += scores[mine] - one
    for other in sampled:
        slopes[other] += scores[other]


@inlined_reordered
def _slope_bpr(scores: Floats, own: Integers, sampled: Integers, slopes: Floats) -> None:
    """The same of BPR."""
    count = len(sampled) // len(own)
    share = scores.dtype.type(1) / scores.dtype.type(count)
    slopes[:] = 0
    for k in range(len(own)):
        mine = own[k]
        for other in sampled[k * count : (k + 1) * count]:
            slope = _sigmoid(scores[other] - scores[mine]) * share
            slopes[mine] -= slope
            slopes[other] += slope


@compiled
def train_rows(
    items: Floats,
    indptr: Integers,
    steps: Integers,
    row_ptr: Integers,
    index: Integers,
    own: Integers,
    sampled: Integers,
    count: int,
    pairwise: bool,
    share: Floats,
    weight: Floats,
    rates: Floats,
    vectors: Floats,
    change: Floats,
) -> None:
    """Every user's local steps. The names are those of `LocalTraining._train_plain`.

    Args:
        items: [n_items, d].
        indptr, steps, row_ptr, index, own, sampled, count: as in `draw_rows`.
        pairwise: BPR; otherwise BCE.
        share, weight: [n] d_u^-½, and d_u to minus the power of activity.
        rates: item_rate and user_rate.
        vectors: [n, d] in and out, p_u.
        change: [rows, d] out.
    """
    half, item_rate, user_rate = items.dtype.type(0.5), rates[0], rates[1]
    largest = 0
    for user in range(len(steps)):
        largest = max(largest, row_ptr[user + 1] - row_ptr[user])
    tables = np.empty((largest, items.shape[1]), items.dtype)
    all_scores, all_slopes = np.empty(largest, items.dtype), np.empty(largest, items.dtype)
    vector, pull = np.empty(items.shape[1], items.dtype), np.empty(items.shape[1], items.dtype)
    slot = 0
    for user in range(len(steps)):
        begin, end = row_ptr[user], row_ptr[user + 1]
        if begin == end:
            continue
        touched, mine, moved = index[begin:end], own[indptr[user] : indptr[user + 1]], change[begin:end]
        table, scores, slopes = tables[: end - begin], all_scores[: end - begin], all_slopes[: end - begin]
        draws = len(mine) * count
        for step in range(steps[user]):
            first = step == 0
            drawn = sampled[slot : slot + draws]
            slot += draws
            _gather(items, touched, moved, first, table)
            _sum(table, mine, vector)
            for c in range(len(vector)):
                vector[c] = half * (vectors[user, c] + share[user] * vector[c])
            _multiply(table, vector, scores)
            if pairwise:
                _slope_bpr(scores, mine, drawn, slopes)
            else:
                _slope_bce(scores, mine, drawn, slopes)
            for row in range(len(slopes)):
                slopes[row] *= weight[user]
            _combine(table, slopes, pull)
            _step(moved, slopes, vector, item_rate, first)
            _move(moved, mine, pull, item_rate * half * share[user])
            for c in range(len(pull)):
                vectors[user, c] -= user_rate * half * pull[c]
