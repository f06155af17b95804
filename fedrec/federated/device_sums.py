"""Noised sums of what devices send instead of their answers: words under masks, with noise or without, or noised
numbers.

`MaskedSums` (secagg): fixed-point words under masks, so that the server learns the exact sum alone, which it noises.
`DistributedNoise` (distributed): the same words with discrete noise on them, so that no exact sum exists anywhere.
`LocalNoise` (local): numbers with noise of their own.

A simulation may also add up what devices would have sent without running them (`executed = False`): the same words
without masks, which cancel bit for bit, and the sum of their noise drawn at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedrec.federated.answers import Answer
from fedrec.federated.engine import Engine, Totals
from fedrec.federated.private_sums import Asked, ServerNoise, symmetrised
from fedrec.federated.secure_words import (
    ROUNDED,
    SecureWords,
    contribution_to,
    decoded_words,
    entries,
    require_feasible,
    taken,
    words_of_answer,
)
from fedrec.privacy import Mechanism, Part, Trust, UniformSource
from fedrec.privacy.discrete import TAILS, device_deviation, discrete_gaussian
from fedrec.privacy.fixed_point import FixedPoint, Words


class MaskedSums:
    """The server learns the exact sum, from words under masks, and adds the noise.

    Args:
        mechanism, source: as `ServerNoise`.
        population, answering, executed: as `SecureWords`.
    """

    trust: Trust = "secagg"

    def __init__(
        self, mechanism: Mechanism, source: UniformSource, population: int, answering: float, executed: bool = True
    ) -> None:
        self._secure = SecureWords(source, population, answering, executed)
        self._server = ServerNoise(mechanism, source)

    @property
    def name(self) -> str:
        """The server's mechanism, on a sum that it learns from masks."""
        return f"{self._server.name}, of a secure sum in fixed point, whose rounding is counted in the clip"

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The sum of the words, decoded, and the noise, in proportion to the clip and what rounding adds to it."""
        points = {part: self._secure.point(part, asked.size(part)) for part in asked.parts}
        answers, refused = taken(engine, asked)
        words, totals = self._secure.add_up(answers, refused, asked, points)
        exact = decoded_words(words, asked, points)
        bounds = {part: point.sensitivity(asked.size(part)) for part, point in points.items()}
        return self._server.noised(totals, exact, asked, bounds)


class DistributedNoise:
    """Every client adds its part of the noise to its words, under masks; the server never has a sum without it.

    Args:
        source: where each client's noise comes from.
        population, answering, executed: as `SecureWords`. The least share that answers is also the least that does not
            tell the server its noise, and each client adds noise enough for that share to protect everyone.

    Neighbours are answers of one client and zeros in their place, clip bits included: the server sees who takes part,
    so that nobody can be missing. They differ by the clip.
    """

    trust: Trust = "distributed"

    def __init__(self, source: UniformSource, population: int, answering: float, executed: bool = True) -> None:
        self._secure = SecureWords(source, population, answering, executed)

    @property
    def name(self) -> str:
        """The mechanism in words."""
        return (
            "discrete Gaussian noise of every client under masks, of deviation noise multiplier × clip together on "
            f"every entry if a share of {self._secure.answering:g} of a sum's clients answers and keeps its noise to "
            "itself (fewer: the sum is not opened), symmetrised where the sum is; fixed-point rounding is counted in "
            "the clip"
        )

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The sum of noised words, decoded."""
        secure = self._secure
        answers, refused = taken(engine, asked)
        noise = self.noise(asked, len(answers) + refused.total())
        if secure.executed:
            noise.require_feasible(len(answers))
        own = partial(noise.of, 1) if secure.executed else None
        words, totals = secure.add_up(answers, refused, asked, noise.points, own)
        if not secure.executed:  # a sum of discrete Gaussians is one, but for a τ that `discrete` counts
            words += noise.of(len(answers), _least_key(answers))
        return replace(totals, sums=noise.tables_of(words), noised=True)

    def noise(self, asked: Asked, clients: int) -> DiscreteNoise:
        """What each client adds to its words if so many take part.

        Raises:
            PrivacyError: if fixed point is too coarse for so many, or each client's part of the noise too little.
        """
        secure, points, deviations = self._secure, {}, {}
        for part in asked.parts:
            size = asked.size(part)
            # All answer, and each has the noise that only the least number would need.
            noise = part.noise_multiplier * ROUNDED * part.clip / math.sqrt(secure.answering)
            point = points[part] = secure.point(part, size, headroom=TAILS * noise)
            steps = point.sensitivity(size) / point.resolution
            deviations[part] = device_deviation(part.noise_multiplier, steps, secure.least(clients), size)
        return DiscreteNoise(asked, points, deviations, secure.source)

    def words(self, engine: Engine, asked: Asked, clients: int) -> Words:
        """What the clients of one engine add to a sum in which so many take part: their words and their noise.

        A client whose answer is refused adds its noise alone: it takes part, and others count on it.
        """
        noise, answers = self.noise(asked, clients), list(_answers(engine, asked))
        if self._secure.executed:
            noise.require_feasible(len(answers))
        total = np.zeros(noise.length, dtype=np.uint32)
        for answer in answers:
            if not answer.refused:
                total += words_of_answer(answer, asked, noise.points)
            if self._secure.executed:
                total += noise.of(1, answer.key)
        if answers and not self._secure.executed:
            total += noise.of(len(answers), _least_key(answers))
        return total


