"""Small data sets, and archives with the layout of the real ones."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest

from fedrec.data import Interactions, Vocabulary
from fedrec.data.readers import RawInteractions

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a text file into the test's folder, without the indentation of the test."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
        return path

    return write_file


def raw_of(*rows: tuple[object, ...], names: str = "user item rating time") -> RawInteractions:
    """Rows as a reader would hand them on, from line 2 of a file."""
    columns = names.split()[: len(rows[0])]
    table = pd.DataFrame(list(rows), columns=columns, index=pd.RangeIndex(2, len(rows) + 2, name="line"), dtype="str")
    return RawInteractions("ratings.csv", table)


def interactions_of(*rows: tuple[str, str] | tuple[str, str, float]) -> Interactions:
    """Interactions of (user, item) or (user, item, time)."""
    users, items = Vocabulary.of([row[0] for row in rows]), Vocabulary.of([row[1] for row in rows])
    return Interactions(
        user=users.encode([row[0] for row in rows]),
        item=items.encode([row[1] for row in rows]),
        users=users,
        items=items,
        time=np.array([float(row[2]) for row in rows if len(row) == 3]) if len(rows[0]) == 3 else None,
    )


def pairs_of(part: Interactions) -> list[tuple[str, str]]:
    """The original ids, in the part's order."""
    return list(zip(part.users.decode(part.user), part.items.decode(part.item), strict=True))


RATINGS = ["196\t242\t3\t881250949", "186\t302\t3\t891717742", "22\t267\t1\t878887116", "196\t1412\t4\t881250949"]

GROUPLENS = {
    "u.data": "\n".join(RATINGS) + "\n",
    "u.user": "22|24|M|writer|05201\n186|39|F|executive|T8H1N\n196|49|M|writer|55105\n",
    "u.genre": "unknown|0\nAnimation|1\nChildren's|2\nFilm-Noir|3\n\n",
    "u.item": (
        "242|Misérables, Les (1995)|04-Jul-1996||http://example.org/(1990)|0|0|0|1\n"
        "267|unknown||||1|0|0|0\n"
        '302|"Quoted" (Again) (1971)|01-Jan-1971||http://example.org/|0|0|1|1\n'
        "1412|Land Before Time III: The Time of the Great Giving (1995) (V)|01-Jan-1995|||0|1|1|0\n"
    ),
}

RECBOLE = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + GROUPLENS["u.data"],
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    + GROUPLENS["u.user"].replace("|", "\t"),
    "ml-100k.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "242\tMisérables, Les\t1995\tFilm-Noir\n"
        "267\tunkonwn\tunkonwn\tunknown\n"
        '302\t"Quoted" (Again)\t1971\tChildren\'s Film-Noir\n'
        "1412\tLand Before Time III: The Time of the Great Giving (1995)\tV\tAnimation Children's\n"
    ),
}


@pytest.fixture
def grouplens_archive(tmp_path: Path) -> Path:
    """An archive with the layout of GroupLens' ml-100k.zip."""
    return _archive(tmp_path / "ml-100k.zip", "ml-100k/", GROUPLENS, "latin-1")


@pytest.fixture
def recbole_wheel(tmp_path: Path) -> Path:
    """A wheel that carries the same data as RecBole's does."""
    return _archive(tmp_path / "recbole-1.2.1-py3-none-any.whl", "recbole/dataset_example/ml-100k/", RECBOLE, "utf-8")


def _archive(path: Path, folder: str, files: dict[str, str], encoding: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(folder + name, text.encode(encoding))
    return path
