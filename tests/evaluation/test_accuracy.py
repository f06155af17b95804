"""Accuracy against values worked by hand, against its laws, and against independent libraries."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrec.errors import DataError
from fedrec.evaluation.accuracy import ACCURACY, accuracy_at, auc, mae, rmse

HITS = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
RELEVANT = torch.tensor([3, 1, 2, 8])

BY_HAND = {
    "precision": [2 / 5, 1 / 5, 0, 1],
    "recall": [2 / 3, 1, 0, 5 / 8],
    "hit-rate": [1, 1, 0, 1],
    "f1": [1 / 2, 1 / 3, 0, 10 / 13],
    "ndcg": [1.5 / (1.5 + 1 / math.log2(3)), 1 / math.log2(6), 0, 1],
    "mrr": [1, 1 / 5, 0, 1],
    "map": [(1 + 2 / 3) / 3, 1 / 5, 0, 1],
}


@st.composite
def results(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Hits of some users and how many items were relevant."""
    users, k = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    rows = draw(st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=users, max_size=users))
    hits = torch.tensor(rows, dtype=torch.bool)
    missed = draw(st.lists(st.integers(0, 5), min_size=users, max_size=users))
    return hits, (hits.sum(1) + torch.tensor(missed)).clamp(min=1)


@pytest.mark.parametrize("name", ACCURACY)
def test_values_worked_by_hand(name: str) -> None:
    expected = torch.tensor(BY_HAND[name], dtype=torch.float64)
    torch.testing.assert_close(ACCURACY[name](HITS, RELEVANT), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ACCURACY)
@settings(max_examples=60, deadline=None)
@given(results())
def test_bounds_and_order_of_users(name: str, result: tuple[Tensor, Tensor]) -> None:
    hits, relevant = result
    values = ACCURACY[name](hits, relevant)
    assert values.dtype == torch.float64
    assert ((values >= 0) & (values <= 1)).all()
    assert torch.equal(values > 0, hits.any(1))
    torch.testing.assert_close(ACCURACY[name](hits.flip(0), relevant.flip(0)), values.flip(0), rtol=0, atol=0)


@pytest.mark.parametrize("name", ACCURACY)
@settings(max_examples=60, deadline=None)
@given(results(), st.data())
def test_more_or_earlier_hits_are_never_worse(name: str, result: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    hits, relevant = result
    relevant = relevant + 1
    metric = ACCURACY[name]
    before, rank = metric(hits, relevant), data.draw(st.integers(0, hits.shape[1] - 1))
    more = hits.clone()
    more[:, rank] = True
    assert (metric(more, relevant) >= before - 1e-15).all()
    earlier = torch.cat([hits[:, rank : rank + 1], hits[:, :rank], hits[:, rank + 1 :]], dim=1)
    moved = metric(earlier, relevant)
    if name in ("ndcg", "mrr", "map"):
        assert (moved[hits[:, rank]] >= before[hits[:, rank]] - 1e-15).all()
    else:
        assert torch.equal(moved, before)


@pytest.mark.parametrize("name", ["ndcg", "mrr", "map"])
def test_an_earlier_hit_is_strictly_better(name: str) -> None:
    first, second = (torch.tensor([row], dtype=torch.bool) for row in ([1, 0, 0], [0, 1, 0]))
    assert ACCURACY[name](first, torch.tensor([2])) > ACCURACY[name](second, torch.tensor([2]))


@pytest.mark.parametrize("name", ["precision", "hit-rate", "ndcg", "mrr", "map"])
@pytest.mark.parametrize("relevant", [20, 25])
def test_a_perfect_list_is_exactly_one(name: str, relevant: int) -> None:
    assert ACCURACY[name](torch.ones(1, 20, dtype=torch.bool), torch.tensor([relevant])).item() == 1.0


@pytest.mark.parametrize("name", ACCURACY)
def test_a_user_without_a_relevant_item_raises(name: str) -> None:
    with pytest.raises(DataError, match="1 users have no relevant item"):
        ACCURACY[name](torch.zeros(2, 3, dtype=torch.bool), torch.tensor([1, 0]))


def test_accuracy_at_cuts_the_list() -> None:
    values = accuracy_at(HITS, RELEVANT, (2, 5))
    assert len(values) == 2 * len(ACCURACY)
    assert values["recall@2"].tolist() == [1 / 3, 0, 0, 2 / 8]
    assert values["recall@5"].tolist() == BY_HAND["recall"]


def lists_and_labels() -> tuple[Tensor, list[list[int]], Tensor, Tensor]:
    """Random lists of 10 of 30 items and 1 to 14 relevant items a user."""
    draw = np.random.default_rng(3)
    lists = torch.from_numpy(np.stack([draw.permutation(30)[:10] for _ in range(60)]))
    labels = [draw.permutation(30)[: draw.integers(1, 15)].tolist() for _ in range(60)]
    hits = torch.tensor(
        [[item in set(label) for item in row] for row, label in zip(lists.tolist(), labels, strict=True)]
    )
    return lists, labels, hits, torch.tensor([len(label) for label in labels])


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("precision", "LinkPredPrecision"),
        ("recall", "LinkPredRecall"),
        ("f1", "LinkPredF1"),
        ("map", "LinkPredMAP"),
        ("ndcg", "LinkPredNDCG"),
        ("mrr", "LinkPredMRR"),
        ("hit-rate", "LinkPredHitRatio"),
    ],
)
def test_agrees_with_torch_geometric(name: str, theirs: str) -> None:
    import torch_geometric.metrics

    lists, labels, hits, relevant = lists_and_labels()
    metric = getattr(torch_geometric.metrics, theirs)(10)
    edges = torch.tensor([(user, item) for user, label in enumerate(labels) for item in label]).T
    metric.update(lists, edges)
    assert float(ACCURACY[name](hits, relevant).mean()) == pytest.approx(float(metric.compute()), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("precision", "P@10"),
        ("recall", "R@10"),
        ("hit-rate", "Success@10"),
        ("ndcg", "nDCG@10"),
        ("mrr", "RR@10"),
        ("map", "AP@10"),
    ],
)
def test_agrees_with_ir_measures(name: str, theirs: str) -> None:
    """User by user. trec_eval divides AP by all relevant items, so MAP is compared where they fit into the list."""
    import ir_measures

    lists, labels, hits, relevant = lists_and_labels()
    qrels = pd.DataFrame(
        [(str(user), str(item), 1) for user, label in enumerate(labels) for item in label],
        columns=["query_id", "doc_id", "relevance"],
    )
    run = pd.DataFrame(
        [
            (str(user), str(item), -float(rank))
            for user, row in enumerate(lists.tolist())
            for rank, item in enumerate(row)
        ],
        columns=["query_id", "doc_id", "score"],
    )
    measured = ir_measures.iter_calc([ir_measures.parse_measure(theirs)], qrels, run)
    expected = {int(result.query_id): result.value for result in measured}
    ours = ACCURACY[name](hits, relevant)
    compared = [user for user in range(len(labels)) if name != "map" or relevant[user] <= 10]
    assert len(compared) > 30
    for user in compared:
        assert float(ours[user]) == pytest.approx(expected[user], abs=1e-9)


