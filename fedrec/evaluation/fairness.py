"""Whom the accuracy goes to: means of groups of users, what lies between them, and the unluckiest users.

Everything here takes values of which larger is better, one a user, such as NDCG.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError, DataError, did_you_mean

MIN_GROUP = 20
"""Groups of fewer evaluated users are reported and left out of gap, worst group and ratio: they measure noise."""

MAX_GROUPS = 100
"""A column with more values than this (a zip code, an id) is no grouping of users."""

ACTIVITY = "activity"
"""The column that always exists: tercile of the number of training interactions."""

_AGE_BANDS = {0: "0-17", 18: "18-24", 25: "25-34", 35: "35-44", 45: "45-49", 50: "50-55", 56: "56+"}


@dataclass(frozen=True, eq=False)
class Groups:
    """A partition of users by one column.

    Attributes:
        name: of the column.
        labels: of the groups, in the order that they are shown in.
        codes: [users] int64 position in `labels`; -1 for a user of whom it is unknown.
    """

    name: str
    labels: tuple[str, ...]
    codes: Tensor


def user_groups(train: Interactions, columns: Sequence[str] | None = None) -> tuple[Groups, ...]:
    """The groupings of all users by user columns of the training part.

    Args:
        train: its user attributes are the columns; a numeric `age` is banded, and `activity` is the tercile of the
            number of training interactions among users who have any.
        columns: their names, or None for gender and age, where known, and activity.

    Raises:
        ConfigError: if a column does not exist or has more than `MAX_GROUPS` values.
    """
    table = train.user_attributes
    if columns is None:
        columns = [name for name in ("gender", "age") if name in table.columns] + [ACTIVITY]
    return tuple(_groups(train, table, name) for name in columns)


def _groups(train: Interactions, table: pd.DataFrame, name: str) -> Groups:
    if name in table.columns:
        return _column(table[name])
    if name == ACTIVITY:
        degrees = torch.from_numpy(train.user_degrees)
        return Groups(ACTIVITY, ("low", "middle", "high"), terciles(degrees, degrees > 0))
    known = [str(column) for column in table.columns] + [ACTIVITY]
    raise ConfigError(f"evaluation.groups: no user column '{name}'; {did_you_mean(name, known)}")


def _column(column: pd.Series) -> Groups:
    return age_bands(column) if column.name == "age" else column_groups(column)


def column_groups(column: pd.Series) -> Groups:
    """Users by the values of a column, in sorted order; a missing value is unknown."""
    codes, values = pd.factorize(column.astype("str").where(column.notna()), sort=True)
    if len(values) > MAX_GROUPS:
        raise ConfigError(
            f"evaluation.groups: user column '{column.name}' has {len(values)} values and at most {MAX_GROUPS} make "
            "groups; band it in the user file"
        )
    return Groups(str(column.name), tuple(str(value) for value in values), torch.from_numpy(codes.astype("int64")))


def age_bands(column: pd.Series) -> Groups:
    """Users by MovieLens' age bands: 0-17, 18-24, 25-34, 35-44, 45-49, 50-55, 56+.

    The lower bounds are those that MovieLens-1M stores in place of an age, so that its users fall into their own bands.

    Args:
        column: years, as numbers or text; what is not a number from 0 upwards is unknown. A column without any number
            (bands given as text) is taken as it stands.
    """
    years = pd.to_numeric(column, errors="coerce")
    if years.isna().all():
        return column_groups(column)
    bounds = torch.tensor(list(_AGE_BANDS), dtype=torch.float64)
    ages = torch.tensor(years.to_numpy("float64", na_value=float("nan")))
    codes = torch.bucketize(ages, bounds, right=True) - 1
    return Groups(str(column.name), tuple(_AGE_BANDS.values()), codes.where(ages >= 0, -1))


def group_labels(values: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The labels of the groups that user columns make: the values of each column, in sorted order, and bands of age.

    Args:
        values: by column, the values that may occur in it.
    """
    return {name: _column(pd.Series(list(of_column), name=name)).labels for name, of_column in values.items()}


