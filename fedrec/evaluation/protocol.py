"""The protocol: validation while training, and one test at the end.

Full ranking: every item outside a user's training items (and, for test, outside the validation items) is a candidate.
Sampled candidates, where they are asked for, are 99 of the items outside everything that the user is known to have,
test items included; validation draws its own, and may draw test items, which it knows nothing of.

The overall mean is over *warm* users: those with a training item and a held-out one. Users without any training item
are a segment of their own, "cold-users", and enter no mean but its: what a model does for someone it has never seen
is another question, and their share is a property of the split. A held-out item that nobody trained on stays a relevant
item of the warm user it belongs to, since dropping the hard items would flatter every arm; the segment "cold-items"
repeats the accuracy with those items alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fedrec.data.interactions import Interactions, Split
from fedrec.errors import ConfigError, did_you_mean
from fedrec.evaluation import diversity
from fedrec.evaluation.accuracy import accuracy_at
from fedrec.evaluation.config import Candidates, EvaluationConfig
from fedrec.evaluation.csr import Csr
from fedrec.evaluation.fairness import BETWEEN_GROUPS, MIN_GROUP, OVER_USERS, Groups, group_means, user_groups
from fedrec.evaluation.held_out import HeldOut
from fedrec.evaluation.metrics import MetricName, MetricRow, sampled_name
from fedrec.evaluation.topk import Scorer, TopK


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a test found.

    Attributes:
        lists: the top max(k) of every user with a test item, cold ones included; among the sampled candidates if no
            others were asked for.
        users: [n] int64, the warm users among them: those that overall values are means of.
        per_user: by metric ("ndcg@10", "novelty@10"), [n] float64 values of `users`.
        groups: the groupings of `users`, codes in their order.
        rows: every number, in a fixed order.
    """

    lists: TopK
    users: Tensor
    per_user: Mapping[str, Tensor]
    groups: tuple[Groups, ...]
    rows: tuple[MetricRow, ...]

    def value(self, metric: str, group: str = "") -> float:
        """The value of one row.

        Raises:
            ConfigError: if there is no such row.
        """
        values = {row.metric: row.value for row in self.rows if row.group == group}
        if metric not in values:
            where = f"group '{group}'" if group else "the overall values"
            raise ConfigError(f"no metric '{metric}' among {where}; {did_you_mean(metric, values)}")
        return values[metric]


@dataclass(frozen=True, eq=False)
class Validator:
    """A function from a scorer to the mean of one metric on the validation part, over warm users.

    Test items are candidates like any others: it does not hold the test part. It names what it is made of, so that a
    federation can deal the validation part to its devices and ask them for the same number.

    Attributes:
        valid: the validation part.
        metric: accuracy metric, as in results: "ndcg@10".
        seed: of the run; it orders ties and draws candidates.
    """

    valid: Interactions
    metric: str
    seed: int
    _held_out: HeldOut

    @classmethod
    def of(cls, split: Split, metric: str, seed: int) -> Validator:
        """The validator of a split.

        Raises:
            DataError: if every user with a validation item is cold.
        """
        return cls(split.valid, metric, seed, HeldOut.of(split.valid, split.train, (split.train,), seed, "valid"))

    @cached_property
    def _among(self) -> Tensor | None:
        """The sampled candidates, if the metric is over such: the same at every look."""
        held_out = self._held_out
        return held_out.candidates(held_out.warm_users) if MetricName.of(self.metric).sampled else None

    def __call__(self, score: Scorer) -> float:
        """The metric of a scorer."""
        found = self._held_out.accuracy(score, self._held_out.warm_users, [self.metric], self._among)
        return float(found[self.metric].mean())


def make_validator(split: Split, config: EvaluationConfig, seed: int) -> Validator | None:
    """What selects models: the mean of `config.metric` on the validation part.

    Returns:
        None if nothing is held out for validation.

    Raises:
        ConfigError: if k exceeds the catalogue.
        DataError: if every user with a validation item is cold.
    """
    config.require_catalogue(split.train.n_items)
    return Validator.of(split, config.metric, seed) if len(split.valid) else None


