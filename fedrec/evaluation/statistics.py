"""How sure the numbers are: intervals over users, and paired tests between two arms.

What is resampled is always *users*, never interactions and never seeds. With several seeds every user's values are
averaged over the seeds first, because the values of one user under three seeds are three looks at the same person:
seeds × users rows, taken as independent, would make intervals narrower by up to √seeds without a single user more. The
interval thus speaks of the population of users, for the seeds that were run.

What another set of seeds would add is `seed_deviation` s: a mean over n seeds deviates by s/√n, which adds to the
interval in squares. Noise of a seed that hits users one by one is in the interval already, since it makes their means
scatter; a seed that is better or worse for all users together is not. s holds both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.errors import DataError

_DRAWS_PER_CHUNK = 1 << 22  # draws held at a time: 32 MB of int64
_LARGEST_EFFECT = 1e6  # in place of infinity, which JSON cannot say
_DECIMALS = 12  # what is equal on paper differs by some 1e-16 in another order of summation, and must count as equal


@dataclass(frozen=True)
class Interval:
    """A mean over users and the interval around it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Arm a against arm b, on the same users.

    Attributes:
        difference: mean of a − b with its bootstrap interval.
        p_bootstrap: two-sided p-value of the paired bootstrap test.
        p_wilcoxon: two-sided p-value of Wilcoxon's signed-rank test.
        d_z: `standardised_difference`, the effect size that goes with the bootstrap test.
        rank_biserial: `rank_biserial`, the one that goes with Wilcoxon's.
        seed_deviation: `seed_deviation` of the difference; None unless both arms have equally many seeds, several.
    """

    difference: Interval
    p_bootstrap: float
    p_wilcoxon: float
    d_z: float
    rank_biserial: float
    seed_deviation: float | None


@dataclass(frozen=True)
class GapTest:
    """The gap between groups of users, beside the gap that chance alone would leave.

    Attributes:
        gap: the best group's mean minus the worst group's.
        by_chance: the mean gap of groups of the same sizes, dealt out at random among the same users.
        p: the chance of a gap at least as wide if groups did not matter.
    """

    gap: float
    by_chance: float
    p: float


def over_seeds(values: Tensor) -> Tensor:
    """Each user's mean over seeds: [seeds, users] or [users] -> [users] float64.

    Raises:
        DataError: if there is no user, or a value is not finite.
    """
    per_user = values.double().mean(dim=0) if values.dim() == 2 else values.double()
    if not len(per_user) or not torch.isfinite(per_user).all():
        raise DataError("statistics need at least one user and finite values; leave users without a value out")
    return per_user


def bootstrap_means(values: Tensor, generator: torch.Generator, samples: int) -> Tensor:
    """Means over users drawn with replacement, as many as there are; one draw serves all metrics.

    Args:
        values: [metrics, users].
        generator: the source of the draws, from `Streams.generator`.
        samples: number of resamples.

    Returns:
        [metrics, samples] float64.
    """
    n = values.shape[1]
    step = max(1, _DRAWS_PER_CHUNK // n)
    means = []
    for start in range(0, samples, step):
        size = min(step, samples - start)
        drawn = torch.randint(n, (size, n), generator=generator) + n * torch.arange(size).unsqueeze(1)
        times = torch.bincount(drawn.flatten(), minlength=size * n).view(size, n)
        means.append(values.double() @ times.double().T / n)
    return torch.cat(means, dim=1)


def bootstrap_intervals(
    values: Mapping[str, Tensor], generator: torch.Generator, *, samples: int = 1000, level: float = 0.95
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of means over users (Efron 1979), with the same resamples for every metric.

    Args:
        values: by metric, [users] or [seeds, users] values of the same users.
        generator: the source of the draws, from `Streams.generator`.
        samples: number of resamples.
        level: share of intervals that are meant to cover the mean of the population.
    """
    per_user = torch.stack([over_seeds(value) for value in values.values()])
    means = bootstrap_means(per_user, generator, samples)
    low, high = _percentiles(means, level)
    return {
        name: Interval(float(per_user[row].mean()), float(low[row]), float(high[row]))
        for row, name in enumerate(values)
    }


