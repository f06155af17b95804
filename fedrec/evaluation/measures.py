"""From lists to rows: every metric that the table of metrics names, for users, for lists together, and for groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from fedrec.data.interactions import Split
from fedrec.errors import ConfigError, did_you_mean
from fedrec.evaluation import diversity, popularity, providers
from fedrec.evaluation.accuracy import ndcg_gains
from fedrec.evaluation.config import EvaluationConfig
from fedrec.evaluation.csr import Csr, union_of
from fedrec.evaluation.fairness import BETWEEN_GROUPS, MAX_GROUPS, MIN_GROUP, OVER_USERS, Groups, group_means
from fedrec.evaluation.metrics import MetricRow
from fedrec.evaluation.providers import ItemGroups, item_groups


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What is known of items and histories, whatever is recommended: taken from the training part.

    Attributes:
        popularity: [n_items] int64 number of training interactions.
        train, known: training items, and all items that are no candidates, by user code.
        categories: [n_items, width] weights, or None.
        embeddings: [n_items, d] factors, or None.
        groupings: groups of items.
    """

    popularity: Tensor
    train: Csr
    known: tuple[Csr, ...]
    categories: Tensor | None
    embeddings: Tensor | None
    groupings: tuple[ItemGroups, ...]

    @classmethod
    def of(cls, split: Split, config: EvaluationConfig) -> Catalogue:
        """The catalogue of a split.

        Raises:
            ConfigError: if an item column does not exist.
        """
        train = split.train
        return cls(
            torch.from_numpy(train.item_degrees),
            train.csr,
            (train.csr, split.valid.csr),
            categories_of(train.item_attributes, config.categories),
            diversity.item_factors(train, config.embedding_dim) if config.embedding_dim else None,
            item_groups(train, None if config.item_groups == "auto" else config.item_groups),
        )

    def mean_popularity(self, users: Tensor) -> Tensor:
        """[n] float64 mean popularity of each user's training items; NaN without any."""
        indptr, items = self.train
        total = torch.cat([torch.zeros(1, dtype=torch.int64), self.popularity[items].cumsum(dim=0)])
        return (total[indptr].diff().double() / indptr.diff())[users]  # of two integers, torch would make a float32


def categories_of(table: pd.DataFrame, column: str | None) -> Tensor | None:
    """The category weights of items by `EvaluationConfig.categories`: [n_items, width] float64; None if they have none.

    Raises:
        ConfigError: if there is no such column.
    """
    if column is None or (column == "auto" and "genres" not in table.columns):
        return None
    name = "genres" if column == "auto" else column
    if name not in table.columns:
        options = ["auto", *map(str, table.columns)]
        raise ConfigError(f"evaluation.categories: no item column '{name}'; {did_you_mean(name, options)}")
    return diversity.category_matrix(table[name])


def per_list(items: Tensor, hits: Tensor, users: Tensor, catalogue: Catalogue, ks: Sequence[int]) -> dict[str, Tensor]:
    """What has one value a list: "name@k" -> [n] float64.

    Args:
        items, hits: [n, max(ks)] the lists of users, and which of their items are relevant.
        users: [n] int64 codes of these users.
        catalogue: of the split.
        ks: lengths of the list.
    """
    tail = popularity.long_tail(catalogue.popularity)
    known = union_of(catalogue.known, users, len(catalogue.popularity))
    measured: dict[str, Callable[[Tensor, int], Tensor]] = {
        "novelty": lambda lists, _: diversity.novelty(lists, catalogue.popularity),
        "long-tail-share": lambda lists, _: popularity.long_tail_share(lists, tail),
        "serendipity": lambda lists, k: popularity.serendipity(
            lists, hits[:, :k], catalogue.popularity, popularity.popularity_bar(catalogue.popularity, known, k)
        ),
    }
    if (categories := catalogue.categories) is not None:
        history = union_of([catalogue.train], users, len(categories))
        measured["intra-list-diversity"] = lambda lists, _: diversity.intra_list_diversity(lists, categories)
        measured["calibration-error"] = lambda lists, _: diversity.calibration_error(lists, history, categories)
    if (embeddings := catalogue.embeddings) is not None:
        measured["embedding-diversity"] = lambda lists, _: diversity.embedding_diversity(lists, embeddings)
    return {f"{name}@{k}": of(items[:, :k], k) for name, of in measured.items() for k in ks}


