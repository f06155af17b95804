"""From lists to rows: every metric that the table of metrics names, for users, for lists together, and for groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.data.interactions import Interactions, Split
from fedrec.errors import ConfigError, did_you_mean
from fedrec.evaluation import diversity, popularity, providers
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
            _categories(train, config.categories),
            diversity.item_factors(train, config.embedding_dim) if config.embedding_dim else None,
            item_groups(train, None if config.item_groups == "auto" else config.item_groups),
        )

    def mean_popularity(self, users: Tensor) -> Tensor:
        """[n] float64 mean popularity of each user's training items; NaN without any."""
        indptr, items = self.train
        total = torch.cat([torch.zeros(1, dtype=torch.int64), self.popularity[items].cumsum(dim=0)])
        return (total[indptr].diff().double() / indptr.diff())[users]  # of two integers, torch would make a float32


def _categories(train: Interactions, column: str | None) -> Tensor | None:
    table = train.item_attributes
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


def together(items: Tensor, users: Tensor, catalogue: Catalogue, ks: Sequence[int]) -> Iterator[MetricRow]:
    """What has one value for all lists together; arguments as `per_list`."""
    shown = {k: diversity.exposure(items[:, :k], len(catalogue.popularity)) for k in ks}
    for name, of in (("coverage", diversity.coverage), ("gini", diversity.gini), ("entropy", diversity.entropy)):
        yield from (MetricRow(f"{name}@{k}", "", of(shown[k])) for k in ks)
    if len(items) > 1:
        yield from (MetricRow(f"personalization@{k}", "", diversity.personalization(items[:, :k])) for k in ks)
    history = catalogue.mean_popularity(users)
    for k in ks:
        lift = diversity.popularity_lift(items[:, :k], catalogue.popularity, history)
        yield MetricRow(f"popularity-lift@{k}", "", lift)


def exposures(
    items: Tensor, hits: Tensor, users: Tensor, relevant: Csr, catalogue: Catalogue, ks: Sequence[int]
) -> Iterator[MetricRow]:
    """What is shown of each group of items, and what lies between groups; arguments as `per_list`.

    Equal opportunity compares groups with `MIN_GROUP` relevant items or more: fewer measure noise.

    Args:
        relevant: the held-out items by user code.
    """
    n_items = len(catalogue.popularity)
    _, known = union_of(catalogue.known, users, n_items)
    candidates = len(users) - torch.bincount(known, minlength=n_items)
    wanted = torch.bincount(union_of([relevant], users, n_items)[1], minlength=n_items)
    for grouping in catalogue.groupings:
        available, sought = grouping.share_out(candidates), grouping.share_out(wanted)
        stock = grouping.share_out(torch.ones(n_items))
        compared = sought >= MIN_GROUP
        if stock.sum() > 0:
            yield from _shares("catalogue-share", grouping, stock)
        if sought.sum() > 0:
            yield from _shares("relevance-share", grouping, sought)
        for k in ks:
            lists = items[:, :k]
            shown = grouping.share_out(diversity.exposure(lists, n_items))
            if shown.sum() <= 0:
                continue
            yield from _shares(f"exposure-share@{k}", grouping, shown)
            yield MetricRow(f"provider-gini@{k}", grouping.name, providers.provider_gini(shown))
            yield MetricRow(f"rsp@{k}", grouping.name, providers.statistical_parity(shown, available))
            if sought.sum() > 0:
                yield MetricRow(f"exposure-kl@{k}", grouping.name, providers.exposure_divergence(shown, sought))
            if int(compared.sum()) > 1:
                right = grouping.share_out(torch.bincount(lists[hits[:, :k]], minlength=n_items))
                opportunity = providers.equal_opportunity(right[compared], sought[compared])
                yield MetricRow(f"reo@{k}", grouping.name, opportunity)


def _shares(metric: str, grouping: ItemGroups, amounts: Tensor) -> Iterator[MetricRow]:
    """One row a group; a column of thousands of authors is summed up, not listed."""
    if len(grouping.labels) <= MAX_GROUPS:
        shares = providers.share(amounts).tolist()
        for label, value in zip(grouping.labels, shares, strict=True):
            yield MetricRow(metric, f"{grouping.name}={label}", value)


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
    present = sizes.nonzero().squeeze(1).tolist()
    yield from (MetricRow("users", f"{grouping.name}={labels[g]}", float(sizes[g])) for g in present)
    for metric, value in values.items():
        of_groups, _ = group_means(value, codes, len(labels))
        yield from (MetricRow(metric, f"{grouping.name}={labels[g]}", float(of_groups[g])) for g in present)
        compared = of_groups[sizes >= MIN_GROUP]
        if len(compared) > 1:
            yield from (
                MetricRow(f"{metric}-{name}", grouping.name, of(compared)) for name, of in BETWEEN_GROUPS.items()
            )