def bootstrap_interval(
    values: Tensor, generator: torch.Generator, *, samples: int = 1000, level: float = 0.95
) -> Interval:
    """`bootstrap_intervals` for one metric: [users] or [seeds, users]."""
    return bootstrap_intervals({"": values}, generator, samples=samples, level=level)[""]


def compare(
    a: Tensor, b: Tensor, generator: torch.Generator, *, samples: int = 10_000, level: float = 0.95
) -> Comparison:
    """Paired tests of arm a against arm b, on the per-user differences of their means over seeds.

    The bootstrap test resamples users' differences d and shifts them to a mean of zero: p is the share of resampled
    means m* with |m* − m| >= |m|, counting the data as one resample, so that p is never 0 (Efron and Tibshirani 1993,
    chapter 16; Smucker, Allan and Carterette 2007). With few values, such as those of a hit rate, many resamples lie
    exactly as far away as the data and must count: both sides are compared to 12 decimals. Wilcoxon's test ranks |d|
    and leaves out users with d = 0, so differences are rounded likewise: it would rank the rounding of means over
    seeds like any other difference.

    Args:
        a, b: [users] or [seeds, users] values of the same users in the same order; the numbers of seeds may differ.
        generator: the source of the draws, from `Streams.generator`.
        samples: number of resamples; p cannot fall below 1 / (samples + 1).
        level: of the interval of the difference.

    Raises:
        DataError: if the arms were evaluated on different numbers of users.
    """
    if a.shape[-1] != b.shape[-1]:
        raise DataError(f"paired tests need the same users: {a.shape[-1]} and {b.shape[-1]}; evaluate on one split")
    d = torch.round(over_seeds(a) - over_seeds(b), decimals=_DECIMALS)
    mean = d.mean()
    means = bootstrap_means(d.unsqueeze(0), generator, samples)
    low, high = _percentiles(means, level)
    as_far = int(((means - mean).abs() >= mean.abs() - 10.0**-_DECIMALS).sum())
    paired = a.dim() == b.dim() == 2 and len(a) == len(b)
    return Comparison(
        Interval(float(mean), float(low), float(high)),
        (1 + as_far) / (samples + 1),
        wilcoxon(d),
        standardised_difference(d),
        rank_biserial(d),
        seed_deviation(a.double() - b.double()) if paired else None,
    )


def seed_deviation(values: Tensor) -> float | None:
    """Standard deviation from seed to seed of the mean over users: √(Σ_s (m_s − m)² / (n − 1)); None for one seed.

    Args:
        values: [seeds, users]; of a difference between arms, seeds are paired by their position.
    """
    means = values.double().mean(dim=1)
    return float(means.std()) if len(means) > 1 else None


def standardised_difference(differences: Tensor) -> float:
    """Mean difference in units of its deviation over users: mean d / √(Σ (d − mean d)² / (n − 1)); 0 for none.

    Cohen's d_z of paired values (Lakens 2013): .2 is called small, .5 medium, .8 large. If every user differs by the
    same amount the deviation is 0 and the effect without bound; it is then cut at ±10⁶.

    Args:
        differences: [users] one difference a user.
    """
    mean = float(differences.double().mean())
    deviation = float(differences.double().std()) if len(differences) > 1 else 0.0
    if mean == 0.0 or abs(mean) < _LARGEST_EFFECT * deviation:
        return mean / deviation if mean else 0.0
    return math.copysign(_LARGEST_EFFECT, mean)


