"""What cleaning leaves out, and what it says about it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data import CleaningConfig, RawInteractions, clean, clean_parts, drop_unused, k_core
from fedrec.errors import ConfigError, DataError

from .conftest import interactions_of, pairs_of, raw_of

codes = st.integers(0, 7)
pairs = st.sets(st.tuples(codes, codes), max_size=40)


def test_clean_rows_pass_in_file_order() -> None:
    data, report = clean(raw_of(("b", "y", "5", "2"), ("a", "x", "1", "9"), ("b", "x", "2.5", "1")))
    assert pairs_of(data) == [("b", "y"), ("a", "x"), ("b", "x")]
    assert data.rating is not None
    assert data.time is not None
    assert data.rating.tolist() == [5, 1, 2.5]
    assert data.time.tolist() == [2, 9, 1]
    assert [step.rows_after for step in report.steps] == [3, 3]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (("a", "x", "five", "1"), "ratings.csv, line 4: rating 'five' is not a finite number"),
        (("a", "x", "nan", "1"), "ratings.csv, line 4: rating 'nan' is not a finite number"),
        (("a", "x", "-inf", "1"), "ratings.csv, line 4: rating '-inf' is not a finite number"),
        (("a", "x", None, "1"), "ratings.csv, line 4: the rating is missing"),
        (("a", "x", "1", "noon"), "ratings.csv, line 4: time 'noon' is neither a finite number nor"),
        ((None, "x", "1", "1"), "ratings.csv, line 4: the user is missing"),
        (("a", None, "1", "1"), "ratings.csv, line 4: the item is missing"),
    ],
)
def test_an_invalid_row_is_an_error_or_dropped(row: tuple[object, ...], complaint: str) -> None:
    raw = raw_of(("a", "y", "1", "1"), ("b", "x", "1", "1"), row, ("c", "x", "oops", "1"))
    with pytest.raises(DataError, match=complaint) as caught:
        clean(raw)
    assert str(caught.value).endswith("drop such rows with clean = { invalid = 'drop' }")
    data, report = clean(raw, CleaningConfig(invalid="drop"))
    assert pairs_of(data) == [("a", "y"), ("b", "x")]
    assert (report.steps[0].rows_before, report.steps[0].rows_after) == (4, 2)
    assert str(report).startswith("ratings.csv: invalid rows: 2 dropped, 2 rows of 2 users and 2 items left\n")


def test_infinite_numbers_of_a_typed_column_are_invalid() -> None:
    rows = pd.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "rating": [1.0, np.inf]})
    with pytest.raises(DataError, match="box, row 1: rating 'inf' is not a finite number"):
        clean(RawInteractions("box", rows.rename_axis("row")))


def test_dates_become_unix_seconds() -> None:
    rows = [("a", "x", "1", "1970-01-02"), ("b", "x", "1", "1970-01-01T00:00:01.5Z")]
    text, _ = clean(raw_of(*rows))
    typed = raw_of(*rows).rows.assign(time=pd.to_datetime(["1970-01-02", "1970-01-01T00:00:01.5"], format="ISO8601"))
    assert text.time is not None
    assert text.time.tolist() == [86400, 1.5]
    assert clean(RawInteractions("box", typed))[0].fingerprint == text.fingerprint


def test_times_that_floats_cannot_tell_apart_are_refused() -> None:
    times = [1_700_000_000_000_000_000 + late for late in (100, 50, 0)]
    raw = raw_of(*(("a", f"i{row}", 1, time) for row, time in enumerate(times)))
    with pytest.raises(DataError, match=r"time 1700000000000000100 has more digits than are kept.*give milliseconds"):
        clean(raw)


def test_min_rating_keeps_the_threshold_itself() -> None:
    raw = raw_of(("a", "x", "3.9"), ("a", "y", "4"), ("b", "x", "5"), ("c", "x", "1"))
    data, report = clean(raw, CleaningConfig(min_rating=4))
    assert pairs_of(data) == [("a", "y"), ("b", "x")]
    assert data.users.ids == ("a", "b")  # c has nothing left
    assert report.steps[1].reason == "rated below 4"
    assert (report.steps[1].users, report.steps[1].items) == (2, 2)


def test_min_rating_needs_ratings() -> None:
    with pytest.raises(DataError, match=r"min_rating = 4 and no column of ratings; name it with columns"):
        clean(raw_of(("a", "x"), ("b", "x")), CleaningConfig(min_rating=4))


def test_of_repeated_pairs_the_first_or_the_last_in_time_is_kept() -> None:
    raw = raw_of(("a", "x", "1", "20"), ("b", "x", "2", "0"), ("a", "x", "3", "10"), ("a", "x", "4", "20"))
    last, _ = clean(raw)
    first, _ = clean(raw, CleaningConfig(duplicates="first"))
    assert last.rating is not None
    assert first.rating is not None
    assert last.rating.tolist() == [2, 4]  # two at time 20: the later one in the file
    assert first.rating.tolist() == [2, 3]


def test_of_repeated_pairs_without_times_file_order_decides() -> None:
    raw = raw_of(("a", "x", "1"), ("b", "x", "2"), ("a", "x", "3"))
    kept = {keep: clean(raw, CleaningConfig(duplicates=keep))[0].rating for keep in ("first", "last")}
    assert {keep: None if rating is None else rating.tolist() for keep, rating in kept.items()} == {
        "first": [1, 2],
        "last": [2, 3],
    }
    with pytest.raises(DataError, match="user 'a' and item 'x' occur together more than once"):
        clean(raw, CleaningConfig(duplicates="error"))


def test_a_low_rating_does_not_cancel_a_high_one() -> None:
    raw = raw_of(("a", "x", "5"), ("a", "x", "1"), ("b", "x", "5"))
    assert len(clean(raw, CleaningConfig(min_rating=4))[0]) == 2


def test_outliers_are_users_above_the_limit() -> None:
    raw = raw_of(("a", "x"), ("a", "y"), ("a", "z"), ("b", "x"), ("b", "y"), ("c", "x"))
    data, report = clean(raw, CleaningConfig(max_interactions=2))
    assert data.users.ids == ("b", "c")
    assert report.steps[-1].reason == "users with more than 2 interactions"


def test_k_core_by_hand() -> None:
    # z falls first, then c (who loses z), then nothing: a and b hold x and y twice each.
    data, _ = clean(
        raw_of(("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "x"), ("c", "z")), CleaningConfig(k_core=2)
    )
    assert pairs_of(data) == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]


@given(pairs, st.integers(1, 4))
@settings(deadline=None)
def test_k_core_is_the_largest_set_with_its_property(edges: set[tuple[int, int]], k: int) -> None:
    user, item = np.array(sorted(edges), dtype=np.int64).reshape(-1, 2).T
    keep = k_core(user, item, k)
    rest = set(edges)
    while True:  # one edge at a time, in any order: the core is unique
        poor = [(u, i) for u, i in rest if sum(v == u for v, _ in rest) < k or sum(j == i for _, j in rest) < k]
        if not poor:
            break
        rest.remove(poor[0])
    assert set(zip(user[keep].tolist(), item[keep].tolist(), strict=True)) == rest


@pytest.mark.parametrize("rows", [[("a", "x", "1")], [("a", "x", "1"), ("a", "y", "1")]])
def test_a_single_user_is_refused(rows: list[tuple[object, ...]]) -> None:
    with pytest.raises(DataError, match=r"ratings\.csv: cleaning leaves 1 of the at least two users"):
        clean(raw_of(*rows))


def test_cleaning_everything_away_is_refused() -> None:
    with pytest.raises(DataError, match="cleaning leaves 0 of the at least two users"):
        clean(raw_of(("a", "x", "1"), ("b", "y", "1")), CleaningConfig(min_rating=2))
    with pytest.raises(DataError, match="cleaning leaves 0 of the at least two users"):
        clean(raw_of(("a", "x", "no"), ("b", "y", "no")), CleaningConfig(invalid="drop"))


def test_parts_share_vocabularies_and_a_part_of_positives_passes_the_threshold() -> None:
    train, test = raw_of(("b", "x"), ("a", "y"), ("a", "y")), raw_of(("b", "z", "1"), ("c", "x", "0"))
    parts, report = clean_parts([train, test], CleaningConfig(min_rating=1))
    assert [pairs_of(part) for part in parts] == [[("b", "x"), ("a", "y")], [("b", "z")]]
    assert parts[0].users is parts[1].users
    assert parts[0].users.ids == ("a", "b")
    assert parts[0].items.ids == ("x", "y", "z")
    assert [step.rows_before - step.rows_after for step in report.steps] == [0, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("config", [CleaningConfig(k_core=2), CleaningConfig(max_interactions=5)])
def test_a_given_split_keeps_its_users_and_items(config: CleaningConfig) -> None:
    with pytest.raises(ConfigError, match="remove max_interactions and k_core"):
        clean_parts([raw_of(("a", "x"), ("b", "x"))] * 2, config)


def test_drop_unused_keeps_ids_attributes_and_order() -> None:
    data = interactions_of(("c", "z"), ("a", "y"), ("b", "x"))
    (kept,) = drop_unused([data.take(np.array([0, 1]))])
    assert pairs_of(kept) == [("c", "z"), ("a", "y")]
    assert (kept.users.ids, kept.items.ids) == (("a", "c"), ("y", "z"))