def test_ndcg_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import ndcg_score

    lists, labels, hits, relevant = lists_and_labels()
    truth, score = np.zeros((60, 30)), np.zeros((60, 30))
    for user, (row, label) in enumerate(zip(lists.tolist(), labels, strict=True)):
        truth[user, label] = 1
        score[user, row] = np.arange(10, 0, -1)
    # Where our list ends, scikit-learn averages over tied scores: cut at the same place, ties beyond do not enter.
    assert float(ACCURACY["ndcg"](hits, relevant).mean()) == pytest.approx(ndcg_score(truth, score, k=10), abs=1e-12)


NONE = -torch.inf


def test_the_area_by_hand() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, NONE], [1.0, 1.0, 1.0, 1.0], [5.0, 4.0, 3.0, 3.0], [1.0, NONE, NONE, NONE]])
    relevant = torch.tensor([[0, 1, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    # Below both others; level with all; 2 of 2, and ½ of 2; nothing to be above of.
    assert auc(scores, relevant).tolist() == [0.0, 0.5, (2 + 0.5) / 4, 0.5]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2, 5, 1000]))
def test_the_area_is_that_of_scikit_learn_and_turns_with_the_scores(seed: int, levels: int) -> None:
    from sklearn.metrics import roc_auc_score

    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (4, 12), generator=generator).double()
    relevant = torch.rand(4, 12, generator=generator) < 0.4
    relevant[:, 0], relevant[:, 1] = True, False
    found = auc(scores, relevant)
    for row, flags, value in zip(scores, relevant, found, strict=True):
        assert float(value) == pytest.approx(roc_auc_score(flags.numpy(), row.numpy()), abs=1e-12)
    torch.testing.assert_close(auc(-scores, relevant), 1.0 - found, rtol=0, atol=1e-12)
    torch.testing.assert_close(auc(scores, ~relevant), 1.0 - found, rtol=0, atol=1e-12)
    assert torch.equal(auc(2 * scores - 3, relevant), found)  # the order of scores alone counts


def test_an_area_needs_a_relevant_candidate() -> None:
    with pytest.raises(DataError, match="1 users have no relevant item"):
        auc(torch.tensor([[1.0, NONE]]), torch.tensor([[False, True]]))


def test_rating_errors_by_hand() -> None:
    predicted, rating = torch.tensor([1.0, 5.0, 3.0]), torch.tensor([2.0, 3.0, 3.0])
    assert rmse(predicted, rating) == pytest.approx((5 / 3) ** 0.5)
    assert mae(predicted, rating) == 1.0
    for metric in (rmse, mae):
        with pytest.raises(DataError, match="no rating"):
            metric(torch.empty(0), torch.empty(0))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=20))
def test_rating_errors_laws(pairs: list[tuple[float, float]]) -> None:
    predicted, rating = torch.tensor(pairs, dtype=torch.float64).T
    assert 0 <= mae(predicted, rating) <= rmse(predicted, rating) + 1e-12
    assert rmse(rating, rating) == mae(rating, rating) == 0.0
    assert mae(rating + 2, rating) == pytest.approx(2.0)
    assert rmse(predicted.flip(0), rating.flip(0)) == pytest.approx(rmse(predicted, rating))
