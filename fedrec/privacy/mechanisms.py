"""Noise for released sums, and where its randomness comes from.

A mechanism says how the noise is shaped and scaled; a source gives standard normal numbers: a seed for simulation, the
operating system for a deployment. Both compute in float64. The guarantees are theorems about real numbers: what a
float's last bits give away (Mironov 2012, "On Significance of the Least Significant Bits") is outside them.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from torch import Tensor

from fedrec.errors import PrivacyError
from fedrec.streams import Streams


class NoiseSource(Protocol):
    """Where standard normal numbers come from."""

    def normals(self, shape: Sequence[int], purpose: str) -> Tensor:
        """Independent standard normal numbers: float64 of `shape`.

        Args:
            shape: of the result.
            purpose: names the draw, down to table and phase; no purpose may serve two releases of one round.
        """


class UniformSource(NoiseSource, Protocol):
    """A source that has uniform numbers as well, for discrete noise."""

    def uniforms(self, size: int, purpose: str) -> npt.NDArray[np.float64]:
        """Independent uniform numbers in (0, 1]: [size] float64 of 53 random bits."""


@dataclass(frozen=True)
class SeededNoise:
    """Normals that the seed, the arm and the purpose determine: for simulation, where runs are repeated.

    Whoever knows the seed can subtract the noise; the Guarantee says so.

    Attributes:
        streams: of the run.
        arm: what is fitted, in full: two fits that differ in anything need noise of their own.
    """

    streams: Streams
    arm: str = ""

    def for_devices(self) -> SeededNoise:
        """What devices draw from: the same seed, under a name of the arm that says nothing of it and can be sent."""
        return replace(self, arm=hashlib.blake2b(self.arm.encode(), digest_size=16).hexdigest())

    def normals(self, shape: Sequence[int], purpose: str) -> Tensor:
        """The same numbers whenever seed, arm and purpose are the same."""
        generator = self.streams.numbers(f"noise/{self.arm}/{purpose}")
        return torch.from_numpy(generator.standard_normal(tuple(shape)))

    def uniforms(self, size: int, purpose: str) -> npt.NDArray[np.float64]:
        """The same numbers whenever seed, arm and purpose are the same."""
        return 1.0 - self.streams.numbers(f"noise/{self.arm}/{purpose}").random(size)


@dataclass(frozen=True)
class SystemNoise:
    """Normals from the operating system's generator: for a deployment. No draw can be repeated.

    Attributes:
        entropy: number of bytes -> that many random bytes.
    """

    entropy: Callable[[int], bytes] = os.urandom

    def normals(self, shape: Sequence[int], purpose: str) -> Tensor:
        """Standard normals by inversion, fresh at every call whatever the purpose."""
        size, chunk = math.prod(shape), 1 << 20  # 8 MiB of random bytes at a time
        flat = torch.empty(size, dtype=torch.float64)
        for start in range(0, size, chunk):
            flat[start : start + chunk] = self._chunk(min(chunk, size - start))
        return flat.reshape(tuple(shape))

    def uniforms(self, size: int, purpose: str) -> npt.NDArray[np.float64]:
        """Fresh at every call whatever the purpose."""
        words = np.frombuffer(self.entropy(8 * size), dtype="<u8")
        return np.ldexp((words >> np.uint64(11)).astype(np.float64) + 1.0, -53)

    def _chunk(self, size: int) -> Tensor:
        words = torch.frombuffer(bytearray(self.entropy(8 * size)), dtype=torch.int64)
        # 63 bits are a magnitude, uniform on the odd multiples of 2^-65 below 1/2, and the 64th is the sign: exactly
        # symmetric, never infinite, and fine in both tails (out to 9.2 deviations), where a uniform near 1 is coarse.
        lower_half = ((words & 0x7FFF_FFFF_FFFF_FFFF).double() + 0.5) * 2.0**-64
        magnitude = -torch.special.ndtri(lower_half)
        return torch.where(words < 0, -magnitude, magnitude)


@dataclass(frozen=True)
class SecretNoise:
    """Normals that a secret and the purpose determine: the same again for who has the secret, and for nobody else.

    Attributes:
        secret: at most 64 bytes, from the operating system.
    """

    secret: bytes = field(repr=False)

    def normals(self, shape: Sequence[int], purpose: str) -> Tensor:
        """As those of `SystemNoise`, of the key stream of ChaCha20 that purpose and secret give."""
        return self._source(purpose).normals(shape, purpose)

    def uniforms(self, size: int, purpose: str) -> npt.NDArray[np.float64]:
        """As those of `SystemNoise`."""
        return self._source(purpose).uniforms(size, purpose)

    def _source(self, purpose: str) -> SystemNoise:
        key = hashlib.blake2b(purpose.encode(), key=self.secret, digest_size=32).digest()
        stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()  # a key serves one stream
        return SystemNoise(lambda size: stream.update(bytes(size)))


class Mechanism(Protocol):
    """Makes the noise that is added to a sum of clipped contributions."""

    @property
    def name(self) -> str:
        """What it is, in words, for the Guarantee."""

    def noise(
        self, shape: Sequence[int], sigma: float, clip: float, *, symmetric: bool, source: NoiseSource, purpose: str
    ) -> Tensor:
        """Noise for one table of a released sum: float64 of `shape`; the caller casts it."""


@dataclass(frozen=True)
class Gaussian:
    """The Gaussian mechanism: a sum of sensitivity C released with independent noise of deviation σC.

    Dwork & Roth 2014, "The Algorithmic Foundations of Differential Privacy", appendix A; the price is
    `accounting`'s business.
    """

    name: str = "Gaussian noise of deviation noise multiplier × clip on every entry, symmetrised where the sum is"

    def noise(
        self, shape: Sequence[int], sigma: float, clip: float, *, symmetric: bool, source: NoiseSource, purpose: str
    ) -> Tensor:
        """Noise on *every* entry: noise on touched rows alone gives away which rows were touched.

        Args:
            shape: of the table.
            sigma: σ, the noise multiplier: deviation over clip.
            clip: C, the bound on a user's contribution over all tables of the query together.
            symmetric: for a sum of symmetric matrices. The noise is (Z + Zᵀ)/2 with every entry of Z of deviation σC:
                symmetrising the release of sum + Z is post-processing, so the guarantee is that of Z, while the
                variance is σ²C² on the diagonal and half of it elsewhere.
            source: of the normals.
            purpose: names the draw, down to table and phase.

        Returns:
            float64 of `shape`.

        Raises:
            PrivacyError: if the deviation is not a positive number, or a symmetric table is not square.
        """
        deviation = sigma * clip
        if not (math.isfinite(deviation) and deviation > 0 and sigma > 0 and clip > 0):
            raise PrivacyError(
                f"noise multiplier {sigma} with clip {clip} is no noise; give two finite numbers above 0"
            )
        if symmetric and (len(shape) != 2 or shape[0] != shape[1]):
            raise PrivacyError(f"symmetric noise for a table of shape {tuple(shape)}; only a square table is symmetric")
        noise = source.normals(shape, purpose).mul_(deviation)
        return (noise + noise.T).mul_(0.5) if symmetric else noise
