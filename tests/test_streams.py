"""Streams depend on (seed, purpose, round, key, counter) and on nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrec.streams import Streams, key_of, keys_of, mix

KEYS = keys_of(range(2000))


def test_the_generator_is_splitmix64() -> None:
    """The reference sequence of SplitMix64 from seed 1234567, as its published test vectors have it."""
    gamma = 0x9E3779B97F4A7C15 - (1 << 64)
    words = mix(torch.tensor(1234567) + torch.arange(1, 4) * gamma)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [word % (1 << 64) for word in words.tolist()] == expected


def test_keys_are_a_function_of_the_id_alone() -> None:
    assert key_of(7) == key_of("7")
    assert keys_of(["a", "b"]).tolist() == [key_of("a"), key_of("b")]
    assert len(set(KEYS.tolist())) == 2000


@given(st.permutations(range(50)))
def test_a_user_draws_the_same_alone_and_in_any_order(order: list[int]) -> None:
    streams, some = Streams(3, round=2), KEYS[:50]
    together = streams.words("x", some)
    assert torch.equal(streams.words("x", some[order]), together[order])
    assert streams.words("x", some[7:8]) == together[7]


def test_seed_purpose_round_and_counter_all_matter() -> None:
    one = Streams(0, 1).words("x", KEYS)
    others = [
        Streams(1, 1).words("x", KEYS),
        Streams(0, 2).words("x", KEYS),
        Streams(0, 1).words("y", KEYS),
        Streams(0, 1).words("x", KEYS, 1),
    ]
    assert all(not (one == other).any() for other in others)
    assert torch.equal(Streams(0).at(1).words("x", KEYS), one)


def test_uniform_numbers_are_uniform_and_uncorrelated() -> None:
    drawn = Streams(5).uniform("x", KEYS.unsqueeze(1), torch.arange(100))
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    # 200,000 numbers: 20 bins of 10,000, chi-square of 19 degrees of freedom; above 60 once in 260,000 seeds.
    counts = torch.histc(drawn.float(), bins=20, min=0, max=1)
    assert ((counts - 10_000).square() / 10_000).sum() < 60
    # Neighbouring draws: a correlation deviates by 1/√198,000 = .0022; five of these.
    pairs = torch.corrcoef(torch.stack([drawn[:, :-1].flatten(), drawn[:, 1:].flatten()]))[0, 1]
    assert abs(float(pairs)) < 0.0112


@pytest.mark.parametrize("high", [1, 3, 1000])
def test_integers_are_uniform_below_high(high: int) -> None:
    drawn = Streams(1).integers("x", KEYS.unsqueeze(1), high, torch.arange(50))
    assert int(drawn.min()) == 0
    assert int(drawn.max()) == high - 1
    deviation = math.sqrt((high**2 - 1) / 12 / drawn.numel())
    assert abs(float(drawn.double().mean()) - (high - 1) / 2) <= 5 * deviation


def test_normals_have_the_moments_of_a_normal() -> None:
    drawn = Streams(2).normal("x", KEYS, 64)
    assert drawn.shape == (2000, 64)
    # 128,000 numbers: five deviations of mean, variance and fourth moment.
    assert abs(float(drawn.mean())) < 5 / math.sqrt(128_000)
    assert abs(float(drawn.var()) - 1) < 5 * math.sqrt(2 / 128_000)
    assert abs(float(drawn.pow(4).mean()) - 3) < 5 * math.sqrt(96 / 128_000)


def test_server_generators_are_repeatable_and_distinct() -> None:
    def torchs(streams: Streams, purpose: str) -> list[float]:
        return torch.rand(4, generator=streams.generator(purpose)).tolist()

    def numpys(streams: Streams, purpose: str) -> list[float]:
        drawn: list[float] = streams.numbers(purpose).random(4).tolist()
        return drawn

    for draw in (torchs, numpys):
        assert draw(Streams(0), "x") == draw(Streams(0), "x")
        assert len({tuple(draw(Streams(s, r), p)) for s in (0, 1) for r in (0, 1) for p in "xy"}) == 8


def test_noise_does_not_recur_where_a_short_seed_would() -> None:
    """These two rounds share the 32 bits that torch's own generator keeps of a seed."""
    first, second = (Streams(1, round).numbers("noise").random(3).tolist() for round in (5782, 101418))
    assert first != second
