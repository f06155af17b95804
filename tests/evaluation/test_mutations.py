"""Every metric, worked by hand on one small world, and what it does when order, ties or its formula are turned over.

Code is mutated while it lives: a piece of a function's source is replaced, and what that compiles to takes its place.
A metric that is listed and has no value, no direction or no mutation here fails.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrec.data.interactions import Split
from fedrec.evaluation import (
    METRICS,
    EvaluationConfig,
    _compiled,
    accuracy,
    csr,
    diversity,
    evaluate,
    fairness,
    measures,
    metric_of,
    popularity,
    providers,
    topk,
)
from fedrec.evaluation.heaps import Heaps

from .small import split_of

TRAIN = {0: (2, 4, 7), 1: (0, 3), 2: (0, 2), 3: (0, 5, 6), 4: (1, 2, 3), 5: (0, 7), 6: (0, 1, 3)}
TEST = {0: {0: 4, 3: 5}, 1: {4: 5, 5: 5}, 2: {6: 4}, 3: {1: 5, 3: 5, 4: 5}}  # user -> item -> rating
GENDERS = ["F", "F", "M", "M", "F", "F", "F"]
GENRES = ["A", "A", "A|B", "A", "A|B", "A", "B", "B"]
SCORES = [[3, 4, 2, 4, 4, 3, 5, 1], [2, 1, 5, 5, 3, 5, 5, 3], [1, 4, 3, 5, 5, 4, 5, 4], [1, 4, 5, 1, 2, 4, 1, 1]]
"""Of the four users with a test item. The first is level on items 1 and 3, the second on 2, 5 and 6, the third on 3, 4
and 6; the hash of seed 0 has 3 before 1, then 6 before 5 before 2, then 6 before 3 before 4. So the lists of two are
6 3, 6 5, 6 3 and 2 1, and the hits - +, - +, + - and - +."""

Values = Mapping[tuple[str, str], tuple[float, ...]]
"""By row and group: one value a user where the metric has one, otherwise one value."""


def kl(p: float, q: float) -> float:
    """Divergence of shares (p, 1 - p) from (q, 1 - q), smoothed."""
    return sum(x * math.log(x / (0.99 * y + 0.01 * x)) for x, y in ((p, q), (1 - p, 1 - q)) if x)


SECOND = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
"""NDCG of a hit at the second of two ranks, where two or more items are relevant."""

BITS = {1: math.log2(18), 2: math.log2(9), 3: math.log2(6)}
"""Surprise by popularity, of 18 training interactions."""

BY_HAND: Values = {
    ("precision@2", ""): (1 / 2, 1 / 2, 1 / 2, 1 / 2),
    ("recall@2", ""): (1 / 2, 1 / 2, 1, 1 / 3),
    ("hit-rate@2", ""): (1, 1, 1, 1),
    ("f1@2", ""): (2 / 4, 2 / 4, 2 / 3, 2 / 5),
    ("ndcg@2", ""): (SECOND, SECOND, 1, SECOND),
    ("mrr@2", ""): (1 / 2, 1 / 2, 1, 1 / 2),
    ("map@2", ""): (1 / 4, 1 / 4, 1, 1 / 4),
    # Pairs in order, level ones half: ½ and 1½ of 3; 1½ and 3 of 4; 4 of 5; 1, ½ and 1 of 2.
    ("auc", ""): (2 / 6, 4.5 / 8, 4 / 5, 2.5 / 6),
    # Errors 1, 1, 2, 0, 1, 1, 4, 3.
    ("rmse", ""): (math.sqrt(33 / 8),),
    ("mae", ""): (13 / 8,),
    # Popularity 5, 2, 3, 3, 1, 1, 1, 2.
    ("novelty@2", ""): ((BITS[1] + BITS[3]) / 2, BITS[1], (BITS[1] + BITS[3]) / 2, (BITS[3] + BITS[2]) / 2),
    ("intra-list-diversity@2", ""): (1, 1, 1, 1 - 1 / math.sqrt(2)),
    # All eight factors keep the cosines of columns: items 6 and 3 share no user, 6 and 5 their only one, 2 and 1 have
    # one in common of three and two.
    ("embedding-diversity@2", ""): (1, 0, 1, 1 - 1 / math.sqrt(6)),
    ("calibration-error@2", ""): (kl(1 / 3, 1 / 2), kl(1, 1 / 2), kl(3 / 4, 1 / 2), kl(2 / 3, 3 / 4)),
    # 5 + 3 + 3 + 2 + 2 are the first 80% of 18: items 4, 5 and 6 are the tail.
    ("long-tail-share@2", ""): (1 / 2, 1, 1 / 2, 0),
    # The second most popular candidates have 3, 2, 2 and 3 interactions; the hits 3, 1, 1 and 2.
    ("serendipity@2", ""): (0, 1 / 2, 1 / 2, 1 / 2),
    # Item 6 is shown three times, item 3 twice, items 1, 2 and 5 once.
    ("coverage@2", ""): (5 / 8,),
    ("gini@2", ""): ((-1 + 1 + 3 + 5 * 2 + 7 * 3) / (8 * 8),),
    ("entropy@2", ""): (3 / 8 * math.log2(8 / 3) + 2 / 8 * 2 + 3 / 8 * 3,),
    ("personalization@2", ""): (1 - (1 / 2 + 1 + 1 / 2) / 6,),
    ("popularity-lift@2", ""): ((2 + 1 + 2 + 2.5) / (2 + 4 + 4 + 7 / 3),),
    # Recall by gender is ½ and ⅔; over users its deviation is ¼ and its mean 7/12.
    ("recall@2-gap", "gender"): (1 / 6,),
    ("recall@2-worst-group", "gender"): (1 / 2,),
    ("recall@2-ratio", "gender"): (3 / 4,),
    ("recall@2-coefficient-of-variation", ""): (3 / 7,),
    ("recall@2-worst-decile", ""): (1 / 3,),
    # Genre A has 5 of 8 items, 6 of 8 relevant ones, 4½ of 8 places, 13½ of 22 candidates and 3 of 4 hits.
    ("catalogue-share", "genres=A"): (5 / 8,),
    ("relevance-share", "genres=A"): (6 / 8,),
    # It has 13 of 18 training interactions, half of each with items 2 and 4; three of its four hits are second.
    ("interaction-share", "genres=A"): (13 / 18,),
    ("exposure-lift@2", "genres=A"): ((4.5 / 8) / (13 / 18),),
    ("provider-recall@2", "genres=A"): (3 / 6,),
    ("ndcg-contribution@2", "genres=A"): (3 * SECOND / 4,),
    ("exposure-share@2", "genres=A"): (4.5 / 8,),
    ("provider-gini@2", "genres"): ((4.5 - 3.5) / (2 * 8),),
    # By size A is large and B in the middle: the small are nobody, and no third group that is shown nothing.
    ("provider-gini@2", "genres-size"): ((4.5 - 3.5) / (2 * 8),),
    ("exposure-kl@2", "genres"): (kl(6 / 8, 4.5 / 8),),
    ("rsp@2", "genres"): ((3.5 / 8.5 - 4.5 / 13.5) / (3.5 / 8.5 + 4.5 / 13.5),),
    ("reo@2", "genres"): (0,),
    ("users", ""): (4,),
    ("interactions", ""): (8,),
}

OF_THE_SPLIT = {"users", "interactions", "catalogue-share", "interaction-share", "relevance-share"}
"""What is the same whatever is shown."""

WITHOUT_TIES = {"rmse", "mae"}
"""What looks at scores, not at their order."""


@cache
def world() -> Split:
    pairs = [[(user, item) for user, items in part.items() for item in items] for part in (TRAIN, TEST)]
    split = split_of(7, 8, pairs[0], [], pairs[1], users={"gender": list(GENDERS)}, items={"genres": list(GENRES)})
    ratings = np.array([float(rating) for items in TEST.values() for rating in items.values()])
    return replace(split, test=replace(split.test, rating=ratings))


def measured(scores: Tensor) -> Values:
    """Everything that `evaluate` finds for scores of the first four users; groups of one user are compared too."""
    config = EvaluationConfig(
        k=(2,), metric="ndcg@2", groups=("gender",), item_groups=("genres", "genres-size"), embedding_dim=8
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "MIN_GROUP", 1)
        found = evaluate(lambda users: scores[users], world(), config, seed=0, rates=True)
    one = {(row.metric, row.group): (row.value,) for row in found.rows}
    return one | {(name, ""): tuple(values.tolist()) for name, values in found.per_user.items()}


def arm() -> Values:
    return measured(torch.tensor(SCORES, dtype=torch.float32))


def broken() -> set[str]:
    """The metrics that the arm no longer has the values of, worked by hand."""
    found = arm()
    wrong = {row for row, expected in BY_HAND.items() if found[row] != pytest.approx(expected, abs=1e-9)}
    return {metric_of(name).name for name, _ in wrong}


def mutated(function: Any, old: str, new: str, names: Mapping[str, Any]) -> Any:
    """A function compiled anew with one piece of its source replaced."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{function.__name__} has '{old}' {source.count(old)} times; mutate what it has once"
    scope = dict(names)
    exec(compile("from __future__ import annotations\n" + source.replace(old, new), "mutant", "exec"), scope)
    return scope[function.__name__]


