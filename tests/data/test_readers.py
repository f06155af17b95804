"""Which column is what, and which file of a folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from fedrec.data import ColumnsConfig, clean, read_interactions
from fedrec.errors import DataError

from .conftest import Write


def test_columns_by_their_usual_names_and_by_mapping(write: Write) -> None:
    usual = read_interactions(write("a.csv", "item_id,user_id,timestamp,rating\nx,1,7,5\n"))
    assert usual.rows.to_dict("records") == [{"user": "1", "item": "x", "rating": "5", "time": "7"}]
    own = read_interactions(
        write("b.csv", "uid,mid,stars,rating,when\n1,x,4,9,7\n"),
        ColumnsConfig(user="uid", item="mid", rating="stars", time="when"),
    )
    assert own.rows.to_dict("records") == [{"user": "1", "item": "x", "rating": "4", "time": "7"}]


def test_ratings_and_times_need_not_be_there(write: Write) -> None:
    assert read_interactions(write("a.csv", "user,item\n1,x\n")).rows.columns.tolist() == ["user", "item"]


def test_ids_are_the_same_from_text_and_from_parquet(write: Write, tmp_path: Path) -> None:
    text = read_interactions(write("a.csv", "user,item\n 1 ,7\n2,8\n,9\n"))
    pd.DataFrame({"user": [1.0, 2.0, None], "item": [7, 8, 9]}).to_parquet(tmp_path / "a.parquet")
    parquet = read_interactions(tmp_path / "a.parquet")
    assert text.rows.fillna("?").to_numpy().tolist() == [["1", "7"], ["2", "8"], ["?", "9"]]
    assert parquet.rows.fillna("?").to_numpy().tolist() == text.rows.fillna("?").to_numpy().tolist()


def test_the_same_data_have_one_fingerprint_in_every_format(write: Write, tmp_path: Path) -> None:
    csv = write("a.csv", "user,item,rating,time\n10,x,3,5\n9,y,4.5,6\n")
    tsv = write("a.tsv", "time\tuser\titem\trating\n5.0\t10\tx\t3.0\n6\t9\ty\t4.5\n")
    inter = write("a.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n10\tx\t3\t5\n9\ty\t4.5\t6\n")
    parquet = tmp_path / "a.parquet"
    pd.DataFrame({"user": [10, 9], "item": ["x", "y"], "rating": [3, 4.5], "time": [5, 6]}).to_parquet(parquet)
    assert len({clean(read_interactions(path))[0].fingerprint for path in (csv, tsv, inter, parquet)}) == 1


def test_a_missing_column_names_those_there_are_and_the_nearest(write: Write) -> None:
    path = write("a.csv", "user_id,item_id,stars\n1,x,5\n")
    with pytest.raises(DataError, match=r"a\.csv: no column 'userid' among user_id, item_id, stars; .*'user_id'\?"):
        read_interactions(path, ColumnsConfig(user="userid"))
    with pytest.raises(DataError, match=r"a\.csv: no column 'score' among .*correct columns\.rating"):
        read_interactions(path, ColumnsConfig(rating="score"))
    with pytest.raises(DataError, match=r"no column 'item' among uid, mid; name it with columns = \{ item = '...' \}"):
        read_interactions(write("b.csv", "uid,mid\n1,x\n"), ColumnsConfig(user="uid"))


def test_attributes_by_the_mapped_column_or_the_first(write: Write) -> None:
    raw = read_interactions(
        write("a.csv", "user,movie\n1,x\n2,y\n3,x\n"),
        ColumnsConfig(item="movie"),
        users=write("people.csv", "age,user\n30,2\n20,1\n"),
        items=write("films.csv", "id,genres\ny,War|Drama\nz,\n"),
    )
    data, _ = clean(raw)
    assert data.user_attributes["age"].tolist()[:2] == [20, 30]
    assert pd.isna(data.user_attributes["age"].iloc[2])  # user 3 has no row
    assert data.item_attributes["genres"].fillna("?").tolist() == ["?", "War|Drama"]  # z does not occur


@pytest.mark.parametrize(
    ("table", "complaint"),
    [("user,age\n1,2\n1,3\n", r"people\.csv, line 3: user '1' occurs again"), ("user,age\n,3\n", "user is missing")],
)
def test_ids_of_attributes_are_there_once(write: Write, table: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        read_interactions(write("a.csv", "user,item\n1,x\n"), users=write("people.csv", table))


def test_a_recbole_folder_brings_its_attributes(write: Write, tmp_path: Path) -> None:
    write("box/d.inter", "user_id:token\titem_id:token\n1\tx\n")
    write("box/d.user", "user_id:token\tage:token\n1\t30\n")
    write("box/d.item", "item_id:token\tclass:token_seq\nx\tWar Drama\n")
    raw = read_interactions(tmp_path / "box")
    assert raw.users.loc["1", "age"] == 30
    assert raw.items.loc["x", "class"] == "War|Drama"


def test_an_adjacency_folder_is_train_then_test(write: Write, tmp_path: Path) -> None:
    write("box/train.txt", "0 1 2\n")
    write("box/test.txt", "0 3\n")
    assert read_interactions(tmp_path / "box").rows["item"].tolist() == ["1", "2", "3"]


def test_the_one_table_of_a_folder_is_found(write: Write, tmp_path: Path) -> None:
    people = write("box/people.csv", "user,age\n1,2\n")
    write("box/seen.csv", "user,item\n1,x\n")
    assert read_interactions(tmp_path / "box", users=people).rows["item"].tolist() == ["x"]
    with pytest.raises(DataError, match=r"name it in the path; there is: people\.csv, seen\.csv"):
        read_interactions(tmp_path / "box")
    write("box/ratings.csv", "user,item\n1,y\n")
    assert read_interactions(tmp_path / "box").rows["item"].tolist() == ["y"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there is: nothing"):
        read_interactions(tmp_path / "empty")
