"""Fairness towards those who provide the items: whose items are shown, against what there is and what is wanted.

A provider is a group of items: an author, all small authors together, a genre, a tercile of popularity. Exposure is
counted in places of lists, the first like the last: what Gómez, Boratto and Salamó 2022 call visibility.
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
from fedrec.evaluation.popularity import HEAD_SHARE, long_tail

POPULARITY = "popularity"
"""The column that always exists: tercile of the number of training interactions."""

SIZE = "-size"
"""What stands behind a column's name for its values told apart by size, `by_size`: "author_id-size"."""

LARGEST_SHARE = 0.2
"""Share of all training interactions that large providers have; with the middle ones it is `popularity.HEAD_SHARE`."""

_AUTHORS = ("author", "author_id")


@dataclass(frozen=True, eq=False)
class ItemGroups:
    """Groups of items by one column. An item with several values belongs to each in equal shares.

    Attributes:
        name: of the column.
        labels: of the groups.
        item, group, weight: [m] each, an item's share of belonging to a group; items of no group do not occur, and an
            item may be of a group several times, in shares that add up.
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

    def count(self, amounts: Tensor) -> Tensor:
        """[groups] float64, the items' amounts, [n_items], with each item in full in every group that it is of."""
        pairs = torch.unique(self.item * len(self.labels) + self.group)  # two authors of an item may be of one size
        item, group = pairs // len(self.labels), pairs % len(self.labels)
        return torch.bincount(group, weights=amounts.double()[item], minlength=len(self.labels))


def item_groups(train: Interactions, columns: Sequence[str] | None = None) -> tuple[ItemGroups, ...]:
    """The groupings of items by item columns of the training part.

    Args:
        train: its item attributes are the columns, several values of an item joined by "|"; `popularity` is the tercile
            of the number of training interactions among items that have any, and `author-size` has the values of a
            column `author` by size, `by_size`.
        columns: their names, or None for popularity and, where known, author and author-size.

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
        authors = [name for name in _AUTHORS if name in table.columns]
        columns = [POPULARITY, *authors, *(f"{name}{SIZE}" for name in authors)]
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
        elif name.removesuffix(SIZE) in table.columns:
            groupings.append(by_size(column_groups(table[name.removesuffix(SIZE)]), popularity))
        else:
            known = [*map(str, table.columns), POPULARITY, *(f"{column}{SIZE}" for column in table.columns)]
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


def by_size(providers: ItemGroups, popularity: Tensor) -> ItemGroups:
    """Small, middle and large providers, each as one group.

    Large are the fewest providers whose items together have 20% of all training interactions, large and middle the
    fewest that have 80%, and small all others, those too whose items nobody trained on: head, mid and tail of items
    (Abdollahpouri et al. 2021) of those who provide them. Whoever has exactly as many as the last of a head belongs to
    it, so that no order of equals decides; nor does rounding, where interactions are shared (`long_tail`). A group may
    be empty: nobody is in the middle where the large ones have 80%.

    Args:
        providers: a group for each.
        popularity: [n_items] int64 number of training interactions.
    """
    sizes = providers.share_out(popularity)
    at_least = [~long_tail(sizes, head) for head in (HEAD_SHARE, LARGEST_SHARE)]
    group = torch.stack(at_least).sum(dim=0)[providers.group]
    labels = ("small", "middle", "large")
    return ItemGroups(f"{providers.name}{SIZE}", labels, providers.item, group, providers.weight, providers.n_items)


def share(amounts: Tensor) -> Tensor:
    """What each group has of the whole: x_g / Σ x, [groups] float64 in [0, 1].

    Of places in lists it is the exposure share, of items the catalogue share, of held-out interactions the relevance
    share, of training interactions the interaction share: exposure may follow what there is (parity), what is wanted
    (merit) or what was learnt from, and all of them side by side show which.

    Args:
        amounts: [groups] amounts, not negative.

    Raises:
        DataError: if all are 0.
    """
    if amounts.sum() <= 0:
        raise DataError("no group of items has anything to share; leave such a column out")
    return amounts.double() / amounts.sum()


def exposure_lift(exposure: Tensor, interactions: Tensor) -> Tensor:
    """Exposure share over interaction share, (x_g / Σ x) / (t_g / Σ t): what lists make of what was learnt from.

    Exposure in proportion to merit is what Singh and Joachims 2018 and Biega, Gummadi and Weikum 2018 ask for; with a
    group's training interactions as its merit, the difference of the two shares is the disparate visibility of Gómez,
    Boratto and Salamó 2022. Their ratio compares groups of unlike sizes.

    Args:
        exposure: [groups] places of lists that show items of the group.
        interactions: [groups] training interactions with items of the group.

    Returns:
        [groups] float64 from 0 upwards, 1 if lists show the group as training does; not finite without interactions.

    Raises:
        DataError: if nothing is shown, or nothing was trained on.
    """
    return share(exposure) / share(interactions)


def provider_recall(hits: Tensor, relevant: Tensor) -> Tensor:
    """Chance that a held-out interaction with a group is in the list: h_g / r_g, what `equal_opportunity` compares.

    Every interaction counts the same (Zhu, Wang and Caverlee 2020): how often the group is found by those who want it.

    Args:
        hits: [groups] relevant items of the group that are shown.
        relevant: [groups] relevant items of the group.

    Returns:
        [groups] float64 in [0, 1]; larger is better; NaN without a relevant item.
    """
    return hits.double() / relevant


def ndcg_contribution(gains: Tensor, users: int) -> Tensor:
    """The part of NDCG that hits of a group make: mean_u Σ_r h_ur 1[i_ur ∈ g] / (log2(r + 1) IDCG_u).

    Where every item is of a group, the parts of all groups add up to NDCG: a loss of it is shared out among them.

    Args:
        gains: [groups] sums over users of `accuracy.ndcg_gains`, by group of the item.
        users: number of them, those without a relevant item of the group included.

    Returns:
        [groups] float64 in [0, 1]; larger is better.
    """
    return gains.double() / users


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
        exposure: [groups] places of lists that show items of the group. Leave out groups without an item: no list
            could show them, and each would count as a provider without exposure.

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
