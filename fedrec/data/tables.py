"""Tables from files: CSV, TSV, Parquet, RecBole's atomic files and LightGCN's adjacency text.

A table is a data frame whose index says where each record stands: its line in a text file (the index is named "line")
or its row in a Parquet file ("row"), both counted from 1. Whatever is wrong with a record can then be pointed at.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from fedrec.errors import DataError

_HEAD = 8192  # bytes that are looked at to tell text from binary data


def read_table(path: Path) -> pd.DataFrame:
    """The records of one file.

    Args:
        path: a .csv, .tsv or .parquet file, a RecBole atomic file (.inter, .user, .item; the types in its header,
            `user_id:token`, are cut off, and the words of a `_seq` column are joined by "|"), or a LightGCN .txt file
            (`user item item ...`, one line a user; the columns are called user and item).

    Returns:
        The columns of the file. Those of a text file are strings, missing where a field is empty; lines that are
        entirely empty are left out. Those of a Parquet file have the types of the file.

    Raises:
        DataError: if the file is missing, empty, not of the kind that its name says, or has a record of too many
            fields.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: cannot read '{path.suffix}' files; give one of {', '.join(_READERS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file in {path.resolve().parent}; check the path")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty; give one with a header and at least one record")
        table = reader(path)
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; convert it, or name it by what it is") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the file") from None
    if table.empty:
        raise DataError(f"{path}: the file has no records; give one with at least one")
    return table


def with_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The table with those text columns turned into numbers in which every value is one.

    A column with leading zeros (a zip code, "05201") stays text: as numbers its values would not be the same.
    """
    numbers = {}
    for name in table.columns:
        column = table[name]
        if not isinstance(column.dtype, pd.StringDtype) or column.str.match(r"[+-]?0\d").any():
            continue
        parsed = pd.to_numeric(column, errors="coerce")
        if parsed.notna().any() and parsed.isna().equals(column.isna()):
            numbers[str(name)] = parsed
    return table.assign(**numbers)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except ValueError:  # the parent of pyarrow's complaints
        raise DataError(f"{path}: not a Parquet file, or a damaged one; write it again") from None
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index()  # pandas wrote a column as the index
    return table.rename(columns=str).set_axis(pd.RangeIndex(1, len(table) + 1, name="row"))


def _read_csv(path: Path) -> pd.DataFrame:
    return _read_separated(path, ",", csv.QUOTE_MINIMAL)


def _read_tsv(path: Path) -> pd.DataFrame:
    return _read_separated(path, "\t", csv.QUOTE_MINIMAL)


def _read_atomic(path: Path) -> pd.DataFrame:
    table = _read_separated(path, "\t", csv.QUOTE_NONE)  # RecBole splits at tabs and knows no quotes
    for header in table:
        if str(header).endswith("_seq"):
            table[header] = table[header].str.replace(" ", "|")
    return table.rename(columns=lambda header: str(header).partition(":")[0])


def _read_separated(path: Path, separator: str, quoting: Literal[0, 3]) -> pd.DataFrame:
    if not _first_line_of_text(path).strip():
        raise DataError(f"{path}: the first line is empty; it must name the columns")
    try:
        table = pd.read_csv(
            path,
            sep=separator,
            quoting=quoting,
            dtype="str",
            keep_default_na=False,  # "NA" and "nan" may be ids
            na_values=[""],
            skip_blank_lines=False,  # they count as lines
            skipinitialspace=True,
            encoding="utf-8-sig",
        )
    except pd.errors.ParserError as error:
        raise DataError(f"{path}{_place_of(error)}; quote fields that hold the separator") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus leading fields for an index
        raise DataError(f"{path}: records have more fields than the header has names; name every column")
    table = table.rename(columns=lambda header: str(header).strip())
    return table.set_axis(pd.RangeIndex(2, len(table) + 2, name="line")).dropna(how="all")


def _place_of(error: pd.errors.ParserError) -> str:
    counts = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
    if counts is None:
        return f": {str(error).strip().splitlines()[-1]}"
    expected, line, seen = counts.groups()
    return f", line {line}: {seen} fields where the header has {expected}"


def _read_adjacency(path: Path) -> pd.DataFrame:
    _first_line_of_text(path)
    words = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    for line, found in enumerate(words, start=1):
        if found and not "".join(found).isdecimal():
            wrong = next(word for word in found if not word.isdecimal())
            raise DataError(f"{path}, line {line}: '{wrong}' is not a whole number; write `user item item ...`")
    degrees = [max(len(found) - 1, 0) for found in words]  # a user alone on a line has no items
    users = np.repeat(np.array([found[0] if found else "" for found in words], dtype=object), degrees)
    lines = np.repeat(np.arange(1, len(words) + 1), degrees)
    items = list(chain.from_iterable(found[1:] for found in words))
    return pd.DataFrame({"user": users, "item": items}, dtype="str", index=pd.Index(lines, name="line"))


def _first_line_of_text(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if b"\0" in head:
        raise DataError(f"{path}: binary data, not text; name the file by what it is, or give another")
    return head.removeprefix(codecs.BOM_UTF8).partition(b"\n")[0]


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".inter": _read_atomic,
    ".user": _read_atomic,
    ".item": _read_atomic,
    ".txt": _read_adjacency,
}