def coded_groups(table: pd.DataFrame, labels: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """The groups of some users by labels that are agreed on, whatever values occur among these users.

    A node of a federation knows the values of its own users only, and would number groups in a way of its own.

    Args:
        table: user attributes, one row a user.
        labels: by attribute, the labels of its groups, as `group_labels` has them.

    Returns:
        By attribute that the table has, [users] int64 position in its labels; -1 where the value is unknown or none.
    """
    coded = {}
    for name, of_column in labels.items():
        if name in table.columns:
            grouping = _column(table[name])
            places = {label: place for place, label in enumerate(of_column)}
            known = torch.tensor([*(places.get(label, -1) for label in grouping.labels), -1])
            coded[name] = known[grouping.codes]
    return coded


def terciles(values: Tensor, known: Tensor) -> Tensor:
    """Lower, middle and upper third of users: [users] int64 0, 1 or 2, and -1 where `known` is false.

    Equal values share a tercile, the lower one, so the thirds are equal in size only up to ties.

    Args:
        values: [users] numbers.
        known: [users] bool, the users among whom thirds are counted.
    """
    ranked = values[known].sort().values
    if len(ranked) == 0:
        return torch.full_like(values, -1, dtype=torch.int64)
    first, second = (ranked[place] for place in _at_thirds(len(ranked)))
    return ((values > first).long() + (values > second).long()).where(known, -1)


def _at_thirds(n: int) -> list[int]:
    """Places, from 0, of the largest of the lower third and of the two lower thirds among n sorted values."""
    return [-(-n // 3) - 1, -(-2 * n // 3) - 1]


def tercile_bounds(histogram: Tensor) -> tuple[int, int]:
    """The largest value of the lower third and of the two lower thirds, from how often each value occurs.

    A value is in the upper third if it exceeds both, in the middle one if it exceeds the first: as `terciles`, which
    has the values themselves.

    Args:
        histogram: [values] number of users who have the value 0, 1, 2, ...; those with 0 are not counted among thirds.
    """
    counted = histogram.clone()
    counted[0] = 0
    reached = counted.cumsum(0)
    if int(reached[-1]) == 0:
        return 0, 0
    first, second = (int((reached > place).long().argmax()) for place in _at_thirds(int(reached[-1])))
    return first, second


def group_means(values: Tensor, codes: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Mean of each group and its number of users, both [n_groups]; NaN is the mean of an empty group.

    Args:
        values: [users] one value a user.
        codes: [users] int64 group of each user; users at -1 belong to none.
        n_groups: number of groups.
    """
    known = codes >= 0
    sizes = torch.bincount(codes[known], minlength=n_groups)
    return torch.bincount(codes[known], weights=values[known].double(), minlength=n_groups) / sizes, sizes


def gap(means: Tensor) -> float:
    """Best group's mean minus the worst group's: max_g m_g − min_g m_g.

    Args:
        means: [groups] mean of each group.

    Returns:
        A number in [0, 1] if the values are; smaller is better.

    Raises:
        DataError: if there are fewer than two groups.
    """
    _require_two(means)
    return float(means.max() - means.min())


def worst_group(means: Tensor) -> float:
    """Mean of the worst group: min_g m_g, the Rawlsian view. Larger is better; range and errors as `gap`."""
    _require_two(means)
    return float(means.min())


def ratio(means: Tensor) -> float:
    """Worst group's mean over the best group's: min_g m_g / max_g m_g; 1 if all means are 0.

    Args:
        means: [groups] mean of each group, not negative.

    Returns:
        A number in [0, 1], 1 for equality; larger is better.

    Raises:
        DataError: if there are fewer than two groups.
    """
    _require_two(means)
    return float(means.min() / means.max()) if means.max() > 0 else 1.0


def coefficient_of_variation(values: Tensor) -> float:
    """Spread over users, relative to their mean: √(mean (v − mean v)²) / mean v; 0 if all values are 0.

    The deviation is that of the population (divided by n). Smaller is better.

    Args:
        values: [users] one value a user, not negative.

    Returns:
        A number in [0, √(n − 1)]; smaller is better.
    """
    mean = values.double().mean()
    return float(values.double().std(correction=0) / mean) if mean > 0 else 0.0


def worst_decile(values: Tensor) -> float:
    """Mean of the worst tenth of users, the ⌈n/10⌉ with the smallest values: what the unluckiest clients get.

    Args:
        values: [users] one value a user.

    Returns:
        A number between the smallest value and the mean; larger is better.
    """
    return float(values.double().sort().values[: -(-len(values) // 10)].mean())


BETWEEN_GROUPS: Mapping[str, Callable[[Tensor], float]] = {"gap": gap, "worst-group": worst_group, "ratio": ratio}
"""Functions of the groups' means, by the suffix that they have in results."""

OVER_USERS: Mapping[str, Callable[[Tensor], float]] = {
    "coefficient-of-variation": coefficient_of_variation,
    "worst-decile": worst_decile,
}
"""Functions of all users' values, likewise."""


def _require_two(means: Tensor) -> None:
    if len(means) < 2:
        raise DataError(f"{len(means)} groups cannot be compared; give at least two")
