"""Exposure of groups of items against what there is and what is wanted."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import ConfigError, DataError
from fedrec.evaluation import diversity, providers

from .small import split_of

amounts = st.lists(st.integers(1, 50), min_size=2, max_size=12).map(torch.tensor)


def test_groups_of_a_column_share_items_out() -> None:
    groups = providers.column_groups(pd.Series(["b", "a|b", None, "", "c"], name="kind"))
    assert (groups.name, groups.labels) == ("kind", ("a", "b", "c"))
    assert groups.share_out(torch.ones(5)).tolist() == [0.5, 1.5, 1.0]
    assert groups.share_out(torch.tensor([1, 2, 4, 8, 16])).tolist() == [1.0, 2.0, 16.0]


def test_item_groups_are_what_is_known() -> None:
    train = split_of(3, 4, [(0, 0), (1, 0), (1, 1), (2, 0)], [], [], items={"author_id": ["x", "y", "x", "z"]}).train
    popularity, author, size = providers.item_groups(train)
    assert (popularity.name, popularity.labels, author.name) == ("popularity", ("low", "middle", "high"), "author_id")
    assert (size.name, size.labels) == ("author_id-size", ("small", "middle", "large"))
    assert popularity.share_out(torch.ones(4)).tolist() == [1.0, 1.0, 0.0]  # items that nobody had are of no tercile
    assert author.share_out(torch.tensor([3, 1, 0, 0])).tolist() == [3.0, 1.0, 0.0]
    with pytest.raises(ConfigError, match="no item column 'autor_id'; did you mean 'author_id'"):
        providers.item_groups(train, ["autor_id"])
    with pytest.raises(ConfigError, match="no item column 'autor_id-size'; did you mean 'author_id-size'"):
        providers.item_groups(train, ["autor_id-size"])


@pytest.mark.parametrize(
    ("popularity", "groups"),
    [
        # Of 20 interactions a has 10, b 6, c 4 and d none: a has the first 20%, a and b the first 80%.
        ([7, 3, 6, 4, 0], [2, 2, 1, 0, 0]),
        # a 9, b 5, c 6: a and c have 75%, so that b is no small one.
        ([9, 0, 5, 6, 0], [2, 2, 1, 1, 0]),
        # a 16 and b and c 2 each: a has 80% alone, and nobody is in the middle.
        ([10, 6, 2, 2, 0], [2, 2, 0, 0, 0]),
        # a 12, b and c 4 each: either would complete the 80%, and they are equals.
        ([12, 0, 4, 4, 0], [2, 2, 1, 1, 0]),
        # a and b 7 each, c 4, d 2: either would be the first with 20%.
        ([3, 4, 7, 4, 2], [2, 2, 2, 1, 0]),
    ],
)
def test_sizes_are_the_fewest_with_a_fifth_and_with_four_fifths(popularity: list[int], groups: list[int]) -> None:
    authors = providers.column_groups(pd.Series(["a", "a", "b", "c", "d"], name="author"))
    found = providers.by_size(authors, torch.tensor(popularity))
    assert (found.name, found.labels, found.n_items) == ("author-size", ("small", "middle", "large"), 5)
    assert (found.item.tolist(), found.group.tolist()) == ([0, 1, 2, 3, 4], groups)


@pytest.mark.parametrize(
    ("items", "popularity", "groups"),
    [
        # a 1 + 1 + 1/3, c the same, b 1 + 1/3 + 1: equals, who have a third of 7 each.
        (["a|c", "a|b|c", "a|b|c", "b"], [2, 3, 1, 1], {"a": 2, "b": 2, "c": 2}),
        # In sixths: c 33 + 20 + 18, d 33 + 20, a 20 + 24, b 24 + 18. Of these 210 c has 71, more than a fifth; c, d and
        # a have 168, which is 80% and not a bit less.
        (["c|d", "a|c|d", "a|b", "b|c"], [11, 10, 8, 6], {"a": 1, "b": 0, "c": 2, "d": 1}),
    ],
)
def test_sizes_of_authors_who_share_items_are_not_decided_by_rounding(
    items: list[str], popularity: list[int], groups: dict[str, int]
) -> None:
    authors = providers.column_groups(pd.Series(items, name="author"))
    found = providers.by_size(authors, torch.tensor(popularity)).group.tolist()
    named = {(authors.labels[author], size) for author, size in zip(authors.group.tolist(), found, strict=True)}
    assert named == set(groups.items())


@settings(max_examples=300)  # with sums compared to the last bit, one example in a hundred fails
@given(
    st.lists(st.tuples(st.sets(st.sampled_from("abc"), min_size=1), st.integers(0, 3)), min_size=1, max_size=6).filter(
        lambda items: any(count for _, count in items)
    )
)
def test_sizes_are_those_of_exact_fractions(items: list[tuple[set[str], int]]) -> None:
    size: dict[str, Fraction] = {}
    for names, count in items:
        for name in names:
            size[name] = size.get(name, Fraction(0)) + Fraction(count, len(names))
    authors = providers.column_groups(pd.Series(["|".join(names) for names, _ in items], name="author"))
    found = providers.by_size(authors, torch.tensor([count for _, count in items]))
    whole, ranked = sum(size.values()), sorted(size.values(), reverse=True)
    smallest = [  # of those who together have a share, the fewest of them
        next(last for n, last in enumerate(ranked, start=1) if sum(ranked[:n]) >= share * whole)
        for share in (Fraction(4, 5), Fraction(1, 5))
    ]
    for author, group in zip(authors.group.tolist(), found.group.tolist(), strict=True):
        assert group == sum(size[authors.labels[author]] >= bound for bound in smallest)


def test_amounts_are_counted_in_full_for_every_group_of_an_item_and_once() -> None:
    groups = providers.column_groups(pd.Series(["b", "a|b", None, "a|b|c"], name="author"))
    assert groups.count(torch.tensor([1, 2, 4, 8])).tolist() == [10.0, 11.0, 8.0]
    # a has 3 2/3, b 4 2/3 and c 2 2/3 of 11: b alone has a fifth, and 80% takes all three.
    sizes = providers.by_size(groups, torch.tensor([1, 2, 4, 8]))
    assert sizes.count(torch.tensor([1, 2, 4, 8])).tolist() == [0.0, 10.0, 11.0]
    alike = providers.by_size(groups, torch.tensor([0, 1, 0, 0]))  # a and b are large, both
    assert alike.count(torch.tensor([0, 1, 0, 1])).tolist() == [1.0, 0.0, 2.0]


def test_an_item_of_a_large_and_a_small_author_is_of_each_by_half() -> None:
    authors = providers.column_groups(pd.Series(["a", "a|b", None], name="author"))  # a has 10 and b 2, c is unknown
    found = providers.by_size(authors, torch.tensor([8, 4, 100]))
    assert found.share_out(torch.ones(3)).tolist() == [0.5, 0.0, 1.5]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=4, max_size=12).filter(any), st.randoms(use_true_random=False))
def test_small_authors_are_smaller_than_large_ones_in_any_order(popularity: list[int], random: Random) -> None:
    names = [random.choice("abcde") for _ in popularity]
    order = random.sample(range(len(names)), len(names))
    authors = providers.column_groups(pd.Series(names, name="author"))
    shuffled = providers.column_groups(pd.Series([names[place] for place in order], name="author"))
    found = providers.by_size(authors, torch.tensor(popularity))
    again = providers.by_size(shuffled, torch.tensor([popularity[place] for place in order]))
    assert again.group.tolist() == found.group[order].tolist()
    size = authors.share_out(torch.tensor(popularity))
    for least, share in ((1, 0.8), (2, 0.2)):
        inside = torch.zeros(len(size), dtype=torch.bool).index_fill(0, authors.group[found.group >= least], True)
        smallest = size[inside].min()
        assert size[inside].sum() >= share * size.sum() > size[size > smallest].sum()
        assert not (size[~inside] >= smallest).any()


def test_shares_by_hand() -> None:
    assert providers.share(torch.tensor([1, 3])).tolist() == [0.25, 0.75]
    with pytest.raises(DataError, match="anything to share"):
        providers.share(torch.zeros(2))


def test_lift_recall_and_contribution_by_hand() -> None:
    # A quarter and three quarters of the places, a fifth and four fifths of the interactions.
    lift = providers.exposure_lift(torch.tensor([1, 3]), torch.tensor([2, 8]))
    assert lift.tolist() == pytest.approx([1.25, 0.9375])
    assert providers.provider_recall(torch.tensor([1, 3]), torch.tensor([4, 3])).tolist() == [0.25, 1.0]
    assert providers.ndcg_contribution(torch.tensor([1.5, 0.5]), 8).tolist() == [0.1875, 0.0625]
    with pytest.raises(DataError, match="anything to share"):
        providers.exposure_lift(torch.tensor([1, 3]), torch.zeros(2))


@given(amounts)
def test_lifts_are_1_on_average_over_interactions_and_everywhere_where_lists_follow(trained: torch.Tensor) -> None:
    lift = providers.exposure_lift(trained.flip(0), trained)
    assert float((providers.share(trained) * lift).sum()) == pytest.approx(1.0)
    assert providers.exposure_lift(7 * trained, trained).tolist() == pytest.approx([1.0] * len(trained))


@given(amounts)
def test_recall_of_groups_is_what_equal_opportunity_compares(relevant: torch.Tensor) -> None:
    hits = relevant // 2
    expected = scipy.stats.variation(providers.provider_recall(hits, relevant).numpy()) if hits.any() else 0.0
    assert providers.equal_opportunity(hits, relevant) == pytest.approx(expected)


def test_parity_and_opportunity_by_hand() -> None:
    # Chances 1/2 and 1/4: deviation 1/8 over mean 3/8. A group without candidates, or relevant items, is left out.
    exposure, out_of = torch.tensor([5, 5, 0]), torch.tensor([10, 20, 0])
    assert providers.statistical_parity(exposure, out_of) == pytest.approx(1 / 3)
    assert providers.equal_opportunity(exposure, out_of) == pytest.approx(1 / 3)


@given(amounts, st.integers(2, 9))
def test_equal_chances_are_parity_and_more_for_one_is_worse(out_of: torch.Tensor, factor: int) -> None:
    for metric in (providers.statistical_parity, providers.equal_opportunity):
        assert metric(out_of, factor * out_of) == pytest.approx(0.0, abs=1e-12)
        favoured = out_of.clone()
        favoured[0] *= factor
        assert metric(favoured, 10 * out_of) > 0.0
        more = favoured.clone()
        more[0] *= 2
        assert metric(more, 20 * out_of) > metric(favoured, 20 * out_of)
        assert metric(favoured.flip(0), (10 * out_of).flip(0)) == pytest.approx(metric(favoured, 10 * out_of))


@given(amounts)
def test_spread_is_the_variation_of_scipy(exposure: torch.Tensor) -> None:
    expected = scipy.stats.variation((exposure / 100).double().numpy())
    assert providers.statistical_parity(exposure, torch.full_like(exposure, 100)) == pytest.approx(expected, abs=1e-6)


def test_exposure_divergence_by_hand() -> None:
    # All is wanted of the first group and half of the exposure is its: ln(1 / (.99 / 2 + .01)).
    found = providers.exposure_divergence(torch.tensor([3, 3]), torch.tensor([7, 0]))
    assert found == pytest.approx(-np.log(0.505))
    # Nothing of what is wanted is shown: ln(1 / .01).
    assert providers.exposure_divergence(torch.tensor([0, 3]), torch.tensor([7, 0])) == pytest.approx(np.log(100))


@given(amounts)
def test_exposure_divergence_is_that_of_scipy_and_0_for_merit(relevance: torch.Tensor) -> None:
    exposure = relevance.flip(0)
    r, e = (x.double().numpy() / float(x.sum()) for x in (relevance, exposure))
    expected = scipy.stats.entropy(r, 0.99 * e + 0.01 * r)
    assert providers.exposure_divergence(exposure, relevance) == pytest.approx(expected, abs=1e-9)
    assert providers.exposure_divergence(3 * relevance, relevance) == pytest.approx(0.0, abs=1e-12)


def test_provider_gini_is_gini_over_groups() -> None:
    assert providers.provider_gini(torch.tensor([0.0, 4.0])) == 0.5
    assert providers.provider_gini(torch.tensor([2.5, 2.5])) == diversity.gini(torch.tensor([1, 1])) == 0.0
