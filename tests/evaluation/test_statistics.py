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
    gap_by_chance,
    holm,
    over_seeds,
    rank_biserial,
    seed_deviation,
    standardised_difference,
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


def test_the_order_of_seeds_makes_no_difference_to_rank() -> None:
    """Means of the same values in another order differ by an ulp, which is no difference between arms."""
    values = normal(3, 500).exp()
    found = compare(values, values[[2, 0, 1]], generator(), samples=99)
    assert (found.difference.mean, found.p_bootstrap, found.p_wilcoxon) == (0.0, 1.0, 1.0)


def test_resamples_exactly_as_far_away_as_the_data_count() -> None:
    """Tenths of which six gain and two lose: whether |m* - m| = |m| must not hang on the rounding of their sums."""
    gains = torch.tensor([1] * 6 + [-1] * 2 + [0] * 22)
    drawn = torch.randint(30, (2000, 30), generator=generator())
    as_far = int(((gains[drawn].sum(dim=1) - 4).abs() >= 4).sum())
    found = compare(0.1 * gains.double(), torch.zeros(30), generator(), samples=2000)
    assert found.p_bootstrap == (1 + as_far) / 2001


def test_compare_averages_over_seeds_first() -> None:
    a, b = normal(3, 40), normal(40, seed=1)
    assert compare(a, b, generator(), samples=99) == compare(a.mean(0), b, generator(), samples=99)
    assert compare(a, b, generator(), samples=99).seed_deviation is None


def test_tests_hold_their_level() -> None:
    """600 comparisons of arms of two seeds that do not differ, at 5% and at 10%: rejections are binomial.

    Outside [.015, .105] and [.045, .17] is a false alarm below 1e-6 for an exact test; the bootstrap of 40 users
    rejects about 6% and 11%.
    """
    a, b = normal(600, 2, 40, seed=5), normal(600, 2, 40, seed=6)
    found = [compare(*arms, generator(), samples=199) for arms in zip(a, b, strict=True)]
    for p in ([one.p_bootstrap for one in found], [one.p_wilcoxon for one in found]):
        assert 0.015 < sum(value <= 0.05 for value in p) / 600 < 0.105
        assert 0.045 < sum(value <= 0.1 for value in p) / 600 < 0.17


def gains(*shape: int, seed: int) -> torch.Tensor:
    """Values like those of NDCG: most users have none, the others between .2 and 1. Their mean is .3 · .6 = .18."""
    uniform = torch.rand(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (uniform[..., 0] < 0.3) * (0.2 + 0.8 * uniform[..., 1])


def test_intervals_of_95_percent_cover_95_percent() -> None:
    """1,000 data sets of 200 users and 3 seeds, most of a user's value being the user's own.

    The percentile bootstrap covers about 94.5%; binomial standard error .007, so that outside [.91, .98] is a false
    alarm at 1e-6. Seeds that pass for users would give intervals too narrow by up to √3, which cover about 74%.
    """
    users, noise = gains(1000, 1, 200, seed=1), 0.1 * normal(1000, 3, 200, seed=2)
    values = users + noise
    proper = bootstrap_intervals({str(n): data for n, data in enumerate(values)}, generator(), samples=400)
    pooled = bootstrap_intervals({str(n): data.flatten() for n, data in enumerate(values)}, generator(), samples=400)
    covered, too_few = (
        sum(interval.low <= 0.18 <= interval.high for interval in found.values()) / 1000 for found in (proper, pooled)
    )
    assert 0.91 < covered < 0.98
    assert too_few < 0.85


def test_seed_deviation_by_hand() -> None:
    assert seed_deviation(torch.tensor([[1.0, 3.0], [2.0, 4.0], [3.0, 5.0]])) == 1.0
    assert seed_deviation(torch.tensor([[1.0, 3.0]])) is None


def test_the_deviation_of_a_difference_pairs_seeds() -> None:
    """Both arms gain from the same seeds: what deviates is the arms, not their difference."""
    a = normal(3, 30) + torch.tensor([[0.0], [5.0], [10.0]])
    paired = compare(a, a - 1.0, generator(), samples=99)
    assert paired.seed_deviation == pytest.approx(0.0, abs=1e-12)
    turned = compare(a, a.flip(0), generator(), samples=99)
    assert turned.seed_deviation == pytest.approx(seed_deviation(a - a.flip(0)))
    assert compare(a, a[:2], generator(), samples=99).seed_deviation is None


def test_effect_sizes_by_hand() -> None:
    d = torch.tensor([1.0, 2.0, 3.0, -2.0, 0.0])
    assert standardised_difference(d) == pytest.approx(0.8 / (14.8 / 4) ** 0.5)
    # Ranks of 1, 2, 3, 2 are 1, 2.5, 4, 2.5: (7.5 − 2.5) / 10.
    assert rank_biserial(d) == 0.5
    assert standardised_difference(torch.zeros(3)) == rank_biserial(torch.zeros(3)) == 0.0
    assert standardised_difference(torch.full((3,), -0.5)) == -1e6
    assert rank_biserial(torch.full((3,), -0.5)) == -1.0


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=30))
def test_effect_sizes_turn_with_the_arms(numbers: list[int]) -> None:
    d = torch.tensor(numbers, dtype=torch.float64)
    for effect in (standardised_difference, rank_biserial):
        assert effect(-d) == pytest.approx(-effect(d))
        assert effect(3 * d) == pytest.approx(effect(d))
    assert -1 <= rank_biserial(d) <= 1
    nonzero = d[d != 0]
    if len(nonzero):
        smaller = float(scipy.stats.wilcoxon(nonzero.numpy(), method="approx").statistic)  # min(W⁺, W⁻)
        total = len(nonzero) * (len(nonzero) + 1) / 2
        assert abs(rank_biserial(d)) == pytest.approx(1 - 2 * smaller / total)


