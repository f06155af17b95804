"""Tables from files of every kind, and files that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from fedrec.data import read_table
from fedrec.data.tables import with_numbers
from fedrec.errors import DataError

from .conftest import Write


def test_csv_keeps_text_and_lines(write: Write) -> None:
    table = read_table(write("a.csv", '\ufeffuser, item ,note\n1,"x, y",NA\n\n2,nan,\n'))
    assert table.columns.tolist() == ["user", "item", "note"]
    assert table.index.tolist() == [2, 4]  # the empty line counts
    assert table.index.name == "line"
    assert table.iloc[0].tolist() == ["1", "x, y", "NA"]
    assert table.iloc[1, 1] == "nan"
    assert table["note"].isna().tolist() == [False, True]


def test_tsv(write: Write) -> None:
    assert read_table(write("a.tsv", "user\titem\n1\tx,y\n")).iloc[0].tolist() == ["1", "x,y"]


def test_parquet_keeps_types_and_a_named_index(tmp_path: Path) -> None:
    pd.DataFrame({"item": [5, 6]}, index=pd.Index([3, 4], name="user")).to_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert table.to_dict("list") == {"user": [3, 4], "item": [5, 6]}
    assert (table.index.name, table.index.tolist()) == ("row", [1, 2])


def test_atomic_headers_lose_their_types_and_sequences_are_joined(write: Write) -> None:
    table = read_table(write("a.item", 'item_id:token\tclass:token_seq\tyear:float\n1\t"War Sci-Fi\t1995\n'))
    assert table.to_dict("list") == {"item_id": ["1"], "class": ['"War|Sci-Fi'], "year": ["1995"]}


def test_adjacency_text(write: Write) -> None:
    table = read_table(write("a.txt", "0 5 6\n\n1\n2 5\n"))
    assert table["user"].tolist() == ["0", "0", "2"]
    assert table["item"].tolist() == ["5", "6", "5"]
    assert table.index.tolist() == [1, 1, 4]


def test_numbers_are_recognised_only_where_nothing_is_lost() -> None:
    table = pd.DataFrame(
        {
            "age": ["24", None],
            "zip": ["05201", "85711"],
            "share": ["0.5", "1e-3"],
            "job": ["x", "1"],
            "none": [None] * 2,
        },
        dtype="str",
    )
    found = with_numbers(table)
    assert found["age"].iloc[0] == 24
    assert found["share"].tolist() == [0.5, 0.001]
    assert found["zip"].tolist() == ["05201", "85711"]
    assert found["job"].tolist() == ["x", "1"]
    assert found["none"].isna().all()


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"user,item\n", "no records"),
        ("a.csv", b"\nuser,item\n1,2\n", "the first line is empty"),
        ("a.csv", b"user,item\n1,2\n3,4,5\n", "line 3: 3 fields where the header has 2"),
        ("a.csv", b"user,item\n1,2,3\n4,5,6\n", "more fields than the header"),
        ("a.csv", b'user,item\n1,"2\n', "EOF inside string"),
        ("a.csv", b"PK\x03\x04\x00\x00\x00garbage", "binary data"),
        ("a.csv", b"user,item\n\xff\xfe\xfa,2\n", "not UTF-8 text"),
        ("a.txt", b"\x00\x01", "binary data"),
        ("a.txt", b"0 1 2\n3 4 five\n", "line 2: 'five' is not a whole number"),
        ("a.txt", b"0\n1\n", "no records"),
        ("a.parquet", b"this is no parquet file at all", "not a Parquet file"),
        ("a.parquet", b"PAR1" + bytes(range(256)) + b"PAR1", "a.parquet"),
        ("a.xlsx", b"anything", "cannot read '.xlsx' files"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        read_table(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        read_table(tmp_path / "nowhere.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv: no such file"):
        read_table(tmp_path / "folder.csv")
