"""Intervals cover, tests hold their level, and seeds do not count as users."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import DataError
from fedrec.evaluation.statistics import (
    bootstrap_interval,
    bootstrap_intervals,
    bootstrap_means,
    compare,
    holm,
    over_seeds,
    wilcoxon,
)
from fedrec.streams import Streams


def generator(seed: int = 0) -> torch.Generator:
    return Streams(seed).generator("bootstrap")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_over_seeds_by_hand() -> None:
    assert over_seeds(torch.tensor([[1.0, 2.0], [3.0, 6.0]])).tolist() == [2.0, 4.0]
    assert over_seeds(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("values", [torch.empty(3, 0), torch.tensor([1.0, float("nan")])])
def test_values_that_have_no_mean_raise(values: torch.Tensor) -> None:
    with pytest.raises(DataError, match="at least one user and finite values"):
        over_seeds(values)


def test_bootstrap_means_have_the_moments_of_resampling() -> None:
    """Mean m and variance s²/n, s² the population variance; each within 4.9 standard errors (false alarm 1e-6)."""
    values, samples = normal(1, 50), 4000
    means = bootstrap_means(values, generator(), samples)[0]
    variance = float(values.var(correction=0)) / 50
    assert abs(float(means.mean() - values.mean())) < 4.9 * (variance / samples) ** 0.5
    assert abs(float(means.var()) / variance - 1) < 4.9 * (2 / samples) ** 0.5


def test_all_metrics_share_the_resamples() -> None:
    values = normal(1, 30)
    means = bootstrap_means(torch.cat([values, 2 * values]), generator(), 100)
    torch.testing.assert_close(means[1], 2 * means[0])


def test_intervals_are_those_of_scipy() -> None:
    """Percentile intervals of 20,000 resamples: two Monte Carlo errors of a 2.5% quantile, at 4.9 sigma each."""
    values = normal(200).exp()
    ours = bootstrap_interval(values, generator(), samples=20_000)
    theirs = scipy.stats.bootstrap(
        (values.numpy(),), lambda x, axis: x.mean(axis), method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    width = ours.high - ours.low
    assert ours.mean == pytest.approx(float(values.mean()))
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_intervals_cover_the_truth_at_their_level() -> None:
    """1,000 intervals at 90% of 60 normal values: the percentile bootstrap covers about 89%.

    Binomial standard error .01; outside [.84, .94] is a false alarm at 1e-6.
    """
    draws = normal(1000, 60, seed=3)
    intervals = bootstrap_intervals(
        {str(row): values for row, values in enumerate(draws)}, generator(), samples=400, level=0.9
    )
    covered = sum(interval.low <= 0.0 <= interval.high for interval in intervals.values()) / 1000
    assert 0.84 < covered < 0.94


def test_more_seeds_of_the_same_users_are_no_more_users() -> None:
    values = normal(80)
    once = bootstrap_interval(values, generator())
    thrice = bootstrap_interval(values.expand(3, -1), generator())
    assert thrice.low == pytest.approx(once.low, abs=1e-12)
    assert thrice.high == pytest.approx(once.high, abs=1e-12)


def test_the_same_generator_gives_the_same_interval() -> None:
    values = normal(80)
    assert bootstrap_interval(values, generator()) == bootstrap_interval(values, generator())
    assert bootstrap_interval(values, generator()) != bootstrap_interval(values, generator(1))


def test_a_wider_level_is_wider() -> None:
    values = normal(80)
    narrow, wide = (bootstrap_interval(values, generator(), level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_compare_has_the_sign_of_a_minus_b() -> None:
    b = normal(100)
    found = compare(b + 0.5 + 0.1 * normal(100, seed=1), b, generator(), samples=999)
    assert found.difference.low < 0.5 < found.difference.high
    assert found.difference.low > 0.4
    assert found.p_bootstrap == 1 / 1000
    assert found.p_wilcoxon < 1e-6
    turned = compare(b, b + 0.5, generator(), samples=999)
    assert turned.difference.mean == pytest.approx(-0.5)


def test_compare_is_paired() -> None:
    """A shift that drowns among users stands out within them."""
    b = 100 * normal(50)
    assert compare(b + 0.2 + 0.1 * normal(50, seed=1), b, generator(), samples=999).p_bootstrap < 0.01


def test_equal_arms_do_not_differ() -> None:
    found = compare(normal(2, 30), normal(2, 30), generator(), samples=99)
    assert (found.difference.mean, found.p_bootstrap, found.p_wilcoxon) == (0.0, 1.0, 1.0)


def test_compare_averages_over_seeds_first() -> None:
    a, b = normal(3, 40), normal(40, seed=1)
    assert compare(a, b, generator(), samples=99) == compare(a.mean(0), b, generator(), samples=99)


def test_tests_hold_their_level() -> None:
    """600 comparisons of arms that do not differ, at 10%: rejections are binomial.

    Outside [.045, .17] is a false alarm below 1e-6 for an exact test; the bootstrap of 40 users rejects about 11%.
    """
    draws = normal(600, 40, seed=5)
    found = [compare(row, torch.zeros(40), generator(), samples=199) for row in draws]
    assert 0.045 < sum(one.p_bootstrap <= 0.1 for one in found) / 600 < 0.17
    assert 0.045 < sum(one.p_wilcoxon <= 0.1 for one in found) / 600 < 0.17


def test_arms_of_different_users_raise() -> None:
    with pytest.raises(DataError, match="the same users: 3 and 4"):
        compare(torch.zeros(3), torch.zeros(4), generator())


def test_wilcoxon_by_hand() -> None:
    # All six positive: 2 of the 2^6 sign patterns are as extreme. Zeros do not count.
    assert wilcoxon(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) == pytest.approx(2 / 64)
    assert wilcoxon(torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0, 4.0, 5.0, 6.0])) == pytest.approx(2 / 64)
    assert wilcoxon(torch.zeros(5)) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_lies_between_none_and_bonferroni_and_keeps_order(p: list[float]) -> None:
    adjusted = holm(p)
    for one, raw in zip(adjusted, p, strict=True):
        assert raw <= one <= min(1.0, len(p) * raw)
    order = sorted(range(len(p)), key=lambda j: p[j])
    assert sorted(adjusted) == [adjusted[j] for j in order]
