"""Random numbers that depend on (seed, purpose, round, user), never on order.

A user draws the same numbers alone on a device or in a cohort of a million, on any thread, in any order, because a draw
is a pure function of its key and its counter. The generator is SplitMix64 (Steele, Lea, Flood 2014): the key is mixed
into a 64-bit start, and output n is the finaliser of start + n·γ. Arithmetic is int64 with wrap-around, which is the
same on every device.

The server's own randomness (initialisation, noise) comes from `generator`, a `torch.Generator` by purpose and round.
A seed that anyone can read hides neither noise nor sample: `Streams` is for simulation, and a Guarantee says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, odd: the Weyl step of SplitMix64
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)  # the two multipliers of its finaliser (variant 13 of Stafford)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def key_of(identifier: object) -> int:
    """The 64-bit BLAKE2b key of an original user or item id, as a signed integer."""
    digest = hashlib.blake2b(str(identifier).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def keys_of(identifiers: Iterable[object]) -> Tensor:
    """`key_of` for many ids: [n] int64."""
    return torch.tensor([key_of(identifier) for identifier in identifiers], dtype=torch.int64)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own shift keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of 64-bit words in which every input bit moves every output bit."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


@dataclass(frozen=True)
class Streams:
    """All random streams of one run, at one round.

    Args:
        seed: the run's seed.
        round: the round the draws belong to; 0 before the first.
    """

    seed: int
    round: int = 0

    def at(self, round: int) -> Streams:
        """The same streams at another round."""
        return replace(self, round=round)

    def starts(self, purpose: str, keys: Tensor) -> Tensor:
        """Where each key's stream begins, int64 of the keys' shape: output n is the finaliser of start + (n + 1)·γ."""
        return mix(keys + self._start(purpose))

    def words(self, purpose: str, keys: Tensor, counters: Tensor | int = 0) -> Tensor:
        """Uniform 64-bit words.

        Args:
            purpose: the stream's name; streams of different purposes are independent.
            keys: int64 keys (`keys_of`), any shape.
            counters: int64 positions within each key's stream, broadcast against `keys`.

        Returns:
            int64 words of the broadcast shape.
        """
        start = self.starts(purpose, keys)
        return mix(start + (torch.as_tensor(counters, device=keys.device) + 1) * GAMMA)

    def uniform(self, purpose: str, keys: Tensor, counters: Tensor | int = 0) -> Tensor:
        """Uniform float64 numbers in [0, 1), of 53 random bits."""
        return _shift(self.words(purpose, keys, counters), 11).double() * 2.0**-53

    def integers(self, purpose: str, keys: Tensor, high: int, counters: Tensor | int = 0) -> Tensor:
        """Uniform int64 numbers in [0, high), for high below 2^31.

        The product of 32 random bits and `high` keeps its upper half (Lemire 2019, without rejection): the bias of
        any value is below high / 2^32.
        """
        assert 0 < high < 1 << 31
        return (_shift(self.words(purpose, keys, counters), 32) * high) >> 32

    def normal(self, purpose: str, keys: Tensor, width: int) -> Tensor:
        """Standard normal rows: [*keys.shape, width] float64, by Box and Muller."""
        counters = torch.arange(width, device=keys.device)
        first = self.uniform(purpose, keys.unsqueeze(-1), 2 * counters)
        second = self.uniform(purpose, keys.unsqueeze(-1), 2 * counters + 1)
        return torch.sqrt(-2.0 * torch.log1p(-first)) * torch.cos(2.0 * torch.pi * second)

    def generator(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A sequential generator for the server's own draws, by (seed, purpose, round)."""
        return torch.Generator(device=device).manual_seed(self._start(purpose) & ((1 << 63) - 1))

    def numbers(self, purpose: str) -> np.random.Generator:
        """As `generator`, but NumPy's, with a key of 128 bits: torch keeps 32 of a seed, and noise must never recur."""
        name = f"{self.seed}/{purpose}/{self.round}"
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
        return np.random.Generator(np.random.Philox(key=key))

    def _start(self, purpose: str) -> int:
        return key_of(f"{self.seed}/{purpose}/{self.round}")
