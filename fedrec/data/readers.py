"""Interactions as they stand in files: which column is what, and which file of a folder."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from fedrec.components import Config
from fedrec.data.tables import read_table, with_numbers
from fedrec.errors import DataError, did_you_mean

Column = Literal["user", "item", "rating", "time"]

# What a column is called where the configuration does not say.
_USUAL: dict[Column, tuple[str, ...]] = {
    "user": ("user", "user_id"),
    "item": ("item", "item_id"),
    "rating": ("rating",),
    "time": ("timestamp", "time"),
}


class ColumnsConfig(Config):
    """Which column of a file is what.

    Attributes:
        user: None takes the column `user` or `user_id`.
        item: None takes the column `item` or `item_id`.
        rating: None takes the column `rating` if there is one.
        time: anything that orders a user's interactions (a Unix time, an ISO 8601 date, a position); None takes the
            column `timestamp` or `time` if there is one.
    """

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    time: str | None = None

    def updated(self, other: ColumnsConfig) -> ColumnsConfig:
        """These columns, except where `other` names one."""
        return self.model_copy(update=other.model_dump(exclude_none=True))


@dataclass(frozen=True, eq=False)
class RawInteractions:
    """Interactions as read, before cleaning: ids may be missing, ratings may be anything.

    Attributes:
        source: the file's path or the data set's name, for messages.
        rows: columns user and item (strings, missing where the file has nothing), and rating and time if there are
            any, as read; the index is named "line" or "row" and says where each row stands in the source.
        users, items: attribute tables, indexed by original id; empty if nothing is known.
    """

    source: str
    rows: pd.DataFrame
    users: pd.DataFrame = field(default_factory=pd.DataFrame)
    items: pd.DataFrame = field(default_factory=pd.DataFrame)


def read_interactions(
    path: Path,
    columns: ColumnsConfig | None = None,
    users: Path | None = None,
    items: Path | None = None,
) -> RawInteractions:
    """Read interactions, and attributes of users and items, from files.

    Args:
        path: a file that `read_table` knows, or a folder that holds one of: train.txt and test.txt (LightGCN, read one
            after the other), one .inter file, one table called `ratings` or `interactions`, or one table at all.
        columns: which column is what.
        users, items: attribute tables; their ids are in the column of the interactions' name, else in the first one.
            None takes the .user and .item files beside an .inter file.

    Raises:
        DataError: if a file or a column is missing, a file cannot be read, or an id has two rows of attributes.
    """
    columns = columns or ColumnsConfig()
    if is_adjacency_folder(path):
        parts = [read_interactions(path / name, columns, users, items) for name in ("train.txt", "test.txt")]
        rows = pd.concat([part.rows for part in parts])
        return RawInteractions(str(path), rows, parts[0].users, parts[0].items)
    file = _file_of(path, {name for name in (users, items) if name})
    if file.suffix == ".inter":
        users = users or _beside(file, ".user")
        items = items or _beside(file, ".item")
    table = read_table(file)
    names = {column: _find(table, column, getattr(columns, column), file) for column in _USUAL}
    rows = pd.DataFrame({column: table[name] for column, name in names.items() if name is not None})
    for side in ("user", "item"):
        rows[side] = _ids(rows[side])
    return RawInteractions(
        source=str(file),
        rows=rows,
        users=_read_attributes(users, str(names["user"]), rows["user"]) if users else pd.DataFrame(),
        items=_read_attributes(items, str(names["item"]), rows["item"]) if items else pd.DataFrame(),
    )


def is_adjacency_folder(path: Path) -> bool:
    """Whether a path is a folder with a published split in LightGCN's form."""
    return (path / "train.txt").is_file() and (path / "test.txt").is_file()


def _file_of(path: Path, others: Collection[Path]) -> Path:
    """The file of interactions: the path itself, or the one file of a folder that must be it."""
    if not path.is_dir():
        return path
    atomic = sorted(path.glob("*.inter"))
    tables = sorted(
        file for file in path.iterdir() if file.suffix.lower() in (".csv", ".tsv", ".parquet") and file not in others
    )
    named = [file for file in tables if file.stem in ("ratings", "interactions")]
    for found in (atomic, named, tables):
        if len(found) == 1:
            return found[0]
    present = ", ".join(file.name for file in sorted(path.iterdir())) or "nothing"
    raise DataError(f"{path}: cannot tell which file holds the interactions; name it in the path; there is: {present}")


def _beside(file: Path, suffix: str) -> Path | None:
    other = file.with_suffix(suffix)
    return other if other.is_file() else None


def _find(table: pd.DataFrame, column: Column, name: str | None, path: Path) -> str | None:
    """What the file calls a column; None if it need not be there and is not."""
    present = [str(header) for header in table.columns]
    if name is None:
        usual = next((candidate for candidate in _USUAL[column] if candidate in present), None)
        if usual is None and column in ("user", "item"):
            raise DataError(
                f"{path}: no column '{column}' among {', '.join(present)}; "
                f"name it with columns = {{ {column} = '...' }}"
            )
        return usual
    if name not in present:
        raise DataError(
            f"{path}: no column '{name}' among {', '.join(present)}; correct columns.{column}, "
            f"{did_you_mean(name, present)}"
        )
    return name


def _ids(column: pd.Series) -> pd.Series:
    """Ids as strings, missing where there is none. Whole numbers look the same from text and from Parquet."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")  # whole numbers with gaps come as floats
    text = column.astype("string").str.strip()
    return text.mask(text == "").astype("str")


def _read_attributes(path: Path, id_column: str, known: pd.Series) -> pd.DataFrame:
    """A table of attributes by id; `known` are the ids that interact, and one of them at least must be in it."""
    table = read_table(path)
    name = id_column if id_column in table.columns else str(table.columns[0])
    ids = _ids(table[name])
    if ids.isna().any():
        place = f"{table.index.name} {ids.index[ids.isna()][0]}"
        raise DataError(f"{path}, {place}: {name} is missing; delete the record or give it an id")
    if ids.duplicated().any():
        repeated = ids[ids.duplicated()]
        place = f"{table.index.name} {repeated.index[0]}"
        raise DataError(f"{path}, {place}: {name} '{repeated.iloc[0]}' occurs again; keep one record of each")
    if not ids.isin(known).any():
        raise DataError(
            f"{path}: no id in column '{name}' occurs among the interactions (the first is '{ids.iloc[0]}'); call the "
            f"column of the ids '{id_column}', or give the table that belongs to these interactions"
        )
    return with_numbers(table.drop(columns=name)).set_axis(pd.Index(ids, name=name))