def evaluate(score: Scorer, split: Split, config: EvaluationConfig, seed: int) -> Evaluation:
    """Rank items for every user with a test item, and measure accuracy, diversity and fairness.

    Coverage and the other list-level metrics are over the lists of warm users, as every overall value is. Sampled
    candidates give accuracy and its fairness only: lists that hold what a lottery let in show no diversity.

    Args:
        score: the fitted model's scores.
        split: candidates leave out `train` and `valid`; `test` is what is relevant.
        config: what is measured.
        seed: of the run; it orders ties and draws candidates.

    Raises:
        ConfigError: if k exceeds the catalogue, or a column does not exist.
        DataError: if no warm user has a test item.
        ModelError: if a score is not finite or the scores have the wrong shape.
    """
    config.require_catalogue(split.train.n_items)
    test = HeldOut.of(split.test, split.train, (split.train, split.valid), seed, "test")
    of_all = user_groups(split.train, None if config.groups == "auto" else config.groups)
    categories = _categories(split.train, config.categories)

    ranked = {among: _ranked(score, test, among, max(config.k)) for among in config.candidates}
    users, warm, relevant = test.users[test.warm], test.warm, test.degrees(test.users)
    accuracy = _accuracy(ranked, test.relevant, relevant, warm, config.k)
    popularity = torch.from_numpy(split.train.item_degrees)
    per_user, together = dict(accuracy), []
    if "all" in ranked:
        items = ranked["all"].items[warm]
        per_user |= _per_list(items, popularity, categories, config.k)
        together = list(_all_lists(items, popularity, _mean_popularity(split.train, popularity)[users], config.k))
    rows = [
        *_counts("", relevant[warm]),
        *_means("", per_user),
        *together,
        *(
            MetricRow(f"{metric}-{name}", "", of(v))
            for metric, v in accuracy.items()
            for name, of in OVER_USERS.items()
        ),
    ]
    groups = tuple(replace(grouping, codes=grouping.codes[users]) for grouping in of_all)
    for grouping in groups:
        rows += _by_group(accuracy, grouping)
    cold = split.test.take(split.train.item_degrees[split.test.item] == 0).csr
    cold_relevant = cold[0].diff()[test.users]
    for segment, of, counts, members in (
        ("cold-users", test.relevant, relevant, ~warm),
        ("cold-items", cold, cold_relevant, (cold_relevant > 0) & warm),
    ):
        if members.any():
            rows += [*_counts(segment, counts[members])]
            rows += [*_means(segment, _accuracy(ranked, of, counts, members, config.k))]
    lists = ranked.get("all", ranked[config.candidates[0]])
    return Evaluation(lists, users, per_user, groups, tuple(rows))


def _ranked(score: Scorer, test: HeldOut, among: Candidates, k: int) -> TopK:
    if among == "all":
        return test.rank(score, test.users, k)
    return test.rank_among(score, test.users, test.candidates(test.users), k)


def _accuracy(
    ranked: Mapping[Candidates, TopK], relevant: Csr, counts: Tensor, members: Tensor, ks: Sequence[int]
) -> dict[str, Tensor]:
    """Every accuracy metric of some of the users, by name."""
    values: dict[str, Tensor] = {}
    for among, lists in ranked.items():
        of_lists = accuracy_at(lists.hits(relevant)[members], counts[members], ks)
        values |= of_lists if among == "all" else {sampled_name(name): value for name, value in of_lists.items()}
    return values


def _categories(train: Interactions, column: str | None) -> Tensor | None:
    table = train.item_attributes
    if column is None or (column == "auto" and "genres" not in table.columns):
        return None
    name = "genres" if column == "auto" else column
    if name not in table.columns:
        options = ["auto", *map(str, table.columns)]
        raise ConfigError(f"evaluation.categories: no item column '{name}'; {did_you_mean(name, options)}")
    return diversity.category_matrix(table[name])


def _mean_popularity(train: Interactions, popularity: Tensor) -> Tensor:
    """[n_users] float64 mean popularity of each user's training items; NaN without any."""
    indptr, items = train.csr
    total = torch.cat([torch.zeros(1, dtype=torch.int64), popularity[items].cumsum(dim=0)])
    return total[indptr].diff().double() / indptr.diff()  # of two integers, torch would make a float32


def _per_list(items: Tensor, popularity: Tensor, categories: Tensor | None, ks: Sequence[int]) -> dict[str, Tensor]:
    values = {f"novelty@{k}": diversity.novelty(items[:, :k], popularity) for k in ks}
    if categories is not None:
        values |= {f"intra-list-diversity@{k}": diversity.intra_list_diversity(items[:, :k], categories) for k in ks}
    return values


def _all_lists(items: Tensor, popularity: Tensor, history: Tensor, ks: Sequence[int]) -> Iterator[MetricRow]:
    shown = {k: diversity.exposure(items[:, :k], len(popularity)) for k in ks}
    for name, of in (("coverage", diversity.coverage), ("gini", diversity.gini), ("entropy", diversity.entropy)):
        yield from (MetricRow(f"{name}@{k}", "", of(shown[k])) for k in ks)
    if len(items) > 1:
        yield from (MetricRow(f"personalization@{k}", "", diversity.personalization(items[:, :k])) for k in ks)
    for k in ks:
        yield MetricRow(f"popularity-lift@{k}", "", diversity.popularity_lift(items[:, :k], popularity, history))


def _counts(group: str, relevant: Tensor) -> Iterator[MetricRow]:
    yield MetricRow("users", group, float(len(relevant)))
    yield MetricRow("interactions", group, float(relevant.sum()))


def _means(group: str, values: Mapping[str, Tensor]) -> Iterator[MetricRow]:
    return (MetricRow(metric, group, float(value.mean())) for metric, value in values.items())


def _by_group(values: Mapping[str, Tensor], grouping: Groups) -> Iterator[MetricRow]:
    """Means of the groups that occur, and what lies between those with enough users."""
    codes, labels = grouping.codes, grouping.labels
    sizes = torch.bincount(codes[codes >= 0], minlength=len(labels))
    present = sizes.nonzero().squeeze(1).tolist()
    yield from (MetricRow("users", f"{grouping.name}={labels[g]}", float(sizes[g])) for g in present)
    for metric, value in values.items():
        means, _ = group_means(value, codes, len(labels))
        yield from (MetricRow(metric, f"{grouping.name}={labels[g]}", float(means[g])) for g in present)
        compared = means[sizes >= MIN_GROUP]
        if len(compared) > 1:
            yield from (
                MetricRow(f"{metric}-{name}", grouping.name, of(compared)) for name, of in BETWEEN_GROUPS.items()
            )
