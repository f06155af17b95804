from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.report import wording


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("ndcg@10", "NDCG@10"),
        ("hit-rate@20", "Hit rate@20"),
        ("intra-list-diversity@10", "Intra-list diversity@10"),
        ("ndcg@10-worst-group", "Worst group, NDCG@10"),
        ("my-own", "My own"),
        ("ndcg@10-sampled-99", "NDCG@10 of 99 sampled"),
        ("ndcg@10-sampled-99-gap", "Gap, NDCG@10 of 99 sampled"),
    ],
)
def test_title(name: str, title: str) -> None:
    assert wording.title(name) == title


def test_arrows_follow_the_orientation_of_the_metric() -> None:
    assert [wording.arrow(name) for name in ("ndcg@10", "gini@10", "ndcg@10-gap", "popularity-lift@10", "own@3")] == [
        "↑",
        "↓",
        "↓",
        "",
        "",
    ]
    assert wording.better("gini@10") == " (smaller is better)"


def test_the_best_is_the_largest_or_the_smallest() -> None:
    values = {"a": 0.1, "b": 0.3, "c": 0.2}
    assert wording.best("ndcg@10", values) == {"b"}
    assert wording.best("gini@10", values) == {"a"}


def test_equals_share_the_first_place_as_far_as_a_reader_can_see() -> None:
    assert wording.best("ndcg@10", {"a": 0.30001, "b": 0.30002, "c": 0.2}) == {"a", "b"}


def test_nothing_is_best_alone_or_by_a_descriptive_metric_or_an_unknown_one() -> None:
    assert wording.best("ndcg@10", {"a": 0.1}) == set()
    assert wording.best("popularity-lift@10", {"a": 0.1, "b": 0.2}) == set()
    assert wording.best("own@3", {"a": 0.1, "b": 0.2}) == set()


def test_numbers() -> None:
    assert [wording.number(x) for x in (0.06471, 0.0, 1.0, 9.712, 12345.6)] == [
        "0.0647",
        "0.0000",
        "1.0000",
        "9.71",
        "12,346",
    ]
    assert wording.signed(-0.0123) == "−0.0123"
    assert wording.signed(0.0123) == "+0.0123"
    assert wording.interval(-0.01, 0.02) == "[−0.0100, 0.0200]"
    assert [wording.p_value(p) for p in (0.0009, 0.001, 0.0421, 0.2213)] == ["< 0.001", "0.001", "0.042", "0.22"]
    assert [wording.p_equals(p) for p in (0.0009, 0.0421)] == ["p < 0.001", "p = 0.042"]
    assert [wording.duration(s) for s in (0.44, 59.94, 59.96, 96.5, 3725)] == [
        "0.4 s",
        "59.9 s",
        "1 min 00 s",
        "1 min 36 s",
        "1 h 02 min",
    ]
    assert [wording.megabytes(m) for m in (0.0, 0.00086, 11.4, 1234.5)] == ["0", "0.9 kB", "11.40 MB", "1,234 MB"]
    assert [wording.plural(n, "arm") for n in (1, 2, 1000)] == ["1 arm", "2 arms", "1,000 arms"]
    assert wording.moment("2025-03-01T09:04:12+00:00") == "2025-03-01 09:04 UTC"


@given(st.floats(min_value=1e-6, max_value=300))
def test_epsilon_is_never_said_to_be_smaller_than_it_is(epsilon: float) -> None:
    assert epsilon <= float(wording.epsilon(epsilon)) <= epsilon + 0.011


def test_settings_are_written_as_in_a_configuration() -> None:
    settings = {"dim": 8, "on": True, "k": [5, 10], "stopping": {"every": 5, "patience": 2}}
    assert wording.setting(settings) == "dim = 8, on = true, k = [5, 10], stopping = { every = 5, patience = 2 }"
    assert wording.setting(0.5) == "0.5"
