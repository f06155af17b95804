"""Rows of strings to `Interactions` on contiguous codes, and rows that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from fedrec.data.interactions import FloatArray, IntArray, Interactions, Vocabulary
from fedrec.data.readers import RawInteractions
from fedrec.errors import DataError

_LARGEST_WHOLE = 2**53  # above it float64 leaves whole numbers out

Invalid = Literal["error", "drop"]


def encode(raws: Sequence[RawInteractions], invalid: Invalid = "error") -> list[Interactions]:
    """The valid rows of each source, in file order, over vocabularies that the sources share.

    Args:
        raws: as read; the attributes of the first one are taken.
        invalid: what to do with rows without an id, or whose rating or time is not a finite number.

    Returns:
        Interactions whose attributes are aligned to the codes: missing for an id without a row of attributes.

    Raises:
        DataError: at the first invalid row, if `invalid` is "error"; it says where the row stands.
    """
    frames = [_parsed(raw, invalid) for raw in raws]
    users, items = (
        Vocabulary.of(list(set().union(*(frame[side].unique() for frame in frames)))) for side in ("user", "item")
    )
    user_attributes, item_attributes = _aligned(raws[0].users, users), _aligned(raws[0].items, items)
    return [
        Interactions(
            user=_codes(frame["user"], users),
            item=_codes(frame["item"], items),
            users=users,
            items=items,
            rating=frame["rating"].to_numpy() if "rating" in frame else None,
            time=frame["time"].to_numpy() if "time" in frame else None,
            user_attributes=user_attributes,
            item_attributes=item_attributes,
        )
        for frame in frames
    ]


def drop_unused(parts: Sequence[Interactions]) -> list[Interactions]:
    """The same interactions over vocabularies of the users and items that occur in any of the parts."""
    users = np.unique(np.concatenate([part.user for part in parts]))
    items = np.unique(np.concatenate([part.item for part in parts]))
    first = parts[0]
    user_vocabulary = Vocabulary(tuple(first.users.decode(users)))
    item_vocabulary = Vocabulary(tuple(first.items.decode(items)))
    user_attributes = _some_rows(first.user_attributes, users)
    item_attributes = _some_rows(first.item_attributes, items)
    return [
        replace(
            part,
            user=np.searchsorted(users, part.user),
            item=np.searchsorted(items, part.item),
            users=user_vocabulary,
            items=item_vocabulary,
            user_attributes=user_attributes,
            item_attributes=item_attributes,
        )
        for part in parts
    ]


def _parsed(raw: RawInteractions, invalid: Invalid) -> pd.DataFrame:
    """The valid rows, with ratings and times as numbers."""
    rows = raw.rows.assign(
        **{name: _numbers(raw.rows[name], raw.source) for name in ("rating", "time") if name in raw.rows}
    )
    wrong = rows[["user", "item"]].isna().to_numpy().any(axis=1)
    for name in ("rating", "time"):
        if name in rows:
            wrong |= ~np.isfinite(rows[name].to_numpy())
    if invalid == "error" and wrong.any():
        raise DataError(_what_is_wrong(raw, rows, int(np.argmax(wrong))))
    return rows.iloc[np.flatnonzero(~wrong)]


def _what_is_wrong(raw: RawInteractions, parsed: pd.DataFrame, position: int) -> str:
    place = f"{raw.source}, {raw.rows.index.name} {raw.rows.index[position]}"
    row, numbers = raw.rows.iloc[position], parsed.iloc[position]
    missing = [name for name in ("user", "item") if pd.isna(row[name])]
    if missing:
        complaint = f"the {missing[0]} is missing"
    else:
        name = next(name for name in ("rating", "time") if name in row and not np.isfinite(numbers[name]))
        wanted = "not a finite number" if name == "rating" else "neither a finite number nor an ISO 8601 date"
        complaint = f"the {name} is missing" if pd.isna(row[name]) else f"{name} '{row[name]}' is {wanted}"
    return f"{place}: {complaint}; drop such rows with clean = {{ invalid = 'drop' }}"


def _numbers(column: pd.Series, source: str) -> FloatArray:
    """A column as float64, not finite where it is no number; dates become Unix seconds."""
    if not pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_datetime64_any_dtype(column):
        numbers = pd.to_numeric(column, errors="coerce")
        dates = column.name == "time" and numbers.isna().all()
        column = pd.to_datetime(column, errors="coerce", format="ISO8601", utc=True) if dates else numbers
    if pd.api.types.is_datetime64_any_dtype(column):
        column = (column - pd.Timestamp(0, tz=column.dt.tz)) / pd.Timedelta(seconds=1)
    values = np.asarray(column.astype("float64"))
    if pd.api.types.is_integer_dtype(column) and len(values) and np.abs(values).max() > _LARGEST_WHOLE:
        raise DataError(
            f"{source}: {column.name} {column.iloc[np.abs(values).argmax()]} has more digits than are kept, so that "
            "different ones would be equal; give milliseconds or seconds instead of nanoseconds"
        )
    return values


def _codes(ids: pd.Series, vocabulary: Vocabulary) -> IntArray:
    positions, distinct = pd.factorize(ids)  # each id is looked up once, however often it occurs
    return vocabulary.encode(list(distinct))[positions]


def _aligned(table: pd.DataFrame, vocabulary: Vocabulary) -> pd.DataFrame:
    return table.reindex(list(vocabulary.ids)).reset_index(drop=True) if len(table.columns) else pd.DataFrame()


def _some_rows(table: pd.DataFrame, codes: IntArray) -> pd.DataFrame:
    return table.iloc[codes].reset_index(drop=True) if len(table.columns) else table
