"""MovieLens-100K from the two places that have it, parsed to the same tables.

GroupLens' archive is the original. The RecBole wheel on the Python package index carries the same ratings in the same
order, for where the original cannot be reached. Tables agree too: title and year come from the title's "(1995)" in both
(RecBole mangled two items: 267, which has neither, and 1412, a video), genres are in GroupLens' order, and a film of
genre "unknown" has none.
"""

from __future__ import annotations

import csv
import http.client
import io
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pandas as pd

from fedrec.data.readers import RawInteractions
from fedrec.errors import DataError

ADDRESS = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
WHEEL = "recbole==1.2.1"

_TIMEOUT = 20  # seconds without a byte after which the archive counts as out of reach
_PIP_TIMEOUT = 300  # seconds in all
_TITLE = r"^(?P<title>.*?)\s*(?:\((?P<year>\d{4})\).*)?$"
_USER = ["user_id", "age", "gender", "occupation", "zip_code"]


def from_grouplens(scratch: Path) -> RawInteractions:
    """Download and parse the original archive.

    Args:
        scratch: an empty folder to work in.

    Raises:
        ConnectionError: if it cannot be reached.
        DataError: if what arrives is truncated or something else.
    """
    archive = scratch / "ml-100k.zip"
    try:
        with urllib.request.urlopen(ADDRESS, timeout=_TIMEOUT) as response:
            archive.write_bytes(response.read())
    except http.client.IncompleteRead as error:
        raise DataError(f"{ADDRESS}: the download broke off after {len(error.partial):,} bytes; try again") from None
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{ADDRESS}: {error}") from None
    return parse_grouplens(archive)


def from_recbole_wheel(scratch: Path) -> RawInteractions:
    """Download RecBole's wheel with pip, without its dependencies and without installing it, and parse what it carries.

    Args:
        scratch: an empty folder to work in.

    Raises:
        ConnectionError: if pip cannot get it.
        DataError: if the wheel does not hold what it should.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    try:
        done = subprocess.run(
            [*command, "--dest", str(scratch), WHEEL], capture_output=True, text=True, timeout=_PIP_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConnectionError(f"pip download {WHEEL}: no answer in {_PIP_TIMEOUT} s") from None
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        complaints = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise ConnectionError(f"pip download {WHEEL}: {complaints[-1] if complaints else 'nothing was downloaded'}")
    return parse_recbole_wheel(wheels[0])


def parse_grouplens(archive: Path) -> RawInteractions:
    """The tables of GroupLens' ml-100k.zip (u.data, u.user, u.item, u.genre; Latin-1, without headers).

    Raises:
        DataError: if the archive is damaged or lacks a file.
    """
    files = _members(archive, "ml-100k/", ("u.data", "u.user", "u.item", "u.genre"))
    genres = [line.partition("|")[0] for line in files["u.genre"].decode("latin-1").splitlines() if line]
    rows = _table(files["u.data"], "\t", ["user", "item", "rating", "time"], "latin-1")
    users = _table(files["u.user"], "|", _USER, "latin-1")
    films = _table(files["u.item"], "|", ["item_id", "title", "released", "video", "address", *genres], "latin-1")
    flags = films[genres].to_numpy() == "1"
    films["genres"] = ["|".join(genre for genre, has in zip(genres, row, strict=True) if has) for row in flags]
    title = films["title"].str.extract(_TITLE)
    return _raw(rows, users, films.assign(title=title["title"], year=title["year"]))


def parse_recbole_wheel(wheel: Path) -> RawInteractions:
    """The tables of ml-100k within RecBole's wheel (.inter, .user, .item; UTF-8, with headers).

    Raises:
        DataError: if the wheel is damaged or lacks a file.
    """
    files = _members(wheel, "recbole/dataset_example/ml-100k/", ("ml-100k.inter", "ml-100k.user", "ml-100k.item"))
    rows = _table(files["ml-100k.inter"], "\t", ["user", "item", "rating", "time"], "utf-8", header=0)
    users = _table(files["ml-100k.user"], "\t", _USER, "utf-8", header=0)
    films = _table(files["ml-100k.item"], "\t", ["item_id", "title", "year", "genres"], "utf-8", header=0)
    title = films["title"].str.extract(_TITLE)
    year = films["year"].where(films["year"].str.fullmatch(r"\d{4}"), title["year"])
    named = title["title"].replace("unkonwn", "unknown")
    return _raw(rows, users, films.assign(title=named, year=year, genres=films["genres"].str.replace(" ", "|")))


def _members(archive: Path, folder: str, names: tuple[str, ...]) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(archive) as opened:
            return {name: opened.read(folder + name) for name in names}
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
        raise DataError(f"{archive.name}: damaged or not what it should be ({error}); fetch it again") from None


def _table(content: bytes, separator: str, names: list[str], encoding: str, header: int | None = None) -> pd.DataFrame:
    """The lines of a file as strings."""
    try:
        return pd.read_csv(
            io.BytesIO(content),
            sep=separator,
            names=names,
            header=header,
            dtype="str",
            quoting=csv.QUOTE_NONE,  # titles hold quotation marks
            keep_default_na=False,
            encoding=encoding,
        )
    except ValueError as error:
        raise DataError(f"ml-100k: a table is not what it should be ({error}); fetch it again") from None


def _raw(rows: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame) -> RawInteractions:
    """The common form: whole numbers as numbers, ids and zip codes as text, missing where nothing is known."""
    year = _whole_numbers(items["year"]).astype("Int64")
    genres = items["genres"].mask(items["genres"].isin(["", "unknown"]))
    rows = rows.assign(rating=_whole_numbers(rows["rating"]), time=_whole_numbers(rows["time"]))
    return RawInteractions(
        source="ml-100k",
        rows=rows.set_axis(pd.RangeIndex(1, len(rows) + 1, name="row")),
        users=users.assign(age=_whole_numbers(users["age"])).set_index("user_id"),
        items=items.assign(year=year, genres=genres)[["item_id", "title", "year", "genres"]].set_index("item_id"),
    )


def _whole_numbers(column: pd.Series) -> pd.Series:
    """Numbers, missing where there is none; a rating or a time must not be, as cleaning sees."""
    return pd.to_numeric(column, errors="coerce")