def mutate(patch: pytest.MonkeyPatch, function: Any, old: str, new: str) -> None:
    """Replace a piece of a function wherever it was imported."""
    patch.setattr(function, "__code__", mutated(function, old, new, function.__globals__).__code__)


def interpret(patch: pytest.MonkeyPatch, old: str = "", new: str = "") -> None:
    """Take the compiled loops as the Python that they are, with a piece replaced."""
    source = inspect.getsource(_compiled).replace("@_compiled\n", "")
    assert old in source
    scope: dict[str, Any] = {}
    exec(compile(source.replace(old, new) if old else source, "mutant", "exec"), scope)
    for name in ("rank_tile", "sort_heaps", "count_wins"):
        patch.setattr(_compiled, name, scope[name])


@pytest.fixture(autouse=True)
def wrapping() -> Iterator[None]:
    with np.errstate(over="ignore"):  # the hash wraps around, which NumPy's own numbers say
        yield


@pytest.mark.parametrize("path", ["compiled", "interpreted", "plain"])
def test_every_metric_has_the_value_worked_by_hand(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {metric_of(name).name for name, _ in BY_HAND} == set(METRICS)
    if path == "interpreted":
        interpret(monkeypatch)
    if path == "plain":
        mutate(monkeypatch, topk.rank, 'scores.device.type == "cpu"', "False")
    assert broken() == set()


@pytest.mark.parametrize("path", ["compiled", "plain"])
def test_every_metric_notices_the_worst_first(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "plain":
        mutate(monkeypatch, topk.rank, 'scores.device.type == "cpu"', "False")
    mutate(monkeypatch, topk.score_chunks, "scores = score(some)", "scores = -score(some)")
    assert broken() == set(METRICS) - OF_THE_SPLIT


@pytest.mark.parametrize("path", ["interpreted", "plain"])
def test_every_metric_of_lists_notices_ties_in_the_other_order(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "plain":
        mutate(monkeypatch, topk.rank, 'scores.device.type == "cpu"', "False")
        mutate(monkeypatch, csr.tie_hash, "return ties", "return ~ties")
    else:
        interpret(monkeypatch, "return np.int64(x ^", "return ~np.int64(x ^")
    # The area counts level pairs half, in whatever order they are listed.
    assert broken() == set(METRICS) - OF_THE_SPLIT - WITHOUT_TIES - {"auc"}


@pytest.mark.parametrize(("old", "new"), [("(x <= score)", "(x < score)"), ("(x < score)", "(x <= score)")])
def test_the_area_notices_ties_that_are_won_or_lost(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interpret(monkeypatch, old, new)
    assert "auc" in broken()


@pytest.mark.parametrize(
    ("old", "new"), [("right=True", "right=False"), ("contiguous())\n", "contiguous(), right=True)\n")]
)
def test_the_plain_area_notices_ties_that_are_won_or_lost(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, topk.rank, 'scores.device.type == "cpu"', "False")
    mutate(monkeypatch, accuracy.auc, old, new)
    assert "auc" in broken()


class Mutation(NamedTuple):
    """A piece of a function, and what takes its place."""

    function: Callable[..., Any]
    old: str
    new: str


MUTATIONS: Mapping[str, tuple[Mutation, ...]] = {
    "precision": (Mutation(accuracy.precision, "/ hits.shape[1]", "/ relevant"),),
    "recall": (Mutation(accuracy.recall, "/ relevant", "/ hits.shape[1]"),),
    "hit-rate": (Mutation(accuracy.hit_rate, ".any(", ".all("),),
    "f1": (Mutation(accuracy.f1, "2.0 *", "1.0 *"), Mutation(accuracy.f1, "+ relevant)", "+ 1)")),
    "ndcg": (
        Mutation(accuracy.discounts, "_ranks(k) + 1.0", "_ranks(k) + 2.0"),
        Mutation(accuracy.discounts, "1.0 / torch.log2(_ranks(k) + 1.0)", "1.0 / _ranks(k)"),
        Mutation(accuracy.discounts, "1.0 / torch.log2(_ranks(k) + 1.0)", "torch.log2(_ranks(k) + 1.0)"),
        Mutation(accuracy.ndcg, "discount.cumsum(dim=0)", "discount.flip(0).cumsum(dim=0)"),
    ),
    "mrr": (
        Mutation(accuracy.mrr, "_ranks(hits.shape[1])", "(_ranks(hits.shape[1]) + 1.0)"),
        Mutation(accuracy.mrr, "_ranks(hits.shape[1])", "_ranks(hits.shape[1]).flip(0)"),
        Mutation(accuracy.mrr, ".amax(", ".amin("),
    ),
    "map": (
        Mutation(accuracy.average_precision, "/ _ranks(k)", "/ (_ranks(k) + 1.0)"),
        Mutation(accuracy.average_precision, "relevant.clamp(max=k)", "relevant"),
    ),
    "auc": (Mutation(Heaps.areas, "(2 * pairs", "(1 * pairs"),),
    "rmse": (Mutation(accuracy.rmse, ".sqrt()", ""), Mutation(accuracy.rmse, ".square()", ".abs()")),
    "mae": (Mutation(accuracy.mae, ".abs()", ""),),
    "novelty": (
        Mutation(diversity.novelty, ".double()) - torch", ".double()) + torch"),
        Mutation(diversity.novelty, "torch.log2(popularity.sum().double())", "0.0"),
    ),
    "intra-list-diversity": (Mutation(diversity.intra_list_diversity, "1.0 - mean", "mean"),),
    "embedding-diversity": (Mutation(diversity.embedding_diversity, "1.0 - mean", "mean"),),
    "calibration-error": (
        Mutation(diversity.calibration_error, "divergence(wanted, shown)", "divergence(shown, wanted)"),
        Mutation(diversity.divergence, "wanted / mixed", "mixed / wanted"),
    ),
    "long-tail-share": (
        Mutation(popularity.long_tail_share, "(tail[", "(~tail["),
        Mutation(popularity.long_tail, "return popularity <", "return popularity >="),
        Mutation(popularity.long_tail, "argmax())] * (1.0 - ", "argmax())] * (1.0 + "),
        Mutation(popularity.long_tail, "head * popularity", "popularity"),
        Mutation(popularity.long_tail, "sort(descending=True)", "sort()"),
    ),
    "serendipity": (
        Mutation(popularity.serendipity, "] < bar", "] >= bar"),
        Mutation(popularity.serendipity, "] < bar", "] <= bar"),
    ),
    "coverage": (Mutation(diversity.coverage, "shown > 0", "shown == 0"),),
    "gini": (
        Mutation(diversity.gini, "2 * rank - n - 1", "n + 1 - 2 * rank"),
        Mutation(diversity.gini, "2 * rank - n - 1", "2 * rank - n"),
    ),
    "entropy": (
        Mutation(diversity.entropy, "entr(share)", "entr(share).neg()"),
        Mutation(diversity.entropy, "tensor(2.0", "tensor(10.0"),
    ),
    "personalization": (Mutation(diversity.unlikeness, "1.0 - float(", "float("),),
    "popularity-lift": (
        Mutation(diversity.popularity_lift, "popularity.double()", "1.0 / popularity.double()"),
        Mutation(diversity.popularity_lift, "/ history.mean()", "- history.mean()"),
    ),
    "gap": (Mutation(fairness.gap, "means.max() - means.min()", "means.min() - means.max()"),),
    "worst-group": (Mutation(fairness.worst_group, "means.min())", "means.max())"),),
    "ratio": (Mutation(fairness.ratio, "means.min() / means.max()", "means.max() / means.min()"),),
    "coefficient-of-variation": (
        Mutation(fairness.coefficient_of_variation, "correction=0", "correction=1"),
        Mutation(fairness.coefficient_of_variation, "(correction=0) / mean", "(correction=0)"),
    ),
    "worst-decile": (Mutation(fairness.worst_decile, ".sort()", ".sort(descending=True)"),),
    "exposure-share": (Mutation(providers.share, "/ amounts.sum()", "/ amounts.max()"),),
    "catalogue-share": (Mutation(providers.share, "/ amounts.sum()", "/ amounts.max()"),),
    "interaction-share": (Mutation(providers.share, "/ amounts.sum()", "/ amounts.max()"),),
    "exposure-lift": (
        Mutation(
            providers.exposure_lift, "share(exposure) / share(interactions)", "share(interactions) / share(exposure)"
        ),
        Mutation(providers.exposure_lift, "/ share", "- share"),
    ),
    "provider-recall": (Mutation(providers.provider_recall, "/ relevant", "* relevant"),),
    "ndcg-contribution": (
        Mutation(providers.ndcg_contribution, "/ users", "* users"),
        Mutation(accuracy.ndcg_gains, "hits * discount", "hits / discount"),
        Mutation(accuracy.ndcg_gains, "hits * discount", "hits * discount.flip(0)"),
        Mutation(accuracy.ndcg_gains, "relevant.clamp(max=k) - 1", "relevant.clamp(max=1) - 1"),
        Mutation(accuracy.discounts, "_ranks(k) + 1.0", "_ranks(k) + 2.0"),
    ),
    "relevance-share": (Mutation(providers.share, "/ amounts.sum()", "/ amounts.max()"),),
    "rsp": (
        Mutation(providers.statistical_parity, "/ candidates", "* candidates"),
        Mutation(providers.statistical_parity, "return coeff", "return 1 - coeff"),
    ),
    "reo": (
        Mutation(providers.equal_opportunity, "/ relevant", "* relevant"),
        Mutation(providers.equal_opportunity, "return coeff", "return 1 - coeff"),
    ),
    "provider-gini": (
        Mutation(providers.provider_gini, "gini(exposure)", "1 - gini(exposure)"),
        Mutation(measures.exposures, "shown[stock > 0]", "shown"),
    ),
    "exposure-kl": (
        Mutation(
            providers.exposure_divergence,
            "share(relevance).unsqueeze(0), share(exposure)",
            "share(exposure).unsqueeze(0), share(relevance)",
        ),
        Mutation(diversity.divergence, "wanted / mixed", "mixed / wanted"),
    ),
    "users": (Mutation(measures.counts, "len(relevant)", "relevant.sum()"),),
    "interactions": (Mutation(measures.counts, "relevant.sum()", "len(relevant)"),),
}
"""What turns each metric's formula over: its discount, its sign, what it is divided by."""


def test_every_metric_has_a_mutation() -> None:
    assert set(MUTATIONS) == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_notices_another_formula(name: str) -> None:
    for function, old, new in MUTATIONS[name]:
        with pytest.MonkeyPatch.context() as patch:
            mutate(patch, function, old, new)
            assert name in broken(), f"{name} is the same with '{new}' for '{old}'"
    assert name not in broken()  # nothing of the mutation stays


@cache
def better_and_worse() -> tuple[Values, Values]:
    """The test items by rating; and the most popular items for everyone, however little they fit."""
    test = world().test
    assert test.rating is not None
    ideal, popular = torch.zeros(7, 8), torch.from_numpy(world().train.item_degrees).float().expand(7, 8)
    ideal[test.user, test.item] = torch.from_numpy(test.rating).float()
    by_code = 0.001 * torch.arange(8)  # no ties among those without a rating, or equally popular
    return measured(ideal - by_code * (ideal == 0)), measured(popular - by_code)


def direction(name: str) -> str:
    """Which way a metric goes from the worse arm to the better one; nowhere fails."""
    better, worse = better_and_worse()
    known = [row for row in better if row in worse and metric_of(row[0]).name == name]
    rows = [row for row in known if "=" not in row[1]] or known  # some metrics have a row for each group and no other
    gained = [sum(better[row]) / len(better[row]) - sum(worse[row]) / len(worse[row]) for row in rows]
    moved = {"+" if gain > 0 else "-" for gain in gained if abs(gain) > 1e-6}
    assert len(moved) == 1, f"{name} moves both ways, or not at all: {gained}"
    return moved.pop()


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.orientation != "·"])
def test_every_orientation_is_the_way_from_worse_to_better(name: str) -> None:
    assert METRICS[name].orientation == direction(name)
