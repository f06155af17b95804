"""The long tail, and what is right without being popular."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.evaluation import popularity as of
from fedrec.evaluation.accuracy import precision

from .small import csr_of


def test_the_long_tail_by_hand() -> None:
    # 10 interactions: 5 + 3 reach 8.
    assert of.long_tail(torch.tensor([1, 5, 3, 1, 0])).tolist() == [True, False, False, True, True]
    # 6 + 1 + 1 reach 8, and a third item is as popular as those.
    assert of.long_tail(torch.tensor([6, 1, 1, 1, 0, 1])).tolist() == [False, False, False, False, True, False]


def test_the_long_tail_of_many_interactions() -> None:
    """Four items have exactly 80% of 83,886,085, which no float32 can say."""
    popularity = torch.tensor([16_777_217] * 4 + [16_777_216, 1])
    assert of.long_tail(popularity).tolist() == [False] * 4 + [True] * 2


def test_the_long_tail_of_shares_is_not_decided_by_rounding() -> None:
    third = torch.tensor([0.1 + 0.2, 0.3, 0.3], dtype=torch.float64)
    assert third[0] > third[1]
    assert of.long_tail(third, 0.3).tolist() == [False] * 3  # the last of the head is the first, and they are equals
    shares = torch.tensor([0.7, 0.1, 0.2], dtype=torch.float64)  # in this order .7 + .2 is less than .9
    assert of.long_tail(shares, 0.9).tolist() == [False, True, False]
    # What differs is told apart, however little: 10⁸ from 10⁸ - 1.
    assert of.long_tail(torch.tensor([100_000_000, 99_999_999]), 0.5).tolist() == [False, True]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any), st.integers(0, 2**32))
def test_the_head_is_the_most_popular_and_enough(counts: list[int], seed: int) -> None:
    popularity = torch.tensor(counts)
    tail = of.long_tail(popularity)
    head = popularity[~tail]
    assert head.sum() >= 0.8 * popularity.sum()
    assert not tail.any() or int(popularity[tail].max()) < int(head.min())
    assert head[head > head.min()].sum() < 0.8 * popularity.sum()  # and no more than that
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(of.long_tail(popularity[order]), tail[order])


def test_long_tail_share_by_hand() -> None:
    tail = torch.tensor([False, True, True, False])
    lists = torch.tensor([[0, 1, 2], [3, 0, -1], [1, -1, -1], [-1, -1, -1]])
    assert of.long_tail_share(lists, tail).tolist() == [2 / 3, 0.0, 1.0, 0.0]


def test_the_bar_by_hand() -> None:
    popularity = torch.tensor([9, 7, 7, 5, 1, 0])
    known = csr_of([[], [0], [0, 1, 2], [0, 1, 2, 3, 4]])
    assert of.popularity_bar(popularity, known, 1).tolist() == [9, 7, 5, 0]
    assert of.popularity_bar(popularity, known, 2).tolist() == [7, 7, 1, 0]
    assert of.popularity_bar(popularity, known, 3).tolist() == [7, 5, 0, 0]
    assert of.popularity_bar(popularity, known, 6).tolist() == [0, 0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_the_bar_is_the_kth_largest_of_the_candidates(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    popularity = torch.randint(6, (12,), generator=generator)
    known = (torch.rand(7, 12, generator=generator) < 0.4).tolist()
    rows = [[item for item in range(12) if flags[item]] for flags in known]
    bars = of.popularity_bar(popularity, csr_of(rows), k).tolist()
    for row, bar in zip(rows, bars, strict=True):
        left = sorted((int(popularity[item]) for item in range(12) if item not in row), reverse=True)
        assert bar == (left[k - 1] if len(left) >= k else 0)


def test_serendipity_by_hand() -> None:
    popularity = torch.tensor([9, 7, 5, 1])
    lists = torch.tensor([[0, 2, 3], [2, 3, -1]])
    hits = torch.tensor([[True, True, False], [True, True, False]])
    # For the first user items of 7 or more are expected, for the second those of 5 or more.
    assert of.serendipity(lists, hits, popularity, torch.tensor([7, 5])).tolist() == [1 / 3, 1 / 3]
    assert of.serendipity(lists, ~hits, popularity, torch.tensor([7, 5])).tolist() == [1 / 3, 0.0]
    assert of.serendipity(lists, hits, popularity, torch.tensor([0, 0])).tolist() == [0.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_serendipity_lies_below_precision_and_the_popularity_list_has_none(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    popularity = torch.randperm(30, generator=generator)  # no ties: the list is the bar's
    lists = torch.stack([torch.randperm(30, generator=generator)[:5] for _ in range(6)])
    hits = torch.rand(6, 5, generator=generator) < 0.5
    bar = of.popularity_bar(popularity, csr_of([[]] * 6), 5)
    found = of.serendipity(lists, hits, popularity, bar)
    assert ((found >= 0) & (found <= precision(hits, torch.ones(6)))).all()
    popular = popularity.topk(5).indices.expand(6, 5)
    assert of.serendipity(popular, hits, popularity, bar).tolist() == [0.0] * 6
    rarest = popularity.topk(5, largest=False).indices.expand(6, 5)
    assert torch.equal(of.serendipity(rarest, hits, popularity, bar), hits.double().mean(1))


def test_the_mean_popularity_of_lists_is_that_of_torch_geometric() -> None:
    from torch_geometric.metrics import LinkPredAveragePopularity

    from fedrec.evaluation.diversity import popularity_lift

    generator = torch.Generator().manual_seed(2)
    popularity = torch.randint(1, 50, (40,), generator=generator)
    lists = torch.stack([torch.randperm(40, generator=generator)[:6] for _ in range(20)])
    metric = LinkPredAveragePopularity(6, popularity)
    metric.update(lists, torch.empty(2, 0, dtype=torch.int64))
    ours = popularity_lift(lists, popularity, torch.ones(20))  # over histories of mean 1
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)
