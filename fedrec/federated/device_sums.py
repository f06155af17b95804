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
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedrec.federated.engine import Engine, Totals
from fedrec.federated.private_sums import Asked, ServerNoise, symmetrised
from fedrec.federated.secure_words import ROUNDED, SecureWords, contribution_to, entries, require_feasible, taken
from fedrec.privacy import Mechanism, Trust, UniformSource
from fedrec.privacy.discrete import TAILS, device_deviation, discrete_gaussian
from fedrec.privacy.fixed_point import Words


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
        exact = self._secure.decoded(words, asked, points)
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
        least = secure.least(len(answers) + refused.total())
        points, deviations, sizes = {}, {}, {}
        for part in asked.parts:
            # All answer, and each has the noise that only the least number would need.
            noise = part.noise_multiplier * ROUNDED * part.clip / math.sqrt(secure.answering)
            sizes[part] = asked.size(part)
            point = secure.point(part, sizes[part], headroom=TAILS * noise)
            steps = point.sensitivity(sizes[part]) / point.resolution
            points[part] = point
            deviations[part] = device_deviation(part.noise_multiplier, steps, least, sizes[part])
        if secure.executed:
            require_feasible(float(len(answers)) * sum(sizes.values()), "discrete noise")

        def noise_of(clients: int, *place: int) -> Words:
            drawn = [
                discrete_gaussian(
                    size,
                    math.sqrt(clients) * deviations[part],
                    secure.source,
                    asked.purpose("+".join(part.tables), *place),
                )
                for part, size in sizes.items()
            ]
            return np.concatenate(drawn).astype(np.uint32)  # modulo 2^32

        own = partial(noise_of, 1) if secure.executed else None
        words, totals = secure.add_up(answers, refused, asked, points, own)
        if not secure.executed:  # a sum of discrete Gaussians is one, but for a τ that `discrete` counts
            words += noise_of(len(answers))
        sums = {
            name: symmetrised(total, name in asked.query.symmetric)
            for name, total in secure.decoded(words, asked, points).items()
        }
        return replace(totals, sums=sums, noised=True)


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
        """The sum of noised answers."""
        answers, refused = taken(engine, asked)
        size = sum(asked.size(part) for part in asked.parts)
        if self.executed:
            require_feasible(float(len(answers)) * size, "numbers of noise on each answer")
        sums = {
            name: torch.zeros(asked.shapes[name], dtype=torch.float64) for part in asked.parts for name in part.tables
        }
        for place, answer in enumerate(answers):
            for name, noise in self._noises(asked, 1.0, place) if self.executed else ():
                sums[name] += noise
            for name, total in sums.items():
                places, values = entries(contribution_to(answer, name), total.shape[1])
                total.view(-1)[torch.from_numpy(places)] += torch.from_numpy(values)
        if not self.executed and answers:
            for name, noise in self._noises(asked, math.sqrt(len(answers))):
                sums[name] += noise
        dtype = torch.empty(0, dtype=asked.query.dtype)
        return Totals(
            {name: symmetrised(total, name in asked.query.symmetric) for name, total in sums.items()},
            answered=len(answers),
            clipped=sum(answer.clipped for answer in answers),
            refused=dict(refused),
            bytes_up=len(answers) * size * dtype.element_size(),
            bytes_down=sum(t.numel() * t.element_size() for t in asked.query.broadcast.values()) * len(answers),
            noised=True,
        )

    def _noises(self, asked: Asked, times: float, *place: int) -> Iterator[tuple[str, Tensor]]:
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
                        purpose=asked.purpose(name, *place),
                    ),
                )
