"""Shamir's secret sharing over a prime field: any `threshold` shares give the secret, fewer give nothing.

The secret is the value at 0 of a random polynomial of degree threshold − 1, and a share is its value at another point
(Shamir 1979, "How to Share a Secret"). The field is that of the Mersenne prime 2^521 − 1, in which 32-byte keys fit
with room to spare and Python's integers are quick. A holder who sends a wrong share is noticed only by luck.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping

from fedrec.errors import PrivacyError

PRIME = 2**521 - 1
SHARE_BYTES = 66  # of 521 bits


def split(secret: bytes, points: Iterable[int], threshold: int) -> dict[int, bytes]:
    """Shares of a secret, with randomness from the operating system.

    Args:
        secret: up to 64 bytes.
        points: distinct positive numbers of those who get a share.
        threshold: shares that it takes to know the secret.

    Returns:
        point -> share of `SHARE_BYTES` bytes.

    Raises:
        PrivacyError: if the secret is too long, a point is not positive, or there are fewer points than the threshold.
    """
    at = list(points)
    if len(secret) > 64:
        raise PrivacyError(f"a secret of {len(secret)} bytes does not fit into the field; share at most 64")
    if not 1 <= threshold <= len(at) or len(set(at)) < len(at) or min(at) < 1:
        raise PrivacyError(f"shares at points {at} with threshold {threshold}; give that many distinct points above 0")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {x: _evaluate(coefficients, x).to_bytes(SHARE_BYTES, "big") for x in at}


def combine(shares: Mapping[int, bytes], threshold: int, length: int) -> bytes:
    """The secret, by Lagrange interpolation at 0.

    Args:
        shares: point -> share, at least `threshold` of them; the first that many are used.
        threshold: as given to `split`.
        length: of the secret in bytes.

    Raises:
        PrivacyError: if there are too few shares, or they are not of one secret of that length.
    """
    if len(shares) < threshold:
        raise PrivacyError(f"{len(shares)} shares of a secret that takes {threshold}; it cannot be recovered")
    used = {x: int.from_bytes(share, "big") for x, share in list(shares.items())[:threshold]}
    secret = 0
    for x, value in used.items():
        above, below = 1, 1
        for other in used:
            if other != x:
                above, below = above * other % PRIME, below * (other - x) % PRIME
        secret = (secret + value * above * pow(below, -1, PRIME)) % PRIME
    try:
        return secret.to_bytes(length, "big")
    except OverflowError:
        raise PrivacyError("the shares do not belong to one secret; a holder sent a wrong one") from None


def _evaluate(coefficients: list[int], x: int) -> int:
    """The polynomial's value, by Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value