@dataclass(frozen=True, eq=False)
class ItemCounts:
    """What lists show, counted by item, over the users whom the overall values are of: a sum over them.

    Attributes:
        known: [n_items] int64 users who have the item, so that it is no candidate.
        wanted: [n_items] int64 users who hold the item out.
        shown, right: by length of the list, [n_items] int64 lists that show the item, and those in which it is right.
        weights, squares: by length, [n_items] float64 sums of `diversity.list_weights`, and of their squares.
        gains: by length, [n_items] float64 what the item adds to the NDCG of all users, `accuracy.ndcg_gains`.
    """

    known: Tensor
    wanted: Tensor
    shown: Mapping[int, Tensor]
    right: Mapping[int, Tensor]
    weights: Mapping[int, Tensor]
    squares: Mapping[int, Tensor]
    gains: Mapping[int, Tensor]

    @classmethod
    def of(
        cls, items: Tensor, hits: Tensor, users: Tensor, relevant: Csr, catalogue: Catalogue, ks: Sequence[int]
    ) -> ItemCounts:
        """Those of some lists; arguments as `per_list`.

        Args:
            relevant: the held-out items by user code.
        """
        n_items = len(catalogue.popularity)

        def count(some: Tensor, weights: Tensor | None = None) -> Tensor:
            return torch.bincount(some, weights=weights, minlength=n_items)

        wanted = relevant[0].diff()[users]
        listed = {k: (items[:, :k], items[:, :k] >= 0) for k in ks}
        weights = {k: diversity.list_weights(of_k) for k, (of_k, _) in listed.items()}
        return cls(
            count(union_of(catalogue.known, users, n_items)[1]),
            count(union_of([relevant], users, n_items)[1]),
            {k: count(of_k[some]) for k, (of_k, some) in listed.items()},
            {k: count(of_k[hits[:, :k]]) for k, (of_k, _) in listed.items()},
            {k: count(of_k[some], weights[k]) for k, (of_k, some) in listed.items()},
            {k: count(of_k[some], weights[k].square()) for k, (of_k, some) in listed.items()},
            {k: count(of_k[some], ndcg_gains(hits[:, :k], wanted)[some]) for k, (of_k, some) in listed.items()},
        )


def together(counts: ItemCounts, users: int, lifts: Mapping[int, float]) -> Iterator[MetricRow]:
    """What has one value for all lists together.

    Args:
        counts: of the lists.
        users: number of lists.
        lifts: by length, `diversity.popularity_lift`.
    """
    for name, of in (("coverage", diversity.coverage), ("gini", diversity.gini), ("entropy", diversity.entropy)):
        yield from (MetricRow(f"{name}@{k}", "", of(shown)) for k, shown in counts.shown.items())
    if users > 1:
        for k, weights in counts.weights.items():
            unlike = diversity.unlikeness(weights, counts.squares[k], users)
            yield MetricRow(f"personalization@{k}", "", unlike)
    yield from (MetricRow(f"popularity-lift@{k}", "", lift) for k, lift in lifts.items())


def popularity_lifts(items: Tensor, users: Tensor, catalogue: Catalogue, ks: Sequence[int]) -> dict[int, float]:
    """`diversity.popularity_lift` by length of the list; arguments as `per_list`."""
    history = catalogue.mean_popularity(users)
    return {k: diversity.popularity_lift(items[:, :k], catalogue.popularity, history) for k in ks}


