"""Attribute tables as sparse features: one column of 0 and 1 for each value that occurs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from fedrec.errors import ConfigError, did_you_mean

Columns = tuple[str, ...] | Literal["auto"]

_BINS = 8  # of a column of numbers, each with as many rows as another
_REPEATS = (
    2  # "auto" takes columns whose values occur twice on average; names, titles and zip codes say nothing in common
)


@dataclass(frozen=True, eq=False)
class Features:
    """What is known of each user, or of each item.

    Attributes:
        matrix: [n, features] float64 of 0 and 1; a missing value has none.
        names: "column=value" of each feature.
    """

    matrix: sp.csr_matrix
    names: tuple[str, ...]

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.names)


def encode(table: pd.DataFrame, columns: Columns, n: int, place: str) -> Features:
    """Features of an attribute table.

    A column of numbers with more than 8 values is cut at its quantiles. In any other, values joined by "|" are a
    feature each. Features stand in the order of columns and, within one, of the values as text.

    Args:
        table: `Interactions.user_attributes` or `item_attributes`.
        columns: which; "auto" takes those in which the average value occurs at least twice.
        n: number of rows, also of a table without columns.
        place: the setting that named the columns, for errors.

    Raises:
        ConfigError: if there is no such column.
    """
    names: list[str] = []
    blocks: list[sp.csr_matrix] = []
    for name in list(table.columns) if columns == "auto" else columns:
        if name not in table.columns:
            raise ConfigError(f"{place}: no column '{name}'; {did_you_mean(name, [*map(str, table.columns)])}")
        row, value = _values(table[name])
        distinct, code = np.unique(value, return_inverse=True)
        if columns == "auto" and len(value) < _REPEATS * len(distinct):
            continue
        ones = np.ones(len(row))
        blocks.append(sp.csr_matrix((ones, (row, code)), shape=(n, len(distinct))))
        names += [f"{name}={entry}" for entry in distinct]
    matrix = sp.hstack(blocks, format="csr") if blocks else sp.csr_matrix((n, 0))
    return Features(matrix, tuple(names))


def texts(table: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The words of some columns of each row in one line; "|" separates words."""
    lines = table[list(columns)].astype("string").fillna("")
    return [" ".join(row).replace("|", " ") for row in lines.itertuples(index=False)]


def _values(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Rows and values, as text, of every value that is there; a row may have several, each once."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        numbers = pd.to_numeric(column, errors="coerce").astype("float64")
        if numbers.nunique() > _BINS:
            bins = pd.qcut(numbers, _BINS, labels=False, duplicates="drop")
            there = bins.notna().to_numpy()
            return np.flatnonzero(there), bins[there].astype("int64").astype("str").to_numpy(dtype="str")
        column = column.map(lambda number: f"{number:g}", na_action="ignore")
    there = column.notna().to_numpy()
    parts = [list(dict.fromkeys(part for part in str(entry).split("|") if part)) for entry in column[there]]
    row = np.repeat(np.flatnonzero(there), [len(part) for part in parts])
    return row, np.array([value for part in parts for value in part], dtype="str")
