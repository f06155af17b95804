"""Groups of users, what lies between them, and the unluckiest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import ConfigError, DataError
from fedrec.evaluation import fairness

from .small import split_of

values_of_users = st.lists(st.floats(0, 1), min_size=1, max_size=40).map(lambda v: torch.tensor(v, dtype=torch.float64))


def test_group_means_by_hand() -> None:
    values, codes = torch.tensor([1.0, 0.0, 0.5, 0.25, 9.0]), torch.tensor([0, 0, 2, 2, -1])
    means, sizes = fairness.group_means(values, codes, 3)
    assert sizes.tolist() == [2, 0, 2]
    assert means[[0, 2]].tolist() == [0.5, 0.375]
    assert means[1].isnan()


def test_between_groups_by_hand() -> None:
    means = torch.tensor([0.2, 0.5, 0.4], dtype=torch.float64)
    assert fairness.gap(means) == pytest.approx(0.3, abs=1e-15)
    assert fairness.worst_group(means) == 0.2
    assert fairness.ratio(means) == 0.4
    assert fairness.ratio(torch.zeros(2)) == 1.0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_between_groups_ignores_their_order_and_knows_equality(means: list[float]) -> None:
    one, other = torch.tensor(means, dtype=torch.float64), torch.tensor(means[::-1], dtype=torch.float64)
    for of in fairness.BETWEEN_GROUPS.values():
        assert of(one) == of(other)
        assert 0 <= of(one) <= 1
    equal = torch.full((3,), means[0], dtype=torch.float64)
    assert fairness.gap(equal) == 0.0
    assert fairness.ratio(equal) == 1.0


@pytest.mark.parametrize("name", fairness.BETWEEN_GROUPS)
def test_one_group_cannot_be_compared(name: str) -> None:
    with pytest.raises(DataError, match="1 groups cannot be compared"):
        fairness.BETWEEN_GROUPS[name](torch.tensor([0.5]))


def test_over_users_by_hand() -> None:
    values = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert fairness.coefficient_of_variation(values) == 0.5
    assert fairness.coefficient_of_variation(torch.zeros(4)) == 0.0
    many = torch.arange(20.0).flip(0)
    assert fairness.worst_decile(many) == 0.5  # of 20 users the worst two: 0 and 1
    assert fairness.worst_decile(torch.arange(21.0)) == 1.0  # a started tenth counts: 0, 1 and 2
    assert fairness.worst_decile(torch.tensor([0.75])) == 0.75


@given(values_of_users)
def test_over_users_laws(values: torch.Tensor) -> None:
    assert float(values.min()) <= fairness.worst_decile(values) <= float(values.mean()) + 1e-12
    assert fairness.worst_decile(values.flip(0)) == fairness.worst_decile(values)
    spread = fairness.coefficient_of_variation(values)
    assert 0 <= spread <= max(len(values) - 1, 0) ** 0.5 + 1e-6
    assert fairness.coefficient_of_variation(values * 4) == pytest.approx(spread, abs=1e-9)


def test_age_bands_of_numbers_and_of_text() -> None:
    column = pd.Series([7, 17, 18, 24, 25, 35, 45, 49, 50, 55, 56, 99, None, -3], name="age")
    groups = fairness.age_bands(column)
    assert groups.labels == ("0-17", "18-24", "25-34", "35-44", "45-49", "50-55", "56+")
    assert groups.codes.tolist() == [0, 0, 1, 1, 2, 3, 4, 4, 5, 5, 6, 6, -1, -1]
    assert fairness.age_bands(pd.Series(["23", "unknown", "60"], name="age")).codes.tolist() == [1, -1, 6]


def test_bands_given_as_text_are_taken_as_they_stand() -> None:
    groups = fairness.age_bands(pd.Series(["young", "old", "young"], name="age"))
    assert groups.labels == ("old", "young")
    assert groups.codes.tolist() == [1, 0, 1]


def test_column_groups_leave_out_what_is_missing() -> None:
    groups = fairness.column_groups(pd.Series(["M", None, "F", float("nan"), "M"], name="gender"))
    assert (groups.name, groups.labels) == ("gender", ("F", "M"))
    assert groups.codes.tolist() == [1, -1, 0, -1, 1]


def test_terciles_by_hand() -> None:
    everyone = torch.ones(6, dtype=torch.bool)
    assert fairness.terciles(torch.tensor([6, 1, 5, 2, 4, 3]), everyone).tolist() == [2, 0, 2, 0, 1, 1]
    assert fairness.terciles(torch.tensor([1, 1, 1, 1, 1, 9]), everyone).tolist() == [0, 0, 0, 0, 0, 2]
    some = torch.tensor([True, False, True, True])
    assert fairness.terciles(torch.tensor([7, 0, 8, 9]), some).tolist() == [0, -1, 1, 2]
    assert fairness.terciles(torch.tensor([7]), torch.tensor([False])).tolist() == [-1]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_terciles_are_monotone_and_equal_up_to_ties(numbers: list[int]) -> None:
    values = torch.tensor(numbers)
    codes = fairness.terciles(values, torch.ones(len(numbers), dtype=torch.bool))
    assert (codes[values.argsort()].diff() >= 0).all()
    assert int((codes == 0).sum()) >= len(numbers) / 3
    if len(set(numbers)) == len(numbers):
        assert torch.bincount(codes, minlength=3).max() <= -(-len(numbers) // 3)


def test_user_groups_are_what_is_known() -> None:
    train = split_of(3, 4, [(0, 0), (1, 0), (1, 1)], [], [], users={"age": [20, 30, 70], "job": ["a", "b", "a"]}).train
    assert [groups.name for groups in fairness.user_groups(train)] == ["age", "activity"]
    activity = fairness.user_groups(train, ["activity"])[0]
    assert activity.labels == ("low", "middle", "high")
    assert activity.codes.tolist() == [0, 1, -1]  # the last user has no training interaction
    assert fairness.user_groups(train, ["job"])[0].codes.tolist() == [0, 1, 0]


def test_a_column_of_activity_comes_before_the_computed_one() -> None:
    train = split_of(2, 2, [(0, 0), (1, 0)], [], [], users={"activity": ["rare", "often"]}).train
    assert fairness.user_groups(train, ["activity"])[0].labels == ("often", "rare")


def test_an_unknown_column_names_the_nearest() -> None:
    train = split_of(1, 1, [(0, 0)], [], [], users={"gender": ["F"]}).train
    with pytest.raises(ConfigError, match="no user column 'gendre'; did you mean 'gender'"):
        fairness.user_groups(train, ["gendre"])


def test_a_column_of_identifiers_is_refused() -> None:
    with pytest.raises(ConfigError, match="'zip' has 101 values"):
        fairness.column_groups(pd.Series(np.arange(101), name="zip"))


def test_a_node_numbers_groups_as_the_federation_does() -> None:
    """It has women and a user of another value; age comes in bands whatever ages occur."""
    labels = fairness.group_labels({"gender": ("M", "F"), "age": ("17", "18", "60"), "city": ("a",)})
    assert labels["gender"] == ("F", "M")
    own = pd.DataFrame({"gender": ["M", None, "x"], "age": [18, 60, None]})
    coded = fairness.coded_groups(own, labels)
    assert {name: codes.tolist() for name, codes in coded.items()} == {"gender": [1, -1, -1], "age": [1, 6, -1]}
    everyone = pd.DataFrame({"gender": ["F", "M", None, "M"], "age": [17, 18, 60, 60]})
    train = split_of(4, 2, [(0, 0), (1, 0), (2, 1), (3, 1)], [], []).train
    whole = fairness.user_groups(replace(train, user_attributes=everyone), ("gender", "age"))
    for grouping in whole:
        assert grouping.labels == labels[grouping.name]
        assert grouping.codes.tolist() == fairness.coded_groups(everyone, labels)[grouping.name].tolist()