def exposures(
    counts: ItemCounts, users: int, interactions: Tensor, groupings: Sequence[ItemGroups]
) -> Iterator[MetricRow]:
    """What is shown of each group of items, what of it is found by those who want it, and what lies between groups.

    Equal opportunity compares groups with `MIN_GROUP` held-out interactions or more: fewer measure noise. They are
    counted, not shared out: a chance is as well known from twenty interactions with items of three genres each as from
    twenty with items of one. Inequality is that between groups that have an item.

    Args:
        counts: of the lists.
        users: number of lists.
        interactions: [n_items] int64 number of training interactions of each item.
        groupings: groups of items.
    """
    for grouping in groupings:
        available, sought = grouping.share_out(users - counts.known), grouping.share_out(counts.wanted)
        stock, trained = grouping.share_out(torch.ones(len(counts.known))), grouping.share_out(interactions)
        compared = grouping.count(counts.wanted) >= MIN_GROUP
        for name, amounts in (
            ("catalogue-share", stock),
            ("interaction-share", trained),
            ("relevance-share", sought),
        ):
            if amounts.sum() > 0:
                yield from _listed(name, grouping, providers.share(amounts))
        for k in counts.shown:
            shown = grouping.share_out(counts.shown[k])
            if shown.sum() <= 0:
                continue
            right = grouping.share_out(counts.right[k])
            yield from _listed(f"exposure-share@{k}", grouping, providers.share(shown))
            if trained.sum() > 0:
                lift = providers.exposure_lift(shown, trained)
                yield from _listed(f"exposure-lift@{k}", grouping, lift, trained > 0)
            yield from _listed(f"provider-recall@{k}", grouping, providers.provider_recall(right, sought), sought > 0)
            gained = providers.ndcg_contribution(grouping.share_out(counts.gains[k]), users)
            yield from _listed(f"ndcg-contribution@{k}", grouping, gained)
            yield MetricRow(f"provider-gini@{k}", grouping.name, providers.provider_gini(shown[stock > 0]))
            yield MetricRow(f"rsp@{k}", grouping.name, providers.statistical_parity(shown, available))
            if sought.sum() > 0:
                yield MetricRow(f"exposure-kl@{k}", grouping.name, providers.exposure_divergence(shown, sought))
            if int(compared.sum()) > 1:
                opportunity = providers.equal_opportunity(right[compared], sought[compared])
                yield MetricRow(f"reo@{k}", grouping.name, opportunity)


def _listed(metric: str, grouping: ItemGroups, values: Tensor, defined: Tensor | None = None) -> Iterator[MetricRow]:
    """One row a group that has a value; a column of thousands of authors is summed up, not listed."""
    if len(grouping.labels) <= MAX_GROUPS:
        for place, label in enumerate(grouping.labels):
            if defined is None or defined[place]:
                yield MetricRow(metric, f"{grouping.name}={label}", float(values[place]))


def counts(group: str, relevant: Tensor) -> Iterator[MetricRow]:
    """How many users a group has, and how many relevant items: [users] int64 numbers of them."""
    yield MetricRow("users", group, float(len(relevant)))
    yield MetricRow("interactions", group, float(relevant.sum()))


def means(group: str, values: Mapping[str, Tensor]) -> Iterator[MetricRow]:
    """The mean of each metric over the users of a group."""
    return (MetricRow(metric, group, float(value.mean())) for metric, value in values.items())


def over_users(values: Mapping[str, Tensor]) -> Iterator[MetricRow]:
    """What the accuracy metrics leave to the unluckiest users, and how unequal they are."""
    for metric, value in values.items():
        yield from (MetricRow(f"{metric}-{name}", "", of(value)) for name, of in OVER_USERS.items())


def by_group(values: Mapping[str, Tensor], grouping: Groups) -> Iterator[MetricRow]:
    """Means of the groups that occur, and what lies between those with enough users."""
    codes, labels = grouping.codes, grouping.labels
    sizes = torch.bincount(codes[codes >= 0], minlength=len(labels))
    of_groups = {metric: group_means(value, codes, len(labels))[0] for metric, value in values.items()}
    return between(of_groups, sizes, grouping.name, labels)


def between(of_groups: Mapping[str, Tensor], sizes: Tensor, name: str, labels: Sequence[str]) -> Iterator[MetricRow]:
    """`by_group` from the groups' means.

    Args:
        of_groups: by metric, [groups] mean of each group; whatever it is where a group is empty.
        sizes: [groups] users of each.
        name, labels: of the grouping.
    """
    present = sizes.nonzero().squeeze(1).tolist()
    yield from (MetricRow("users", f"{name}={labels[g]}", float(sizes[g])) for g in present)
    for metric, means in of_groups.items():
        yield from (MetricRow(metric, f"{name}={labels[g]}", float(means[g])) for g in present)
        compared = means[sizes >= MIN_GROUP]
        if len(compared) > 1:
            yield from (MetricRow(f"{metric}-{summary}", name, of(compared)) for summary, of in BETWEEN_GROUPS.items())
