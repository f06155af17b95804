"""Noise correlated over rounds: its sensitivity by brute force, its zCDP, and that prefix sums have less of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.linalg import toeplitz

from fedrec.errors import PrivacyError
from fedrec.privacy import ContinualConfig, CorrelatedNoise, Correlation, PlannedRelease, Schedule
from fedrec.privacy.continual import sensitivity, square_root
from tests.privacy.exact import exact_epsilon


def matrix(band: int, rounds: int) -> np.ndarray:
    """C, written down in full."""
    column = np.zeros(rounds)
    column[:band] = square_root(band)[:rounds]
    return np.asarray(toeplitz(column, np.zeros(rounds)))


def patterns(rounds: int, cycle: int, most: int) -> Iterator[tuple[int, ...]]:
    """All sets of at most `most` rounds, of which no two are less than a cycle apart."""
    for size in range(1, most + 1):
        for pattern in itertools.combinations(range(rounds), size):
            if all(later - earlier >= cycle for earlier, later in itertools.pairwise(pattern)):
                yield pattern


def brute_force(c: np.ndarray, cycle: int, most: int) -> float:
    """The largest ‖C u‖ over all patterns of participation and all signs of what a user adds."""
    return max(
        float(np.linalg.norm(c[:, pattern] @ np.array(signs)))
        for pattern in patterns(len(c), cycle, most)
        for signs in itertools.product((-1.0, 1.0), repeat=len(pattern))
    )


def continual(rounds: int, cycle: int, share: float = 1.0) -> Schedule:
    planned = PlannedRelease(query="train", draws=rounds, clip=0.5, share=share)
    return Schedule((planned,), rate=1 / cycle, sampling="cyclic")


def test_coefficients_by_hand() -> None:
    assert square_root(4).tolist() == [1.0, 0.5, 0.375, 0.3125]  # 4^-k binom(2k, k)
    full = matrix(6, 6)
    assert np.allclose(full @ full, np.tril(np.ones((6, 6))))  # the square root of the prefix sums


@pytest.mark.parametrize(
    ("rounds", "cycle", "band"), [(7, 2, 2), (7, 3, 7), (8, 3, 3), (6, 1, 4), (5, 5, 5), (8, 3, 1)]
)
def test_sensitivity_is_that_of_the_worst_pattern(rounds: int, cycle: int, band: int) -> None:
    found = sensitivity(square_root(band), rounds, cycle)
    assert found == pytest.approx(brute_force(matrix(band, rounds), cycle, math.ceil(rounds / cycle)))


def test_vectors_move_it_by_no_more_than_equal_signs_do() -> None:
    """What a user adds is a vector of norm 1 in each of its rounds; random ones stay below the bound."""
    c, generator = matrix(4, 9), np.random.default_rng(0)
    bound = sensitivity(square_root(4), 9, 2)
    for pattern in patterns(9, 2, 5):
        added = generator.standard_normal((50, len(pattern), 3))
        added /= np.linalg.norm(added, axis=2, keepdims=True)
        moved = np.linalg.norm(np.einsum("tp,spd->std", c[:, pattern], added), axis=(1, 2))
        assert moved.max() <= bound + 1e-12


@pytest.mark.parametrize(("rounds", "cycle", "band"), [(8, 3, 3), (7, 3, 5), (6, 2, None), (5, 1, 3)])
def test_zcdp_is_that_of_the_reference(rounds: int, cycle: int, band: int | None) -> None:
    """ρ of the released C G + Z by brute force, against what the ledger quotes ε for: 1/2σ² of one Gaussian release."""
    schedule, sigma, clip = continual(rounds, cycle), 1.3, 0.5
    query, correlation = Correlation.of(ContinualConfig(band=band), schedule)
    assert query == "train"
    deviation = sigma * correlation.factor * clip
    worst = clip * brute_force(matrix(correlation.band, rounds), cycle, math.ceil(rounds / cycle))
    rho = worst**2 / (2 * deviation**2)
    (draws,) = schedule.ledger({"train": sigma}).history()
    assert (draws.rate, draws.number) == (1.0, 1)
    assert 1 / (2 * draws.noise_multiplier**2) == pytest.approx(rho)
    assert schedule.epsilon({"train": sigma}, 1e-5) == pytest.approx(exact_epsilon((2 * rho) ** -0.5, 1e-5), rel=5e-3)


def test_noise_is_the_inverse_of_c_times_independent_noise() -> None:
    correlation = Correlation(rounds=9, cycle=3, band=4)
    fresh = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise, other = CorrelatedNoise(correlation), CorrelatedNoise(correlation)
    released = torch.stack([noise.next("items", fresh[t]) for t in range(9)])
    expected = np.linalg.solve(matrix(4, 9), fresh.reshape(9, -1).numpy())
    np.testing.assert_allclose(released.reshape(9, -1).numpy(), expected, atol=1e-12)
    assert len(noise.recent["items"]) == 3
    # Interrupted after round 5, with another table in between.
    for t in range(5):
        other.next("items", fresh[t])
        other.next("network", -fresh[t])
    resumed = CorrelatedNoise(correlation)
    resumed.restore({name: tensor.clone() for name, tensor in other.tensors().items()})
    again = torch.stack([resumed.next("items", fresh[t]) for t in range(5, 9)])
    torch.testing.assert_close(again, released[5:], rtol=0, atol=0)


def test_a_band_of_one_is_independent_noise() -> None:
    correlation = Correlation(rounds=4, cycle=2, band=1)
    assert correlation.factor == pytest.approx(1.0)
    noise, fresh = CorrelatedNoise(correlation), torch.ones(1, 1)
    assert [float(noise.next("items", fresh)) for _ in range(4)] == [1.0] * 4
    assert noise.tensors() == {}


def test_prefix_sums_have_less_noise_at_the_same_price() -> None:
    """Mean variance of the noise in the prefix sums, over that of independent noise of the same zCDP."""

    def gain(rounds: int, cycle: int) -> float:
        correlation = Correlation(rounds, cycle, cycle)
        prefix = np.tril(np.ones((rounds, rounds)))
        b = prefix @ np.linalg.inv(matrix(cycle, rounds)) * correlation.factor
        return float(np.mean((b**2).sum(axis=1)) / np.mean((prefix**2).sum(axis=1)))

    assert gain(100, 1) == pytest.approx(1.0)
    assert gain(100, 10) < 0.5
    assert gain(100, 50) < 0.2


@pytest.mark.parametrize(
    ("schedule", "config", "message"),
    [
        (
            Schedule((PlannedRelease(query="train", draws=9, clip=1.0),), rate=0.5),
            {},
            "Poisson sampling at rate 0.5 bounds no user's rounds",
        ),
        (continual(4, 2), {"band": 5}, "continual.band = 5: the run has 4 rounds"),
        (continual(4, 2), {"query": "trian"}, "continual.query = 'trian'.*did you mean 'train'"),
        (
            Schedule((PlannedRelease(query="train", draws=4, clip=1.0, every=2),)),
            {},
            "'train' is not asked once in every round",
        ),
        (
            Schedule((PlannedRelease(query="train", draws=4, clip=1.0),), growth=2.0),
            {},
            "cancels over rounds only at one scale",
        ),
        (Schedule((PlannedRelease(query="gram", draws=1, clip=1.0),)), {}, "in several rounds there are: none"),
    ],
)
def test_what_cannot_be_correlated_is_refused(schedule: Schedule, config: dict[str, object], message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        Correlation.of(ContinualConfig.model_validate(config), schedule)
