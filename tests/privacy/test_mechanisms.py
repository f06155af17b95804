"""Noise has the stated distribution on every entry, whatever its source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from scipy import stats
from torch import Tensor

from fedrec.errors import PrivacyError
from fedrec.privacy import Gaussian, NoiseSource, SecretNoise, SeededNoise, SystemNoise
from fedrec.streams import Streams

# Of one check that is drawn afresh each time. The seeded checks are the same every time: they cannot be false alarms
# twice, and the rate says how surprising a failure would be.
FALSE_ALARM = 1e-7

SOURCES: dict[str, NoiseSource] = {
    "seeded": SeededNoise(Streams(0)),
    "system": SystemNoise(),
    "secret": SecretNoise(b"a secret"),
}


@dataclass(frozen=True)
class Given:
    """A source that gives prepared numbers."""

    values: Tensor

    def normals(self, shape: Sequence[int], purpose: str) -> Tensor:
        assert tuple(shape) == tuple(self.values.shape)
        return self.values.clone()


def assert_variance(sample: Tensor, expected: float, false_alarm: float = FALSE_ALARM) -> None:
    """The sum of squares of n independent N(0, v) is v·χ²(n)."""
    statistic = float(sample.square().sum()) / expected
    low, high = stats.chi2.interval(1 - false_alarm, sample.numel())
    assert low < statistic < high, f"variance {statistic / sample.numel():.4f} of the stated one"


def test_worked_by_hand() -> None:
    z = torch.tensor([[1.0, 2.0], [4.0, -3.0]], dtype=torch.float64)
    plain = Gaussian().noise((2, 2), 0.5, 3.0, symmetric=False, source=Given(z), purpose="gram")
    torch.testing.assert_close(plain, torch.tensor([[1.5, 3.0], [6.0, -4.5]], dtype=torch.float64))
    symmetric = Gaussian().noise((2, 2), 0.5, 3.0, symmetric=True, source=Given(z), purpose="gram")
    torch.testing.assert_close(symmetric, torch.tensor([[1.5, 4.5], [4.5, -4.5]], dtype=torch.float64))


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_row_and_column_has_the_stated_variance(source: NoiseSource) -> None:
    noise = Gaussian().noise((1000, 1000), 1.5, 2.0, symmetric=False, source=source, purpose="table")
    assert noise.dtype == torch.float64
    assert_variance(noise, 9.0)  # over 1e6 entries: within .75%
    for start in range(0, 1000, 100):
        assert_variance(noise[start : start + 100], 9.0, FALSE_ALARM / 20)
        assert_variance(noise[:, start : start + 100], 9.0, FALSE_ALARM / 20)
    assert float(noise.mean().abs()) < 3.0 / 1000 * stats.norm.isf(FALSE_ALARM / 2)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_symmetric_noise_has_half_the_variance_off_the_diagonal(source: NoiseSource) -> None:
    n, repeats = 40, 1000
    below = torch.tril_indices(n, n, offset=-1)
    diagonal, off_diagonal = [], []
    for repeat in range(repeats):
        noise = Gaussian().noise((n, n), 1.5, 2.0, symmetric=True, source=source, purpose=f"gram/{repeat}")
        assert torch.equal(noise, noise.T)
        diagonal.append(noise.diagonal())
        off_diagonal.append(noise[below[0], below[1]])
    assert_variance(torch.cat(diagonal), 9.0)  # over 4e4 entries: within 3.8%
    assert_variance(torch.cat(off_diagonal), 4.5)  # over 8e5 entries: within .85%


def test_symmetric_noise_guarantees_what_plain_noise_does() -> None:
    # How well two means can be told apart in independent noise is Σ difference²/variance (its root is the μ of Gaussian
    # differential privacy). For a symmetric difference D the n² plain entries give ‖D‖²/(σC)²; the n(n+1)/2 distinct
    # entries of the symmetrised noise, with the variances of the test above, give the same.
    d = torch.randn(7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d = d + d.T
    variance = torch.full((7, 7), 4.5, dtype=torch.float64).fill_diagonal_(9.0)
    distinct = torch.tril(torch.ones(7, 7, dtype=torch.bool))
    told_apart = float((d.square() / variance)[distinct].sum())
    assert told_apart == pytest.approx(float(d.square().sum()) / 9.0)


def test_seeded_noise_depends_on_seed_round_and_purpose() -> None:
    def drawn(seed: int, round: int, purpose: str) -> Tensor:
        return SeededNoise(Streams(seed, round)).normals((50,), purpose)

    first = drawn(1, 2, "gram")
    assert torch.equal(first, drawn(1, 2, "gram"))
    for other in (drawn(2, 2, "gram"), drawn(1, 3, "gram"), drawn(1, 2, "gram/1")):
        assert not torch.isclose(first, other).any()


def test_a_secret_and_a_purpose_tell_noise_that_nobody_else_can() -> None:
    first = SecretNoise(b"one").normals((50,), "gram")
    assert torch.equal(first, SecretNoise(b"one").normals((50,), "gram"))
    assert "one" not in repr(SecretNoise(b"one"))
    for other in (SecretNoise(b"two").normals((50,), "gram"), SecretNoise(b"one").normals((50,), "count")):
        assert not torch.isclose(first, other, rtol=0, atol=1e-12).any()
    uniform = SecretNoise(b"one").uniforms(100_000, "x")
    assert stats.kstest(uniform, "uniform").pvalue > FALSE_ALARM


def test_system_noise_is_normal_and_never_the_same() -> None:
    sample = SystemNoise().normals((100_000,), "x")
    assert stats.kstest(sample.numpy(), "norm").pvalue > FALSE_ALARM
    assert not torch.isclose(sample[:50], SystemNoise().normals((50,), "x"), rtol=0, atol=1e-12).any()


def test_system_noise_inverts_the_normal_distribution() -> None:
    def normal(word: int) -> float:
        return float(SystemNoise(lambda size: word.to_bytes(8, "little", signed=True)).normals((1,), "x"))

    lowest, highest = -(1 << 63), (1 << 63) - 1
    assert normal(0) == pytest.approx(stats.norm.isf(2.0**-65))  # the far end of the tail
    assert normal(lowest) == -normal(0)
    assert abs(normal(highest)) < 1e-15  # the middle
    # A quarter and three quarters of the 63-bit magnitude: P(Z > z) = 1/8 and 3/8.
    assert normal(1 << 61) == pytest.approx(stats.norm.isf(1 / 8))
    assert normal(3 << 61) == pytest.approx(stats.norm.isf(3 / 8))
    assert normal(lowest + (1 << 61)) == pytest.approx(-stats.norm.isf(1 / 8))


def test_system_noise_is_drawn_in_chunks_that_cover_the_table() -> None:
    asked: list[int] = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    noise = SystemNoise(entropy).normals((1 << 10, (1 << 10) + 1), "x")
    assert asked == [8 << 20, 8 << 10]
    assert noise.shape == (1 << 10, (1 << 10) + 1)
    assert bool((noise == noise[0, 0]).all())


@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 2, 2)])
def test_only_square_tables_are_symmetric(shape: tuple[int, ...]) -> None:
    with pytest.raises(PrivacyError, match="only a square table is symmetric"):
        Gaussian().noise(shape, 1.0, 1.0, symmetric=True, source=SystemNoise(), purpose="x")


@pytest.mark.parametrize(
    ("sigma", "clip"), [(0.0, 1.0), (1.0, 0.0), (-1.0, -1.0), (math.inf, 1.0), (math.nan, 1.0), (0.2, 1e-323)]
)
def test_no_noise_is_refused(sigma: float, clip: float) -> None:
    with pytest.raises(PrivacyError, match="is no noise"):
        Gaussian().noise((2,), sigma, clip, symmetric=False, source=SystemNoise(), purpose="x")
