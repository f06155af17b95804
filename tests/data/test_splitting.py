"""What is held out, by which order, and what the notes say."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data import Given, GlobalTime, Interactions, LeaveOneOut, Ratio, Split, split, split_given
from fedrec.errors import DataError
from fedrec.streams import Streams

from .conftest import interactions_of, pairs_of

STREAMS = Streams(seed=0)
RANDOM = [LeaveOneOut(order="random"), Ratio(valid=0.2, test=0.3, order="random")]

pairs = st.sets(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=12)


def parts_of(parts: Split) -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[tuple[str, str]]]:
    return pairs_of(parts.train), pairs_of(parts.valid), pairs_of(parts.test)


def data_of(edges: set[tuple[int, int]]) -> Interactions:
    """Interactions of at least two users with three of them each."""
    fixed = {(user, item) for user in (90, 91) for item in (0, 1, 2)}
    return interactions_of(*((str(user), str(item)) for user, item in sorted(edges | fixed)))


def test_leave_one_out_takes_the_last_two_and_ties_keep_file_order() -> None:
    data = interactions_of(("a", "w", 3), ("b", "x", 1), ("a", "z", 3), ("a", "x", 1), ("b", "y", 1), ("b", "z", 1))
    parts = split(data, LeaveOneOut(), STREAMS)
    assert parts_of(parts) == ([("b", "x"), ("a", "x")], [("a", "w"), ("b", "y")], [("a", "z"), ("b", "z")])
    assert "by time, 3 ties by file order" in parts.notes[0]


def test_a_user_of_one_is_dropped_and_a_user_of_two_has_no_validation_item() -> None:
    data = interactions_of(
        ("one", "q", 1), *(("two", item, 1) for item in "xy"), *(("six", item, 1) for item in "xyzuvw")
    )
    parts = split(data, LeaveOneOut(), STREAMS)
    assert parts.train.users.ids == ("six", "two")
    assert parts.train.items.ids == ("u", "v", "w", "x", "y", "z")  # q went with its only user
    assert parts_of(parts)[1:] == ([("six", "v")], [("two", "y"), ("six", "w")])
    assert parts.notes[1].startswith("1 users with a single interaction are dropped")
    assert parts.notes[2].startswith("1 users with two interactions have one for training, one for testing")


def test_leave_one_out_without_timestamps_is_random_and_says_so() -> None:
    data = interactions_of(*((user, str(item)) for user in "abcdefgh" for item in range(9)))
    parts = split(data, LeaveOneOut(), STREAMS)
    assert "in random order, because there are no timestamps" in parts.notes[0]
    assert parts_of(parts) == parts_of(split(data, LeaveOneOut(order="random"), STREAMS))
    assert len({item for _, item in pairs_of(parts.test)}) > 1  # not the last of the file
    assert parts_of(parts) != parts_of(split(data, LeaveOneOut(), Streams(seed=1)))


def test_random_order_is_uniform() -> None:
    # 2,000 users of four items: each item is the test item of 500 ± 19; five deviations is a false alarm in 10^6.
    data = interactions_of(*((str(user), item) for user in range(2000) for item in "abcd"))
    counts = split(data, LeaveOneOut(order="random"), STREAMS).test.item_degrees
    assert np.abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_ratio_rounds_halves_up_and_leaves_something_to_train_on() -> None:
    data = interactions_of(
        *(("five", item, time) for time, item in enumerate("abcde")),
        *(("two", item, time) for time, item in enumerate("ab")),
        ("one", "a", 0),
    )
    parts = split(data, Ratio(valid=0.3, test=0.5), STREAMS)
    # five: test 2.5 -> 3, valid 1.5 -> 2, of which one is left; two: test 1, valid .6 -> 1, of which none is left.
    assert pairs_of(parts.test) == [("five", "c"), ("five", "d"), ("five", "e"), ("two", "b")]
    assert pairs_of(parts.valid) == [("five", "b")]
    assert pairs_of(parts.train) == [("five", "a"), ("two", "a"), ("one", "a")]


def test_global_time_by_value_and_by_quantile() -> None:
    data = interactions_of(*((user, str(time), time) for time in range(1, 11) for user in "ab"))
    by_value = split(data, GlobalTime(valid_from=8, test_from=10), STREAMS)
    assert by_value.train.time is not None
    assert by_value.train.time.max() == 7
    assert by_value.test.time is not None
    assert by_value.test.time.tolist() == [10, 10]
    by_quantile = split(data, GlobalTime(valid_from=0.7, test_from=0.9), STREAMS)
    assert parts_of(by_quantile) == parts_of(by_value)
    assert by_quantile.notes[0] == "valid begins at time 8, test at 10"
    assert by_quantile.notes[1] == ("0 users and 2 items of valid do not occur in train, in 4 of its 4 interactions")


def test_global_time_needs_timestamps() -> None:
    with pytest.raises(DataError, match=r"needs timestamps and the data has none; name their column"):
        split(interactions_of(("a", "x"), ("b", "y")), GlobalTime(), STREAMS)


@pytest.mark.parametrize(
    ("model", "settings", "complaint"),
    [
        (Ratio, {"valid": 0.5, "test": 0.5}, "add up to less than 1"),
        (GlobalTime, {"valid_from": 0.9, "test_from": 0.8}, "must not be after"),
        (GlobalTime, {"valid_from": 0.9, "test_from": 1000}, "two quantiles below 1, or two timestamps"),
        (LeaveOneOut, {"order": "alphabet"}, "order"),
    ],
)
def test_settings_that_make_no_split_are_refused(
    model: type[Ratio], settings: dict[str, float | str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        model.model_validate(settings)


@given(pairs, st.sampled_from([LeaveOneOut(), Ratio(), *RANDOM]))
@settings(deadline=None, max_examples=40)
def test_parts_are_disjoint_and_complete(edges: set[tuple[int, int]], config: LeaveOneOut | Ratio) -> None:
    data = data_of(edges)
    parts = split(data, config, STREAMS)
    together = [pair for part in parts_of(parts) for pair in part]
    assert len(together) == len(set(together))
    lonely = (
        set(data.users.decode(np.flatnonzero(data.user_degrees == 1))) if isinstance(config, LeaveOneOut) else set()
    )
    assert set(together) == {pair for pair in pairs_of(data) if pair[0] not in lonely}
    assert {user for user, _ in together} == {user for user, _ in pairs_of(parts.train)}


@given(pairs, st.randoms(use_true_random=False), st.sampled_from(RANDOM))
@settings(deadline=None, max_examples=40)
def test_random_choices_depend_on_no_order_and_on_no_other_user(
    edges: set[tuple[int, int]], random: Random, config: LeaveOneOut | Ratio
) -> None:
    data = data_of(edges)
    rows = list(range(len(data)))
    random.shuffle(rows)
    expected = [set(part) for part in parts_of(split(data, config, STREAMS))]
    assert [set(part) for part in parts_of(split(data.take(np.array(rows)), config, STREAMS))] == expected
    fewer = interactions_of(*((user, item) for user, item in pairs_of(data) if user in ("90", "91")))
    alone = [set(part) for part in parts_of(split(fewer, config, STREAMS))]
    assert alone == [{pair for pair in part if pair[0] in ("90", "91")} for part in expected]


def given_parts(*parts: list[tuple[str, str]]) -> list[Interactions]:
    """Parts over the vocabularies of them all."""
    everything = interactions_of(*(pair for part in parts for pair in part))
    starts = np.cumsum([0, *(len(part) for part in parts)])
    return [everything.take(np.arange(start, stop)) for start, stop in pairwise(starts)]


def test_a_pair_stays_in_the_earliest_part_it_occurs_in() -> None:
    train = [("a", "x"), ("b", "x"), ("b", "y")]
    valid = [("a", "x"), ("a", "z")]
    test = [("b", "y"), ("a", "z"), ("c", "w")]
    parts = split_given(given_parts(train, valid, test), Given(), STREAMS)
    assert parts_of(parts) == (train, [("a", "z")], [("c", "w")])
    assert parts.notes == (
        "the split is given by files",
        "1 pairs of valid occurred in an earlier part and are dropped from valid",
        "2 pairs of test occurred in an earlier part and are dropped from test",
        "0 users and 1 items of valid do not occur in train, in 1 of its 1 interactions",
        "1 users and 1 items of test do not occur in train, in 1 of its 1 interactions",
    )


def test_without_a_validation_file_a_share_of_train_is_drawn() -> None:
    train = [(user, str(item)) for user in ("a", "b") for item in range(20)]
    test = [("a", "99")]
    parts = split_given(given_parts(train, test), Given(valid_share=0.1), STREAMS)
    assert parts.valid.user_degrees.tolist() == [2, 2]
    assert parts.train.user_degrees.tolist() == [18, 18]
    assert set(pairs_of(parts.train)) | set(pairs_of(parts.valid)) == set(train)
    assert any(note.startswith("valid is a random share of 0.1 of each user's training file") for note in parts.notes)
    none = split_given(given_parts(train, test), Given(valid_share=0), STREAMS)
    assert parts_of(none) == (train, [], test)
    assert none.refitted is None
    assert not any(note.startswith("valid is") for note in none.notes)


def test_the_whole_is_train_and_valid_in_file_order() -> None:
    train = [(user, str(item)) for user in ("a", "b") for item in range(20)]
    parts = split_given(given_parts(train, [("a", "99")]), Given(valid_share=0.5), STREAMS)
    assert parts.refitted is not None
    assert parts_of(parts.refitted) == (train, [], [("a", "99")])
    assert any("has learnt from the whole file" in note for note in parts.notes)
    assert split_given(given_parts(train, [("a", "99")]), Given(refit=False), STREAMS).refitted is None
    with_valid = given_parts(train, [("b", "99")], [("a", "99")])
    assert split_given(with_valid, Given(), STREAMS).refitted is None  # published validation items stay held out


def test_nothing_to_train_on_or_to_test_on_is_refused() -> None:
    with pytest.raises(DataError, match="the split leaves nothing to test on"):
        split_given(given_parts([("a", "x"), ("b", "y")], [("a", "x")]), Given(), STREAMS)
    with pytest.raises(DataError, match="the split leaves 1 of the at least two users that training needs"):
        split(interactions_of(("a", "x"), ("b", "x"), ("b", "y")), LeaveOneOut(), STREAMS)
