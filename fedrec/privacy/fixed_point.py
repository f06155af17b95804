"""Real numbers as integers modulo 2^32, so that sums can be masked exactly.

A value x becomes the integer nearest to x · 2^f, and negative ones wrap around. A sum of n such words is right as long
as the true sum lies within ±2^31; the scale is chosen so that it always does, for n answers of at most the stated size.
What is larger is refused, never wrapped in silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrec.errors import PrivacyError

Words = npt.NDArray[np.uint32]
"""Integers modulo 2^32."""

_HALF = 2**31
_ROUNDING = 1e-12  # relative; scaling an answer to a clip may leave an entry some 1e-16 above it


@dataclass(frozen=True)
class FixedPoint:
    """The finest power-of-two scale at which a sum of so many answers of such a size cannot overflow.

    Attributes:
        bound: the largest absolute value of any entry of an answer; a clip C bounds every entry.
        answers: the most answers that are summed.
        headroom: what may come on top of their sum, in absolute value (noise).

    Raises:
        PrivacyError: if no scale of at least one step per `bound` is left.
    """

    bound: float
    answers: int
    headroom: float = 0.0

    def __post_init__(self) -> None:
        sound = math.isfinite(self.bound) and self.bound > 0 and math.isfinite(self.headroom) and self.headroom >= 0
        if not (sound and self.answers >= 1):
            raise PrivacyError(f"fixed point: bound = {self.bound}, answers = {self.answers}; both must be above 0")
        if (_HALF - 1) / self.answers <= 0.5 or self.bound * 2.0**self.bits < 1:
            raise PrivacyError(
                f"fixed point: 32 bits cannot hold a sum of {self.answers} answers; sum in groups of fewer users"
            )

    @property
    def bits(self) -> int:
        """f, the largest with answers · (bound · 2^f + ½) + headroom · 2^f < 2^31; rounding moves an entry by ½."""
        return math.floor(math.log2((_HALF - 1 - 0.5 * self.answers) / (self.answers * self.bound + self.headroom)))

    @property
    def resolution(self) -> float:
        """The step between neighbouring values, 2^-f."""
        return 2.0**-self.bits

    @property
    def largest_error(self) -> float:
        """How far an entry of the decoded sum can be from the real one: half a step for each answer."""
        return self.answers * self.resolution / 2

    def sensitivity(self, entries: int) -> float:
        """The largest norm of an encoded answer of so many entries, in the answer's unit: bound + √entries · step/2.

        An answer has norm `bound` at most, and rounding moves each of its entries by half a step at most.
        """
        return self.bound + math.sqrt(entries) * self.resolution / 2

    def encode(self, values: npt.NDArray[np.float64]) -> Words:
        """The words of an answer.

        Args:
            values: float64 of any shape. What exceeds the bound by rounding alone is taken for the bound.

        Raises:
            PrivacyError: if a value is not finite or larger than the bound.
        """
        return _steps(values, self.bound, self.bits, "clip the answer before encoding").astype(np.uint32)

    def decode(self, total: Words) -> npt.NDArray[np.float64]:
        """The sum that words modulo 2^32 stand for: float64 of the same shape."""
        return np.ldexp(total.view(np.int32).astype(np.float64), -self.bits)


def _steps(values: npt.NDArray[np.float64], bound: float, bits: int, remedy: str) -> npt.NDArray[np.int64]:
    """The nearest whole numbers of steps 2^-bits.

    Raises:
        PrivacyError: if a value is not finite or larger than the bound.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= bound * (1 + _ROUNDING):  # also where it is NaN
        # By how much is not said: a node's refusal goes to the server.
        raise PrivacyError(f"fixed point: an entry not within ±{bound}; {remedy}")
    within: npt.NDArray[np.float64] = np.clip(values, -bound, bound)
    return np.rint(np.ldexp(within, bits)).astype(np.int64)


@dataclass(frozen=True)
class SharedPoint:
    """Fixed point for a sum over users who are dealt to nodes, each of which adds up its own users first.

    A step is a whole or a part of one, so that whole numbers come out as they are. Where one word has no room for that,
    two have: x = h·2^l + r with 0 <= r < 2^l, and l so small that the sum of all r does not wrap around either.

    Attributes:
        bound: the largest absolute value of what one user adds to an entry.
        users: of all nodes together.
        nodes: whose sums are added up; two at least.

    Raises:
        PrivacyError: if not even two words have room.
    """

    bound: float
    users: int
    nodes: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound > 0 and self.users >= 1 and self.nodes >= 2):
            raise PrivacyError(f"fixed point: {self}; all must be above 0, and nodes two at least")
        if self.bits < 0:
            raise PrivacyError(
                f"fixed point: two words cannot hold a sum of {self.users} users with entries up to {self.bound:g}; "
                "sum fewer users at once"
            )

    @property
    def words(self) -> int:
        """1, or 2 where a single one would have no room for whole numbers."""
        return 1 if self._bits(0, 0) >= 0 else 2

    @property
    def low(self) -> int:
        """l, the bits of the lower word: nodes · 2^l <= 2^32."""
        return 0 if self.words == 1 else 32 - self.nodes.bit_length()

    @property
    def bits(self) -> int:
        """f, where 2^-f is the step."""
        return self._bits(self.low, self.nodes if self.low else 0)

    def _bits(self, low: int, borrowed: int) -> int:
        """The largest f with users · bound · 2^f + nodes/2 < (2^31 − borrowed) · 2^low; each h may be one lower."""
        room = (_HALF - 1 - borrowed) * 2.0**low - 0.5 * self.nodes
        # Not by log2, which machines may round to either side of a whole number: all nodes must find the same.
        return math.frexp(room / (self.users * self.bound))[1] - 1 if room > 0 else -1

    @property
    def resolution(self) -> float:
        """The step between neighbouring values, 2^-f."""
        return 2.0**-self.bits

    @property
    def largest_error(self) -> float:
        """How far an entry of the decoded sum can be from that of the nodes' sums; whole numbers are not off at all.

        Half a step for each node; where that is finer than double precision, the latter counts besides.
        """
        return self.nodes * self.resolution / 2

    def encode(self, values: npt.NDArray[np.float64], users: int) -> Words:
        """The words of a node's sums: [words, n].

        Args:
            values: [n] float64.
            users: how many are in each sum at most.

        Raises:
            PrivacyError: if a value is not finite, or larger than so many users can make it.
        """
        remedy = "it is more than the query says that so many users add up to"
        steps = _steps(values, self.bound * users, self.bits, remedy)
        if self.words == 1:
            return steps.astype(np.uint32)[None]
        high = steps >> self.low
        return np.stack([high, steps - (high << self.low)]).astype(np.uint32)

    def decode(self, total: Words) -> npt.NDArray[np.float64]:
        """The sums that added words stand for: [words, n] -> [n] float64."""
        high = total[0].view(np.int32).astype(np.int64)
        steps = high if self.words == 1 else (high << self.low) + total[1].astype(np.int64)
        values: npt.NDArray[np.float64] = np.ldexp(steps.astype(np.float64), -self.bits)
        return values
