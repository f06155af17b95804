"""Vocabularies, interactions and their fingerprint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.data import Interactions, Vocabulary
from fedrec.errors import DataError

from .conftest import interactions_of


def test_whole_numbers_sort_by_value_and_other_ids_by_text() -> None:
    assert Vocabulary.of(["10", "9", "9"]).ids == ("9", "10")
    assert Vocabulary.of(["10", "9", "a"]).ids == ("10", "9", "a")


@given(st.lists(st.text(), min_size=1))
def test_encoding_and_decoding_are_inverse(ids: list[str]) -> None:
    vocabulary = Vocabulary.of(ids)
    assert list(vocabulary.decode(vocabulary.encode(ids))) == ids
    assert Vocabulary.of(ids[::-1]).ids == vocabulary.ids


def test_an_unknown_id_has_no_code() -> None:
    assert Vocabulary.of(["a", "b"]).encode(["b", "c"]).tolist() == [1, -1]


def test_csr_by_hand() -> None:
    indptr, items = interactions_of(("b", "z"), ("a", "y"), ("b", "x")).csr
    assert indptr.tolist() == [0, 1, 3]  # a: y; b: x, z
    assert items.tolist() == [1, 0, 2]


def test_csr_refuses_a_repeated_pair() -> None:
    with pytest.raises(DataError, match="1 user-item pairs occur more than once"):
        _ = interactions_of(("a", "x"), ("a", "x")).csr


def test_the_fingerprint_sees_every_column_and_the_order() -> None:
    data = interactions_of(("a", "x", 1.0), ("b", "y", 2.0))
    others = [
        interactions_of(("b", "y", 2.0), ("a", "x", 1.0)),
        interactions_of(("a", "x", 1.0), ("b", "y", 3.0)),
        interactions_of(("a", "x", 1.0), ("b", "x", 2.0)),
        interactions_of(("a", "x"), ("b", "y")),
        replace(data, rating=np.array([1.0, 2.0])),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_the_fingerprint_does_not_see_codes() -> None:
    data = interactions_of(("a", "x"), ("b", "y"))
    wider = Interactions(
        user=np.array([1, 2]),
        item=np.array([0, 2]),
        users=Vocabulary(("0", "a", "b")),
        items=Vocabulary(("x", "w", "y")),
    )
    assert wider.fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"item": np.array([0])}, "1 item codes for 2 users"),
        ({"user": np.array([0, 2])}, r"user codes must lie in \[0, 2\)"),
        ({"rating": np.array([1.0])}, "1 values of rating for 2 interactions"),
        ({"user_attributes": pd.DataFrame({"age": [1]})}, "user_attributes has 1 rows"),
    ],
)
def test_columns_that_do_not_fit_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        replace(interactions_of(("a", "x"), ("b", "y")), **changes)