def test_compare_has_both_effects_of_the_difference() -> None:
    a, b = normal(3, 50) + 0.4, normal(3, 50, seed=1)
    found, d = compare(a, b, generator(), samples=99), a.mean(0) - b.mean(0)
    assert found.d_z == pytest.approx(standardised_difference(d))
    assert found.rank_biserial == pytest.approx(rank_biserial(d))
    assert found.d_z > 0


def test_arms_of_different_users_raise() -> None:
    with pytest.raises(DataError, match="the same users: 3 and 4"):
        compare(torch.zeros(3), torch.zeros(4), generator())


def test_wilcoxon_by_hand() -> None:
    # All six positive: 2 of the 2^6 sign patterns are as extreme. Zeros do not count.
    assert wilcoxon(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) == pytest.approx(2 / 64)
    assert wilcoxon(torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0, 4.0, 5.0, 6.0])) == pytest.approx(2 / 64)
    assert wilcoxon(torch.zeros(5)) == 1.0


def test_the_gap_by_hand() -> None:
    """Four users in two pairs: of the six ways to deal them out two have a gap of 1, the others 0.

    5,000 deals: the share of 1 has standard error .0067 and lies within 4.9 of them (false alarm 1e-6).
    """
    found = gap_by_chance(
        torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0, 1, 0, 1]), generator(), smallest=2, samples=5000
    )
    assert found is not None
    assert found.gap == 1.0
    assert found.by_chance == pytest.approx(1 / 3, abs=0.033)
    assert found.p == (1 + round(5000 * found.by_chance)) / 5001


def test_equal_gaps_are_equal_whatever_the_order_of_their_sums() -> None:
    """Tenths that sum to 21 cannot be dealt out closer than 10 and 11, so that every gap is at least as wide."""
    values = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64)
    found = gap_by_chance(values, torch.tensor([0, 1, 0, 1, 1, 0]), generator(), smallest=3)
    assert found is not None
    assert found.gap == pytest.approx(0.1 / 3)
    assert found.p == 1.0


def test_the_gap_by_chance_of_two_groups_is_that_of_normal_means() -> None:
    """Mean |difference| of two means of 100 normal values: √(2/π) · s · √(2/100), s that of the 200 users dealt out.

    2,000 deals: relative standard error √(π/2 − 1) / √2000 = .017, 4.9 of them.
    """
    values, codes = normal(200), torch.arange(200) % 2
    found = gap_by_chance(values, codes, generator(), smallest=20, samples=2000)
    assert found is not None
    expected = (2 / torch.pi) ** 0.5 * float(values.std()) * (2 / 100) ** 0.5
    assert found.by_chance == pytest.approx(expected, rel=0.083)


def test_a_gap_without_cause_has_a_uniform_p() -> None:
    """400 data sets whose three groups do not differ.

    No point of the distribution of p is .14 from uniform: a false alarm has a chance below 1e-6 (Dvoretzky, Kiefer,
    Wolfowitz, Massart: 2 exp(−800 · .135²), and .005 for the steps of 199 deals).
    """
    codes = torch.arange(60) % 3
    found = [gap_by_chance(row, codes, generator(n), smallest=20, samples=199) for n, row in enumerate(normal(400, 60))]
    p = torch.tensor([one.p for one in found if one is not None], dtype=torch.float64).sort().values
    assert len(p) == 400
    assert float((p - torch.arange(1, 401) / 400).abs().max()) < 0.14


def test_a_planted_gap_is_found() -> None:
    codes = torch.arange(100) % 2
    found = gap_by_chance(normal(100) + 1.5 * codes, codes, generator(), smallest=20, samples=999)
    assert found is not None
    assert found.gap > 1.0 > 4 * found.by_chance
    assert found.p == 1 / 1000


def test_small_groups_and_users_of_no_group_take_no_part() -> None:
    values, codes = normal(3, 100), torch.arange(100) % 2
    alone = gap_by_chance(values, codes, generator(), smallest=20)
    others = torch.cat([torch.full((3, 19), 100.0), torch.full((3, 5), -100.0), values], dim=1)
    among = torch.cat([torch.full((19,), 2), torch.full((5,), -1), codes])
    assert gap_by_chance(others, among, generator(), smallest=20) == alone
    assert gap_by_chance(others, among, generator(), smallest=19) != alone


def test_the_gap_is_that_of_means_over_seeds() -> None:
    values, codes = normal(3, 100), torch.arange(100) % 2
    assert gap_by_chance(values, codes, generator(), smallest=20) == gap_by_chance(
        values.mean(0), codes, generator(), smallest=20
    )


def test_the_deals_of_a_chunk_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values, codes = normal(100), torch.arange(100) % 2
    whole = gap_by_chance(values, codes, generator(), smallest=20)
    monkeypatch.setattr("fedrec.evaluation.statistics._DRAWS_PER_CHUNK", 700)
    assert gap_by_chance(values, codes, generator(), smallest=20) == whole


@pytest.mark.parametrize("codes", [torch.zeros(50).long(), torch.arange(50) % 3, torch.full((50,), -1)])
def test_there_is_no_gap_without_two_large_groups(codes: torch.Tensor) -> None:
    assert gap_by_chance(normal(50), codes, generator(), smallest=20) is None


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
