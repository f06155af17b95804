"""The [data] section, from its text to a split."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pandas as pd
import pytest

from fedrec.components import build_config
from fedrec.data import DATASETS, DataConfig, Given, LeaveOneOut, LoadedData, clean, load_interactions, load_split
from fedrec.data.movielens import parse_grouplens
from fedrec.errors import ConfigError, DataError

from .conftest import Write, pairs_of


def config_of(text: str) -> DataConfig:
    config = build_config(DataConfig, tomllib.loads(text), "data")
    assert isinstance(config, DataConfig)
    return config


def loaded(text: str, seed: int = 0) -> LoadedData:
    return load_split(config_of(text), seed)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_file_of_ones_own(write: Write) -> None:
    write("box/own.csv", "uid,mid,stars,when\nb,x,5,3\na,x,5,1\na,y,4,2\na,z,1,3\na,w,5,3\nb,y,4,1\nb,w,3,2\n")
    write("box/people.csv", "uid,gender\na,F\nb,M\n")
    data = loaded(
        """
        path = "box/own.csv"
        columns = { user = "uid", item = "mid", rating = "stars", time = "when" }
        users = "people.csv"
        clean = { min_rating = 2 }
        split = { kind = "leave-one-out" }
        """
    )
    assert pairs_of(data.split.train) == [("a", "x"), ("b", "y")]
    assert pairs_of(data.split.valid) == [("a", "y"), ("b", "w")]
    assert pairs_of(data.split.test) == [("b", "x"), ("a", "w")]
    assert data.split.test.user_attributes["gender"].tolist() == ["F", "M"]
    assert [step.rows_after for step in data.report.steps] == [7, 6, 6]
    assert data.source == "box/own.csv"


def test_a_catalogued_data_set(monkeypatch: pytest.MonkeyPatch, grouplens_archive: Path, tmp_path: Path) -> None:
    raw = parse_grouplens(grouplens_archive)
    monkeypatch.setattr("fedrec.data.catalog.load", {"ml-100k": raw}.get)
    data = loaded('name = "ml-100k"\nsplit = { kind = "ratio", test = 0.4 }')
    assert data.fingerprint == clean(raw)[0].fingerprint
    assert pairs_of(data.split.test) == [("196", "1412")]  # its two times are equal: the later one in the file


def test_synthetic_data_are_the_same_for_every_seed_and_cleaned_like_others() -> None:
    text = """
        name = "synthetic"
        synthetic = { users = 30, items = 40 }
        clean = { k_core = 4 }
        split = { order = "random" }
    """
    first, second = loaded(text, 0), loaded(text, 1)
    assert first.fingerprint == second.fingerprint
    assert pairs_of(first.split.test) != pairs_of(second.split.test)
    assert first.split.train.n_items < 40
    assert "fewer than 4" in str(first.report)


def test_an_adjacency_folder_needs_no_split_section(write: Write) -> None:
    write("box/train.txt", "".join(f"{user} {' '.join(map(str, range(20)))}\n" for user in range(3)))
    write("box/test.txt", "0 50\n1 51\n2\n")
    bare, given = loaded('path = "box"'), loaded('path = "box"\nsplit = { kind = "given", valid_share = 0.2 }')
    assert pairs_of(bare.split.test) == [("0", "50"), ("1", "51")]
    assert (len(bare.split.train), len(bare.split.valid)) == (54, 6)
    assert (len(given.split.train), len(given.split.valid)) == (48, 12)
    assert bare.fingerprint == given.fingerprint
    assert pairs_of(bare.split.valid) != pairs_of(loaded('path = "box"', seed=1).split.valid)


def test_a_given_split_of_parquet_files_with_other_columns_in_the_held_out_ones(tmp_path: Path) -> None:
    def table(name: str, **columns: list[int] | list[str]) -> None:
        pd.DataFrame(columns).to_parquet(tmp_path / name)

    table("train.parquet", user_id=[1, 1, 2, 2], video_id=[10, 11, 10, 10], position=[0, 1, 0, 1])
    watched: dict[str, list[int]] = {
        "user_id": [1, 1, 2, 2, 3],
        "video_id": [10, 12, 12, 12, 12],
        "long_view": [1, 0, 1, 1, 1],
    }
    table("val.parquet", **watched, time_ms=[5, 6, 7, 8, 9])
    table("test.parquet", user_id=[1, 2], video_id=[12, 12], long_view=[1, 1], time_ms=[10, 11])
    table("users.parquet", user_id=[3, 2, 1], activity=["c", "b", "a"])
    data = loaded(
        f"""
        path = "{tmp_path.as_posix()}"
        columns = {{ user = "user_id", item = "video_id", time = "position" }}
        users = "users.parquet"
        clean = {{ min_rating = 1 }}

        [split]
        kind = "given"
        train = "train.parquet"
        valid = "val.parquet"
        test = "test.parquet"
        columns = {{ time = "time_ms", rating = "long_view" }}
        """
    )
    assert pairs_of(data.split.train) == [("1", "10"), ("1", "11"), ("2", "10")]
    assert pairs_of(data.split.valid) == [("2", "12"), ("3", "12")]
    assert pairs_of(data.split.test) == [("1", "12")]
    assert data.split.train.user_attributes["activity"].tolist() == ["a", "b", "c"]
    assert data.split.train.time is not None
    assert data.split.train.time.tolist() == [0, 1, 1]
    assert data.split.notes[1] == "1 pairs of valid occurred in an earlier part and are dropped from valid"
    assert "1 dropped, 3 rows of 2 users" in str(data.report)


def test_all_of_a_given_split_can_be_had_without_splitting(write: Write) -> None:
    write("box/train.txt", "0 1 2\n1 2\n")
    write("box/test.txt", "0 3\n")
    data, report = load_interactions(config_of('path = "box"'))
    assert pairs_of(data) == [("0", "1"), ("0", "2"), ("1", "2"), ("0", "3")]
    assert report.steps[0].rows_before == 4


def test_a_given_split_needs_a_folder(write: Write) -> None:
    write("own.csv", "user,item\n1,x\n")
    with pytest.raises(DataError, match=r"own\.csv: a given split needs a folder"):
        loaded('path = "own.csv"\nsplit = { kind = "given" }')


@pytest.mark.parametrize(
    "text",
    [
        'name = "ml-100k"',
        'name = "synthetic"\nsynthetic = { users = 9 }\nsplit = { kind = "global-time" }',
        'path = "x"\ncolumns = { user = "u" }\nitems = "i.csv"\nsplit = { kind = "given", columns = { time = "t" } }',
    ],
)
def test_the_effective_configuration_reads_back_as_itself(text: str) -> None:
    config = config_of(text)
    assert DataConfig.model_validate(config.model_dump(exclude_none=True)) == config


def test_a_split_is_built_from_objects_too() -> None:
    assert DataConfig(path="x", split=LeaveOneOut(order="random")).split == LeaveOneOut(order="random")
    assert config_of('path = "x"\nsplit = { kind = "given" }').split == Given()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "give either a name or a path"),
        ('name = "ml-100k"\npath = "x"', "give either a name or a path"),
        ('name = "ml-1k"', r"data\.name = 'ml-1k': unknown dataset; did you mean 'ml-100k'\?"),
        ('name = "ml-100k"\nusers = "u.csv"', "go with a path, not with a name"),
        ('name = "ml-100k"\nsynthetic = { users = 5 }', "goes with name = 'synthetic'"),
        ('name = "ml-100k"\nsplit = { kind = "given" }', "it goes with a path, not with a name"),
        ('path = "x"\nclaen = { k_core = 2 }', r"data\.claen: unknown key 'claen'; did you mean 'clean'\?"),
        ('path = "x"\nclean = { kcore = 2 }', r"data\.clean\.kcore: unknown key 'kcore'; did you mean 'k_core'\?"),
        ('path = "x"\nclean = { k_core = 0 }', r"data\.clean\.k_core = 0"),
        ('path = "x"\nsplit = { kind = "ratios" }', r"unknown split kind 'ratios'; did you mean 'ratio'\?"),
        ('path = "x"\nsplit = { kind = "ratio", tset = 0.1 }', r"data\.split\.tset: unknown key .*'test'\?"),
        ('path = "x"\nsplit = { kind = "ratio", test = 1.5 }', r"data\.split\.test = 1\.5"),
        ('path = "x"\nsplit = { kind = "given", columns = { tme = "t" } }', r"columns\.tme: unknown key .*'time'\?"),
    ],
)
def test_a_bad_section_is_one_line_that_names_the_place(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        config_of(text)
    assert "\n" not in str(caught.value)


def test_the_catalogue_says_what_it_has() -> None:
    entry = DATASETS["ml-100k"]
    assert (entry.users, entry.items, entry.interactions) == (943, 1682, 100_000)
    assert len(entry.fingerprint) == 64


@pytest.mark.parametrize(("keep", "noted"), [("last", True), ("first", False)])
def test_a_pair_done_again_after_the_cut_is_noted_where_train_lacks_it(write: Write, keep: str, noted: bool) -> None:
    write("own.csv", "user,item,time\na,1,1\na,2,2\nb,1,1\nb,2,2\na,1,9\na,3,9\nb,3,9\n")
    data = loaded(
        f"""
        path = "own.csv"
        clean = {{ duplicates = "{keep}" }}
        split = {{ kind = "global-time", valid_from = 3, test_from = 5 }}
        """
    )
    assert (("a", "1") in pairs_of(data.split.train)) is not noted
    assert any(note.startswith("1 interactions were left out because") for note in data.split.notes) is noted


def test_attributes_of_nobody_are_refused(write: Write) -> None:
    write("own.csv", "user,item\na,x\na,y\nb,x\nb,z\n")
    write("people.csv", "gender\nM\nF\n")
    with pytest.raises(
        DataError, match=r"no id in column 'gender' occurs .* \(the first is 'M'\); call the column .* 'user'"
    ):
        loaded('path = "own.csv"\nusers = "people.csv"\nsplit = { kind = "leave-one-out", order = "random" }')


def test_attributes_with_gaps_are_noted(write: Write) -> None:
    rows = "".join(f"{user},{item}\n" for user in "abc" for item in "xyz")
    write("own.csv", "user,item\n" + rows)
    write("people.csv", "user,gender,age\na,F,1\nb,,2\nc,M,3\n")
    write("movies.csv", "item,genres\nx,War\ny,Drama\n")
    notes = loaded('path = "own.csv"\nusers = "people.csv"\nitems = "movies.csv"').split.notes
    assert notes[-2:] == ("gender is known of 2 of 3 users", "genres is known of 2 of 3 items")


def test_a_split_may_have_a_seed_of_its_own(write: Write) -> None:
    rows = "".join(f"{user},{item}\n" for user in range(9) for item in range(9))
    write("own.csv", "user,item\n" + rows)
    text = 'path = "own.csv"\nsplit = { kind = "leave-one-out", order = "random", seed = 7 }'
    first, second = loaded(text, 0), loaded(text, 1)
    assert (first.seed, second.seed) == (7, 7)
    assert pairs_of(first.split.test) == pairs_of(second.split.test)
    free = loaded(text.replace(", seed = 7", ""), 0)
    assert free.seed == 0
    assert pairs_of(free.split.test) != pairs_of(first.split.test)
    assert pairs_of(loaded(text.replace(", seed = 7", ""), 7).split.test) == pairs_of(first.split.test)
