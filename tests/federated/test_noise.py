"""Over a million draws of every mechanism the variance is within 1% of what is stated, on every sort of entry.

The mean square of a million normals deviates by √(2/10⁶) = .14%: 1% is seven deviations, one false alarm in 10¹¹
checks. The seeded ones are the same every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from fedrec.federated import Devices, LocalEngine, ParticipationConfig, PrivateEngine
from fedrec.federated.device_sums import DistributedNoise, LocalNoise, MaskedSums
from fedrec.federated.private_sums import PrivateSums, ServerNoise
from fedrec.federated.queries import Count
from fedrec.privacy import (
    Clip,
    ContinualConfig,
    Correlation,
    Gaussian,
    Mechanism,
    NoiseSource,
    PlannedRelease,
    Schedule,
    SeededNoise,
)
from fedrec.streams import Streams

ITEMS, SEEDS, SIGMA, CLIP = 50_000, 40, 1.5, 2.0
TOUCHED = slice(0, ITEMS // 2)
UNTOUCHED = slice(ITEMS // 2, ITEMS)


def assert_within_one_percent(noise: Tensor, variance: float) -> None:
    assert noise.numel() >= 1_000_000
    found = float(noise.square().mean())
    assert abs(found / variance - 1) < 0.01, f"{found / variance:.4f} of the stated variance"


def population() -> Devices:
    """Four users who all have the first half of the items."""
    items = torch.arange(ITEMS // 2).repeat(4)
    return Devices(torch.arange(4) + 100, torch.arange(5) * (ITEMS // 2), items, ITEMS)


def source(seed: int) -> SeededNoise:
    return SeededNoise(Streams(seed))


WAYS: dict[str, tuple[Callable[[Mechanism, int], PrivateSums], float]] = {
    "central": (lambda mechanism, seed: ServerNoise(mechanism, source(seed)), 1.0),
    "secagg": (lambda mechanism, seed: MaskedSums(mechanism, source(seed), 4, 0.75, executed=False), 1.0),
    # Four answer where three must: together they have 4/3 of the stated variance, which three have.
    "distributed": (lambda mechanism, seed: DistributedNoise(source(seed), 4, 0.75, executed=False), 4 / 3),
    # Each of four answers has the noise of twice the clip.
    "local": (lambda mechanism, seed: LocalNoise(mechanism, source(seed)), 4 * 2**2),
}
"""How a sum is noised, and its variance over (σC)²."""


def noise_of(way: str, mechanism: Mechanism) -> Tensor:
    """[seeds, items] what is released beyond the exact sum."""
    devices, schedule = population(), Schedule((PlannedRelease(query="count", draws=1, clip=CLIP),))
    exact = LocalEngine(devices, Streams(0)).sum(Count(ITEMS), round=1, clip=Clip(CLIP)).sums["count"]
    local = LocalEngine(devices, Streams(0))
    released = [
        PrivateEngine(local, schedule, {"count": SIGMA}, source(seed), mechanism, sums=WAYS[way][0](mechanism, seed))
        .sum(Count(ITEMS), round=1)
        .sums["count"]
        for seed in range(SEEDS)
    ]
    return (torch.stack(released) - exact).squeeze(2)


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_users_touch_and_rows_that_nobody_does(way: str) -> None:
    noise, variance = noise_of(way, Gaussian()), (SIGMA * CLIP) ** 2 * WAYS[way][1]
    assert_within_one_percent(noise[:, TOUCHED], variance)
    assert_within_one_percent(noise[:, UNTOUCHED], variance)


class OfTouchedRows(Gaussian):
    """Broken: no noise where nobody is."""

    def noise(
        self, shape: Sequence[int], sigma: float, clip: float, *, symmetric: bool, source: NoiseSource, purpose: str
    ) -> Tensor:
        noise = super().noise(shape, sigma, clip, symmetric=symmetric, source=source, purpose=purpose)
        noise[UNTOUCHED] = 0.0
        return noise


class Weak(Gaussian):
    """Broken: 1% less noise than it says."""

    def noise(
        self, shape: Sequence[int], sigma: float, clip: float, *, symmetric: bool, source: NoiseSource, purpose: str
    ) -> Tensor:
        return super().noise(shape, 0.99 * sigma, clip, symmetric=symmetric, source=source, purpose=purpose)


class OneTriangle(Gaussian):
    """Broken in variance: the upper triangle mirrored, instead of the mean of both."""

    def noise(
        self, shape: Sequence[int], sigma: float, clip: float, *, symmetric: bool, source: NoiseSource, purpose: str
    ) -> Tensor:
        noise = super().noise(shape, sigma, clip, symmetric=False, source=source, purpose=purpose)
        return noise.triu() + noise.triu(1).T


@pytest.mark.parametrize("broken", [Weak(), OfTouchedRows()], ids=["weak", "touched rows"])
@pytest.mark.parametrize("way", ["central", "secagg", "local"])
def test_broken_noise_is_found(way: str, broken: Mechanism) -> None:
    noise, variance = noise_of(way, broken), (SIGMA * CLIP) ** 2 * WAYS[way][1]
    with pytest.raises(AssertionError, match="of the stated variance"):
        assert_within_one_percent(noise[:, UNTOUCHED], variance)


def diagonal_and_rest(mechanism: Mechanism, repeats: int) -> tuple[Tensor, Tensor]:
    """Twenty entries a draw of the diagonal of symmetric noise, and all others above it."""
    side = 20
    above = torch.triu_indices(side, side, 1)
    drawn = [
        mechanism.noise((side, side), SIGMA, CLIP, symmetric=True, source=source(seed), purpose="gram")
        for seed in range(repeats)
    ]
    noise = torch.stack(drawn)
    return noise.diagonal(dim1=1, dim2=2), noise[:, above[0], above[1]]


def test_the_diagonal_of_symmetric_noise_and_what_is_off_it() -> None:
    on, off = diagonal_and_rest(Gaussian(), 50_000)
    assert_within_one_percent(on, (SIGMA * CLIP) ** 2)
    assert_within_one_percent(off, (SIGMA * CLIP) ** 2 / 2)


def test_noise_that_is_mirrored_instead_of_symmetrised_is_found() -> None:
    _, off = diagonal_and_rest(OneTriangle(), 6_000)  # a million entries off the diagonal
    with pytest.raises(AssertionError, match=r"2\.0\d+ of the stated variance|1\.99\d+ of the stated variance"):
        assert_within_one_percent(off, (SIGMA * CLIP) ** 2 / 2)


def test_correlated_noise_has_the_stated_covariance_over_rounds() -> None:
    """w_1 = z_1 and w_2 = z_2 − z_1/2: variances 1 and 5/4 of z's, covariance −1/2."""
    schedule = Schedule((PlannedRelease(query="count", draws=4, clip=CLIP),), rate=0.5, sampling="cyclic")
    correlation = Correlation.of(ContinualConfig(), schedule)
    rounds: list[list[Tensor]] = [[], []]
    for seed in range(SEEDS):
        local = LocalEngine(population(), Streams(0), ParticipationConfig(sampling="cyclic", rate=0.5))
        engine = PrivateEngine(local, schedule, {"count": SIGMA}, source(seed), Gaussian(), correlation=correlation)
        for round in (1, 2):
            exact = local.sum(Count(ITEMS), round=round, clip=Clip(CLIP)).sums["count"]
            rounds[round - 1].append(engine.sum(Count(ITEMS), round=round).sums["count"] - exact)
    first, second = (torch.stack(noise).squeeze(2) for noise in rounds)
    # Two participations of four rounds: sens² = ‖(1, ½, 1, ½)‖² = 2.5, over k = 2.
    variance = (SIGMA * CLIP) ** 2 * 2.5 / 2
    assert correlation[1].factor == pytest.approx(math.sqrt(1.25))
    for rows in (TOUCHED, UNTOUCHED):
        assert_within_one_percent(first[:, rows], variance)
        assert_within_one_percent(second[:, rows], 1.25 * variance)
        # The mean product deviates by √(1.25 + .25)/10³ of the variance: six of these are .007.
        assert abs(float((first * second)[:, rows].mean()) / variance + 0.5) < 0.01
