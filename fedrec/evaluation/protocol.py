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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from fedrec.data.interactions import Interactions, Split
from fedrec.errors import ConfigError, did_you_mean
from fedrec.evaluation import measures
from fedrec.evaluation.accuracy import RATING, accuracy_at
from fedrec.evaluation.config import Candidates, EvaluationConfig
from fedrec.evaluation.csr import Csr
from fedrec.evaluation.fairness import Groups, user_groups
from fedrec.evaluation.held_out import HeldOut, Predictions
from fedrec.evaluation.measures import Catalogue
from fedrec.evaluation.metrics import MetricName, MetricRow, sampled_name
from fedrec.evaluation.topk import Ranking, Scorer, TopK


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


def evaluate(score: Scorer, split: Split, config: EvaluationConfig, seed: int, *, rates: bool = False) -> Evaluation:
    """Rank items for every user with a test item, and measure accuracy, diversity and fairness.

    Coverage and the other list-level metrics are over the lists of warm users, as every overall value is. Sampled
    candidates give accuracy and its fairness only: lists that hold what a lottery let in show no diversity.

    Args:
        score: the fitted model's scores.
        split: candidates leave out `train` and `valid`; `test` is what is relevant.
        config: what is measured.
        seed: of the run; it orders ties and draws candidates.
        rates: whether a score is a predicted rating; errors are then measured too, where the test part has ratings.

    Raises:
        ConfigError: if k exceeds the catalogue, or a column does not exist.
        DataError: if no warm user has a test item.
        ModelError: if a score is not finite or the scores have the wrong shape.
    """
    config.require_catalogue(split.train.n_items)
    test = HeldOut.of(split.test, split.train, (split.train, split.valid), seed, "test")
    of_all = user_groups(split.train, None if config.groups == "auto" else config.groups)
    catalogue = Catalogue.of(split, config)

    predicted = Predictions(split.test) if rates and split.test.rating is not None else None
    ranked = test.rankings(score, test.users, max(config.k), config.candidates, watch=predicted)
    users, warm, relevant = test.warm_users, test.warm, test.degrees(test.users)
    accuracy = accuracy_of(ranked, test.relevant, relevant, warm, config.k)
    per_user = dict(accuracy)
    of_lists: list[MetricRow] = []
    if "all" in ranked:
        lists = ranked["all"].lists
        items, hits = lists.items[warm], lists.hits(test.relevant)[warm]
        per_user |= measures.per_list(items, hits, users, catalogue, config.k)
        shown_items = measures.ItemCounts.of(items, hits, users, test.relevant, catalogue, config.k)
        of_lists += measures.together(
            shown_items, len(users), measures.popularity_lifts(items, users, catalogue, config.k)
        )
        of_lists += measures.exposures(shown_items, len(users), catalogue.popularity, catalogue.groupings)
    rows = [*measures.counts("", relevant[warm]), *measures.means("", per_user)]
    if predicted is not None:
        rows += [MetricRow(name, "", of(*predicted.of(users))) for name, of in RATING.items()]
    rows += [*of_lists, *measures.over_users(accuracy)]
    groups = tuple(replace(grouping, codes=grouping.codes[users]) for grouping in of_all)
    for grouping in groups:
        rows += measures.by_group(accuracy, grouping)
    cold = split.test.take(split.train.item_degrees[split.test.item] == 0).csr
    cold_relevant = cold[0].diff()[test.users]
    for segment, of_segment, count, members in (
        ("cold-users", test.relevant, relevant, ~warm),
        ("cold-items", cold, cold_relevant, (cold_relevant > 0) & warm),
    ):
        if members.any():
            rows += measures.counts(segment, count[members])
            areas = of_segment is test.relevant
            of_members = accuracy_of(ranked, of_segment, count, members, config.k, areas=areas)
            rows += measures.means(segment, of_members)
    shown = ranked.get("all", ranked[config.candidates[0]]).lists
    return Evaluation(shown, users, per_user, groups, tuple(rows))


def accuracy_of(
    ranked: Mapping[Candidates, Ranking],
    relevant: Csr,
    counts: Tensor,
    members: Tensor,
    ks: Sequence[int],
    *,
    areas: bool = True,
) -> dict[str, Tensor]:
    """Every accuracy metric of some of the ranked users, by name.

    Args:
        ranked: by sort of candidates, how the users are ranked.
        relevant: the held-out items that count.
        counts: [users] how many of them each ranked user has.
        members: [users] bool, whose values are returned.
        ks: lengths of the list.
        areas: whether the area under the curve is among them: it is that of all held-out items.
    """
    values: dict[str, Tensor] = {}
    for among, ranking in ranked.items():
        found = accuracy_at(ranking.lists.hits(relevant)[members], counts[members], ks)
        if areas and ranking.auc is not None:
            found["auc"] = ranking.auc[members]
        values |= found if among == "all" else {sampled_name(name): value for name, value in found.items()}
    return values