def rank_biserial(differences: Tensor) -> float:
    """Matched-pairs rank-biserial correlation, (W⁺ − W⁻) / (W⁺ + W⁻), on the ranks of |d| without zeros (Kerby 2014).

    1 if every user who differs gains, −1 if every one loses, 0 if no user differs or gains and losses weigh the same.

    Args:
        differences: [users] one difference a user.
    """
    from scipy.stats import rankdata  # slow to import, and no node needs it

    nonzero = differences[differences != 0].double()
    if not len(nonzero):
        return 0.0
    ranks = torch.from_numpy(rankdata(nonzero.abs().numpy()))
    return float((ranks * nonzero.sign()).sum() / ranks.sum())


def wilcoxon(differences: Tensor) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test that differences are symmetric about 0.

    Zeros are left out (Wilcoxon 1945); with no difference at all p is 1. Exact up to 50 users without ties, otherwise
    the normal approximation, as SciPy chooses.

    Args:
        differences: [users] one difference a user.
    """
    from scipy import stats  # slow to import, and no node needs it

    nonzero = differences[differences != 0]
    return float(stats.wilcoxon(nonzero.numpy()).pvalue) if len(nonzero) else 1.0


def gap_by_chance(
    values: Tensor, codes: Tensor, generator: torch.Generator, *, smallest: int, samples: int = 1000
) -> GapTest | None:
    """Permutation test of the gap between groups: is it wider than that of groups made by lot?

    The largest of several noisy means minus the smallest is above 0 even if the groups do not differ, the more so the
    more groups there are and the fewer users they have. So users are dealt out anew, `samples` times, to groups of the
    same sizes: p = (1 + #{gap* >= gap}) / (samples + 1), counting the data as one deal, which holds its level with any
    number of users (Phipson and Smyth 2010). Only the users of groups that are compared take part.

    Args:
        values: [users] or [seeds, users] values; of several seeds, each user's mean counts.
        codes: [users] int64 group of each user; users at -1 belong to none.
        generator: the source of the deals, from `Streams.generator`.
        smallest: users that a group must have to be compared.
        samples: number of deals; p cannot fall below 1 / (samples + 1).

    Returns:
        The test, or None if there are not two such groups.

    Raises:
        DataError: if there is no user, or a value is not finite.
    """
    per_user, sizes = over_seeds(values), torch.bincount(codes[codes >= 0])
    compared = (sizes >= smallest).nonzero().squeeze(1)
    if len(compared) < 2:
        return None
    member = codes.unsqueeze(1) == compared
    taking_part = member.any(dim=1)
    per_user = per_user[taking_part]
    weight = member[taking_part].double() / sizes[compared]  # [users, groups]: values @ weight are the groups' means
    n = len(per_user)
    step = max(1, _DRAWS_PER_CHUNK // n)
    gaps = []
    for start in range(0, samples, step):
        deals = [torch.randperm(n, generator=generator) for _ in range(min(step, samples - start))]
        gaps.append(_spread(per_user[torch.stack(deals)] @ weight))
    gap, dealt = _spread(per_user @ weight), torch.cat(gaps)
    as_wide = int((dealt >= gap).sum())
    return GapTest(float(gap), float(dealt.mean()), (1 + as_wide) / (samples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for testing several hypotheses at once (Holm 1979), in the order given.

    The j-th smallest of m becomes the running maximum of (m − j + 1) p_(j), at most 1. Rejecting where the result is
    below α keeps the chance of any false rejection below α, however the tests depend on each other.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for done, position in enumerate(sorted(range(len(p_values)), key=lambda j: p_values[j])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[position]))
        adjusted[position] = largest
    return adjusted


def _spread(means: Tensor) -> Tensor:
    """Largest minus smallest of the last dimension, rounded so that equal gaps are equal."""
    return torch.round(means.amax(dim=-1) - means.amin(dim=-1), decimals=_DECIMALS)


def _percentiles(means: Tensor, level: float) -> tuple[Tensor, Tensor]:
    tail = (1.0 - level) / 2.0
    low, high = torch.quantile(means, torch.tensor([tail, 1.0 - tail], dtype=torch.float64), dim=1)
    return low, high