@dataclass(frozen=True, eq=False)
class DiscreteNoise:
    """The noise of each client of one sum of words.

    Attributes:
        asked: the release.
        points: fixed-point numbers of each part.
        deviations: of a client's noise on each part, in steps.
        source: where it comes from.
    """

    asked: Asked
    points: Mapping[Part, FixedPoint]
    deviations: Mapping[Part, float]
    source: UniformSource

    @property
    def length(self) -> int:
        """Words of a sum."""
        return sum(self.asked.size(part) for part in self.points)

    def of(self, clients: int, key: int) -> Words:
        """The noise of some clients together, drawn at once under a key; of one, that of the client of the key.

        A sum of n of them is within the bound that `discrete` states for n equal ones, since none of its terms is
        larger where some summands are wider: each is at most exp(−π² s²) of the least deviation s.
        """
        drawn = [
            discrete_gaussian(
                self.asked.size(part),
                math.sqrt(clients) * deviation,
                self.source,
                self.asked.purpose("+".join(part.tables), key),
            )
            for part, deviation in self.deviations.items()
        ]
        return np.concatenate(drawn).astype(np.uint32)  # modulo 2^32

    def tables_of(self, words: Words) -> dict[str, Tensor]:
        """The tables that a sum of words stands for, symmetrised where they are symmetric."""
        symmetric, decoded = self.asked.query.symmetric, decoded_words(words, self.asked, self.points)
        return {name: symmetrised(total, name in symmetric) for name, total in decoded.items()}

    def require_feasible(self, clients: int) -> None:
        """Refuse, with a PrivacyError, what would take too long to draw for each of so many clients."""
        require_feasible(float(clients) * self.length, "discrete noise")


class LocalNoise:
    """Every client adds noise to its own answer, enough to protect it from whoever sees it.

    Neighbours are any two answers of one client, which differ by 2C at most: whoever receives an answer sees that there
    is one, so that none is no neighbour. The noise has deviation σ·2C.

    Args:
        mechanism, source: of each client's noise.
        executed: whether each client draws its own, or the sum of all is drawn at once.
    """

    trust: Trust = "local"

    def __init__(self, mechanism: Mechanism, source: UniformSource, executed: bool = True) -> None:
        self.mechanism = mechanism
        self.source = source
        self.executed = executed

    @property
    def name(self) -> str:
        """The mechanism in words."""
        return f"on each device, with twice the clip, by which two answers of one client differ: {self.mechanism.name}"

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The sum of noised answers. A client whose answer is refused sends noise alone, as would one of no items."""
        answers = list(_answers(engine, asked))
        taken = [answer for answer in answers if not answer.refused]
        size = sum(asked.size(part) for part in asked.parts)
        if self.executed:
            require_feasible(float(len(answers)) * size, "numbers of noise on each answer")
        sums = {
            name: torch.zeros(asked.shapes[name], dtype=torch.float64) for part in asked.parts for name in part.tables
        }
        for answer in answers:
            for name, noise in self._noises(asked, 1.0, answer.key) if self.executed else ():
                sums[name] += noise
        for answer in taken:
            for name, total in sums.items():
                places, values = entries(contribution_to(answer, name), total.shape[1])
                total.view(-1)[torch.from_numpy(places)] += torch.from_numpy(values)
        if not self.executed and answers:
            for name, noise in self._noises(asked, math.sqrt(len(answers)), _least_key(answers)):
                sums[name] += noise
        dtype = torch.empty(0, dtype=asked.query.dtype)
        return Totals(
            # Of a symmetric table each device would send the symmetric part: to add up and to symmetrise commute.
            {name: symmetrised(total, name in asked.query.symmetric) for name, total in sums.items()},
            answered=len(taken),
            clipped=sum(answer.clipped for answer in taken),
            refused=dict(Counter(answer.refused for answer in answers if answer.refused)),
            bytes_up=len(answers) * size * dtype.element_size(),
            bytes_down=sum(t.numel() * t.element_size() for t in asked.query.broadcast.values()) * len(answers),
            noised=True,
        )

    def _noises(self, asked: Asked, times: float, key: int) -> Iterator[tuple[str, Tensor]]:
        for part in asked.parts:
            for name in part.tables:
                yield (
                    name,
                    self.mechanism.noise(
                        asked.shapes[name],
                        times * part.noise_multiplier,
                        2 * part.clip,
                        symmetric=name in asked.query.symmetric,
                        source=self.source,
                        purpose=asked.purpose(name, key),
                    ),
                )


def _answers(engine: Engine, asked: Asked) -> Iterator[Answer]:
    return engine.answers(asked.query, round=asked.round, phase=asked.phase, clip=asked.clip)


def _least_key(answers: Sequence[Answer]) -> int:
    """What noise that is drawn at once for several clients is drawn under: no other clients share it."""
    return min((answer.key for answer in answers), default=0)
