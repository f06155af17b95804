"""The compiled loops of `Rows`: checking, norms and adding up. A chunk passes through each once, while in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.federated._compiled import compiled, compiled_reordered

Floats = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]


@compiled
def in_order(owner: Integers, index: Integers, sizes: tuple[int, int]) -> bool:
    """Whether (owner, index) pairs are unique and sorted, and within (n_users, n_rows)."""
    (n_users, n_rows), last_owner, last_index = sizes, 0, -1
    for k in range(len(owner)):
        if index[k] < 0 or index[k] >= n_rows or owner[k] < last_owner or owner[k] >= n_users:
            return False
        if owner[k] == last_owner and index[k] <= last_index:
            return False
        last_owner, last_index = owner[k], index[k]
    return True


@compiled_reordered
def squared_norms(owner: Integers, value: Floats, total: npt.NDArray[np.float64]) -> None:
    """Add each row's squared Euclidean norm, in double precision, to its owner's total."""
    for k in range(len(owner)):
        squares = 0.0
        for c in range(value.shape[1]):
            entry = np.float64(value[k, c])
            squares += entry * entry
        total[owner[k]] += squares


@compiled
def add_rows(total: Floats, owner: Integers, index: Integers, value: Floats, scale: Floats) -> bool:
    """Add each row, in the table's precision and times its owner's scale, to the table, one after the other.

    Args:
        total: [rows, width] in and out.
        owner, index, value: as in `Rows`.
        scale: [n_users], or empty for 1.

    Returns:
        Whether all rows are in the table; if not, nothing was added.
    """
    for k in range(len(index)):
        if index[k] < 0 or index[k] >= len(total) or (len(scale) > 0 and not 0 <= owner[k] < len(scale)):
            return False
    number = total.dtype.type
    width = total.shape[1]
    if len(scale) == 0:
        for k in range(len(index)):
            row = index[k]
            for c in range(width):
                total[row, c] += number(value[k, c])
        return True
    for k in range(len(index)):
        row, factor = index[k], scale[owner[k]]
        for c in range(width):
            total[row, c] += number(value[k, c]) * factor
    return True
