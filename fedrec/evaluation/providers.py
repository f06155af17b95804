"""Fairness towards those who provide the items: whose items are shown, against what there is and what is wanted.

A provider is a group of items: an author, a genre, a tercile of popularity. Exposure is counted in places of lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError, DataError, did_you_mean
from fedrec.evaluation.diversity import divergence, gini
from fedrec.evaluation.fairness import coefficient_of_variation, terciles

POPULARITY = "popularity"
"""The column that always exists: tercile of the number of training interactions."""

_AUTHORS = ("author", "author_id")


@dataclass(frozen=True, eq=False)
class ItemGroups:
    """Groups of items by one column. An item with several values belongs to each in equal shares.

    Attributes:
        name: of the column.
        labels: of the groups.
        item, group, weight: [m] each, an item's share of belonging to a group; items of no group do not occur.
        n_items: size of the catalogue.
    """

    name: str
    labels: tuple[str, ...]
    item: Tensor
    group: Tensor
    weight: Tensor
    n_items: int

    def share_out(self, amounts: Tensor) -> Tensor:
        """[groups] float64, what the groups have of the items' amounts, [n_items]."""
        return torch.bincount(self.group, weights=amounts.double()[self.item] * self.weight, minlength=len(self.labels))


def item_groups(train: Interactions, columns: Sequence[str] | None = None) -> tuple[ItemGroups, ...]:
    """The groupings of items by item columns of the training part.

    Args:
        train: its item attributes are the columns, several values of an item joined by "|"; `popularity` is the tercile
            of the number of training interactions among items that have any.
        columns: their names, or None for popularity and, where known, author.

    Raises:
        ConfigError: if a column does not exist.
    """
    return groups_of_items(train.item_attributes, torch.from_numpy(train.item_degrees), columns)


def groups_of_items(
    table: pd.DataFrame, popularity: Tensor, columns: Sequence[str] | None = None
) -> tuple[ItemGroups, ...]:
    """`item_groups` from what a server knows of its items: their attributes, and how often each is trained on.

    Args:
        table: one row an item in code order; no columns if nothing is known.
        popularity: [n_items] int64 number of training interactions.
        columns: as in `item_groups`.
    """
    if columns is None:
        columns = [POPULARITY, *(name for name in _AUTHORS if name in table.columns)]
    groupings = []
    for name in columns:
        if name in table.columns:
            groupings.append(column_groups(table[name]))
        elif name == POPULARITY:
            codes = terciles(popularity, popularity > 0)
            item = (codes >= 0).nonzero().squeeze(1)
            labels = ("low", "middle", "high")
            weight = torch.ones(len(item), dtype=torch.float64)
            groupings.append(ItemGroups(POPULARITY, labels, item, codes[item], weight, len(codes)))
        else:
            known = [*map(str, table.columns), POPULARITY]
            raise ConfigError(f"evaluation.item_groups: no item column '{name}'; {did_you_mean(name, known)}")
    return tuple(groupings)


def column_groups(column: pd.Series) -> ItemGroups:
    """Items by the values of a column, in sorted order; a missing value is of no group."""
    cells = column.reset_index(drop=True).astype("str").where(column.notna().to_numpy(), "").str.split("|").explode()
    cells = cells[cells != ""]
    codes, names = pd.factorize(cells, sort=True)
    item = torch.tensor(cells.index.to_numpy(copy=True))
    weight = 1.0 / torch.bincount(item, minlength=len(column)).double()[item]
    group = torch.from_numpy(codes.astype(np.int64))
    return ItemGroups(str(column.name), tuple(map(str, names)), item, group, weight, len(column))


def share(amounts: Tensor) -> Tensor:
    """What each group has of the whole: x_g / Σ x, [groups] float64 in [0, 1].

    Of places in lists it is the exposure share, of items the catalogue share, of held-out interactions the relevance
    share: exposure may follow what there is (parity) or what is wanted (merit), and the three side by side show which.

    Args:
        amounts: [groups] amounts, not negative.

    Raises:
        DataError: if all are 0.
    """
    if amounts.sum() <= 0:
        raise DataError("no group of items has anything to share; leave such a column out")
    return amounts.double() / amounts.sum()


def statistical_parity(exposure: Tensor, candidates: Tensor) -> float:
    """Spread of the chance that a candidate is shown, over groups: std_g(P_g) / mean_g(P_g), P_g = x_g / c_g.

    Ranking-based statistical parity (RSP), Zhu, Wang and Caverlee 2020. The deviation is that of the population.

    Args:
        exposure: [groups] places of lists that show items of the group.
        candidates: [groups] pairs of a user and an item of the group that is a candidate; groups without are left out.

    Returns:
        A number in [0, √(groups − 1)], 0 for parity; smaller is better.
    """
    some = candidates > 0
    return coefficient_of_variation(exposure[some].double() / candidates[some])


def equal_opportunity(hits: Tensor, relevant: Tensor) -> float:
    """Spread of the chance that a relevant item is shown, over groups: std_g(P_g) / mean_g(P_g), P_g = h_g / r_g.

    Ranking-based equal opportunity (REO), Zhu, Wang and Caverlee 2020. The deviation is that of the population.

    Args:
        hits: [groups] relevant items of the group that are shown.
        relevant: [groups] relevant items of the group; groups without are left out.

    Returns:
        A number in [0, √(groups − 1)], 0 for equality; smaller is better.
    """
    some = relevant > 0
    return coefficient_of_variation(hits[some].double() / relevant[some])


def provider_gini(exposure: Tensor) -> float:
    """Inequality of exposure between providers: `diversity.gini` of the exposures of groups, 0 = equal.

    Args:
        exposure: [groups] places of lists that show items of the group.

    Returns:
        A number in [0, 1); smaller is better.

    Raises:
        DataError: if nothing is shown at all.
    """
    return gini(exposure)


def exposure_divergence(exposure: Tensor, relevance: Tensor) -> float:
    """How far exposure is from what is wanted: Σ_g r_g ln(r_g / ẽ_g), r and e the shares of relevance and exposure.

    Kullback and Leibler 1951, with ẽ = .99 e + .01 r so that it stays finite, as Steck 2018 has it for categories.

    Args:
        exposure: [groups] places of lists that show items of the group.
        relevance: [groups] relevant items of the group.

    Returns:
        A number in [0, ln 100] nats, 0 if exposure follows relevance; smaller is better.

    Raises:
        DataError: if nothing is shown, or nothing is relevant.
    """
    return float(divergence(share(relevance).unsqueeze(0), share(exposure).unsqueeze(0))[0])
