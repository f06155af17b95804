"""Exposure of groups of items against what there is and what is wanted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import given
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
    popularity, author = providers.item_groups(train)
    assert (popularity.name, popularity.labels, author.name) == ("popularity", ("low", "middle", "high"), "author_id")
    assert popularity.share_out(torch.ones(4)).tolist() == [1.0, 1.0, 0.0]  # items that nobody had are of no tercile
    assert author.share_out(torch.tensor([3, 1, 0, 0])).tolist() == [3.0, 1.0, 0.0]
    with pytest.raises(ConfigError, match="no item column 'autor_id'; did you mean 'author_id'"):
        providers.item_groups(train, ["autor_id"])


def test_shares_by_hand() -> None:
    assert providers.share(torch.tensor([1, 3])).tolist() == [0.25, 0.75]
    with pytest.raises(DataError, match="anything to share"):
        providers.share(torch.zeros(2))


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
