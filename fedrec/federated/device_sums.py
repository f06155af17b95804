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
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedrec.errors import PrivacyError
from fedrec.federated.answers import Answer
from fedrec.federated.contribution import Contribution, Outer, Rows
from fedrec.federated.engine import Engine, Totals
from fedrec.federated.private_sums import Asked, ServerNoise, symmetrised
from fedrec.privacy import BIT, BIT_CLIP, Mechanism, Part, Trust, UniformSource
from fedrec.privacy.discrete import TAILS, device_deviation, discrete_gaussian
from fedrec.privacy.fixed_point import FixedPoint, Words
from fedrec.privacy.secure_round import Traffic, secure_sum, sparse_enough
from fedrec.privacy.secure_sum import Session

MOST_WORDS = 2e10
"""Words of masks or noise that a simulation draws on its devices' behalf for one sum: about a minute of one core."""
_ROUNDED = 1.01  # the largest part of a clip that fixed-point rounding may add to it


class _OfDevices:
    """What the three ways have in common in which devices send something else than their answer."""

    trust: Trust

    def __init__(self, source: UniformSource, executed: bool) -> None:
        self.source = source
        self.executed = executed

    def answers(self, engine: Engine, asked: Asked) -> tuple[list[Answer], Counter[str]]:
        """The answers that are taken, and how many were refused and why."""
        found = list(engine.answers(asked.query, round=asked.round, phase=asked.phase, clip=asked.clip))
        refused = Counter(answer.refused for answer in found if answer.refused)
        return [answer for answer in found if not answer.refused], refused

    def require_feasible(self, words: float, what: str) -> None:
        """Refuse what a simulation would take too long for."""
        if self.executed and words > MOST_WORDS:
            raise PrivacyError(
                f"privacy.trust = '{self.trust}': {what} are {words:.1e} words for one sum, and a simulation draws at "
                f"most {MOST_WORDS:.0e}; set privacy.executed = false, which adds up the same sums without them"
            )


def entries(part: Contribution, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """One client's contribution to a table as (places in the flat table, values); no place occurs twice.

    Args:
        part: under one owner.
        width: of the table; of an outer product's square table it is the side.
    """
    index, value = part.index.cpu().numpy(), part.value.double().cpu().numpy()
    if isinstance(part, Outer):
        return (index[:, None] * width + index).reshape(-1), np.outer(value, value).reshape(-1)
    return (index[:, None] * width + np.arange(width)).reshape(-1), value.reshape(-1)


def _bit(answer: Answer) -> Rows:
    zero = torch.zeros(1, dtype=torch.int64)
    return Rows(zero, zero, torch.full((1, 1), -BIT_CLIP if answer.clipped else BIT_CLIP, dtype=torch.float64))


def _contribution(answer: Answer, table: str) -> Contribution:
    return _bit(answer) if table == BIT else answer.contributions[table]


class MaskedSums(_OfDevices):
    """The server learns the exact sum, from words under masks, and adds the noise.

    Args:
        mechanism, source: as `ServerNoise`.
        population: the most clients that may answer, a public number that the fixed-point scale follows.
        answering: the least share of a sum's clients that must answer.
        executed: whether the masks are.
    """

    trust: Trust = "secagg"

    def __init__(
        self, mechanism: Mechanism, source: UniformSource, population: int, answering: float, executed: bool = True
    ) -> None:
        super().__init__(source, executed)
        self.population = population
        self.answering = answering
        self._server = ServerNoise(mechanism, source)

    @property
    def name(self) -> str:
        """The server's mechanism, on a sum that it learns from masks."""
        return f"{self._server.name}, of a secure sum in fixed point, whose rounding is counted in the clip"

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The sum of the words, decoded, and the noise, in proportion to the clip and what rounding adds to it."""
        points = {part: FixedPoint(part.clip, self.population) for part in asked.parts}
        for part, point in points.items():
            _require_fine(point, asked.size(part))
        answers, refused = self.answers(engine, asked)
        words, totals = self.add_up(answers, refused, asked, points)
        exact = self.decoded(words, asked, points)
        bounds = {part: point.sensitivity(asked.size(part)) for part, point in points.items()}
        return self._server.noised(totals, exact, asked, bounds)

    def add_up(
        self,
        answers: Sequence[Answer],
        refused: Counter[str],
        asked: Asked,
        points: Mapping[Part, FixedPoint],
        noise: Callable[[int], Words] | None = None,
    ) -> tuple[Words, Totals]:
        """The sum of the clients' words modulo 2^32, under masks if they are executed, and what it took.

        Args:
            answers: of those who answer.
            refused: those who took part and whose answer is no answer: they are lost after sharing.
            asked: the release.
            points: fixed-point numbers of each part.
            noise: place of a client -> what it adds to its words.

        Raises:
            PrivacyError: if a smaller share than `answering` answers: the sum is not opened.
        """
        users, length = len(answers) + refused.total(), sum(asked.size(part) for part in asked.parts)
        if len(answers) < self.least(users):
            raise PrivacyError(
                f"round {asked.round}: {len(answers)} of {users} clients answered the secure sum of "
                f"'{asked.query.kind}', and it is opened for {self.least(users)} or more (privacy.answering = "
                f"{self.answering}): ask again"
            )
        neighbors, threshold = sparse_enough(users, self.answering)
        order = np.random.default_rng(self._seed(asked, users)).permutation(np.arange(1, users + 1))
        session = Session(tuple(order.tolist()), length, threshold, neighbors, asked.purpose("sum"))

        def words_of(place: int) -> Words:
            words = self._words(answers[place], asked, points, length)
            return words if noise is None else words + noise(place)

        if self.executed:
            self.require_feasible(float(users) * session.degree * length, f"masks of {session.degree} neighbours each")
            total = secure_sum(session, {place + 1: partial(words_of, place) for place in range(len(answers))})
        else:
            total = np.zeros(length, dtype=np.uint32)
            for place in range(len(answers)):
                total += words_of(place)
        traffic = Traffic.of(session, len(answers))
        broadcast = sum(tensor.numel() * tensor.element_size() for tensor in asked.query.broadcast.values())
        return total, Totals(
            {},
            answered=len(answers),
            clipped=sum(answer.clipped for answer in answers),
            refused=dict(refused),
            bytes_up=traffic.up,
            bytes_down=traffic.down + users * broadcast,
        )

    def least(self, users: int) -> int:
        """The least number of answers that a sum of so many clients is opened for."""
        return max(2, math.ceil(self.answering * users - 1e-9))

    def decoded(self, words: Words, asked: Asked, points: Mapping[Part, FixedPoint]) -> dict[str, Tensor]:
        """The tables that words stand for."""
        found, start = {}, 0
        for part in asked.parts:
            for name in part.tables:
                shape = asked.shapes[name]
                size = math.prod(shape)
                found[name] = torch.from_numpy(points[part].decode(words[start : start + size])).reshape(shape)
                start += size
        return found

    def _words(self, answer: Answer, asked: Asked, points: Mapping[Part, FixedPoint], length: int) -> Words:
        words, start = np.zeros(length, dtype=np.uint32), 0
        for part in asked.parts:
            for name in part.tables:
                shape = asked.shapes[name]
                places, values = entries(_contribution(answer, name), shape[1])
                words[start + places] = points[part].encode(values)
                start += math.prod(shape)
        return words

    def _seed(self, asked: Asked, users: int) -> list[int]:
        """Of the ring's order: the server's choice, from its own source."""
        return [int(2**53 * chance) for chance in self.source.uniforms(2, asked.purpose("ring", users))]


class DistributedNoise(MaskedSums):
    """Every client adds its part of the noise to its words, under masks; the server never has a sum without it.

    Args:
        source: where each client's noise comes from.
        population, answering, executed: as `MaskedSums`. The least share that answers is also the least that does not
            tell the server its noise, and each client adds noise enough for that share to protect everyone.

    Neighbours are answers of one client and zeros in their place, clip bits included: the server sees who takes part,
    so that nobody can be missing. They differ by the clip.
    """

    trust: Trust = "distributed"

    def __init__(self, source: UniformSource, population: int, answering: float, executed: bool = True) -> None:
        _OfDevices.__init__(self, source, executed)
        self.population = population
        self.answering = answering

    @property
    def name(self) -> str:
        """The mechanism in words."""
        return (
            "discrete Gaussian noise of every client under masks, of deviation noise multiplier × clip together on "
            f"every entry if a share of {self.answering:g} of a sum's clients answers and keeps its noise to itself "
            "(fewer: the sum is not opened), symmetrised where the sum is; fixed-point rounding is counted in the clip"
        )

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The sum of noised words, decoded."""
        answers, refused = self.answers(engine, asked)
        least = self.least(len(answers) + refused.total())
        points, deviations, sizes = {}, {}, {}
        for part in asked.parts:
            # All answer, and each has the noise that only the least number would need.
            noise = part.noise_multiplier * _ROUNDED * part.clip / math.sqrt(self.answering)
            point = FixedPoint(part.clip, self.population, headroom=TAILS * noise)
            sizes[part] = asked.size(part)
            _require_fine(point, sizes[part])
            steps = point.sensitivity(sizes[part]) / point.resolution
            points[part] = point
            deviations[part] = device_deviation(part.noise_multiplier, steps, least, sizes[part])
        if self.executed:
            self.require_feasible(float(len(answers)) * sum(sizes.values()), "discrete noise")

        def noise_of(clients: int, *place: int) -> Words:
            drawn = [
                discrete_gaussian(
                    size,
                    math.sqrt(clients) * deviations[part],
                    self.source,
                    asked.purpose("+".join(part.tables), *place),
                )
                for part, size in sizes.items()
            ]
            return np.concatenate(drawn).astype(np.uint32)  # modulo 2^32

        own = partial(noise_of, 1) if self.executed else None
        words, totals = self.add_up(answers, refused, asked, points, own)
        if not self.executed:  # a sum of discrete Gaussians is one, but for a τ that `discrete` counts
            words += noise_of(len(answers))
        sums = {
            name: symmetrised(total, name in asked.query.symmetric)
            for name, total in self.decoded(words, asked, points).items()
        }
        return Totals(
            sums,
            totals.answered,
            totals.clipped,
            totals.refused,
            totals.bytes_up,
            totals.bytes_down,
            noised=True,
        )


class LocalNoise(_OfDevices):
    """Every client adds noise to its own answer, enough to protect it from whoever sees it.

    Neighbours are any two answers of one client, which differ by 2C at most: whoever receives an answer sees that there
    is one, so that none is no neighbour. The noise has deviation σ·2C.

    Args:
        mechanism, source: of each client's noise.
        executed: whether each client draws its own, or the sum of all is drawn at once.
    """

    trust: Trust = "local"

    def __init__(self, mechanism: Mechanism, source: UniformSource, executed: bool = True) -> None:
        super().__init__(source, executed)
        self.mechanism = mechanism

    @property
    def name(self) -> str:
        """The mechanism in words."""
        return f"on each device, of twice the clip: {self.mechanism.name}"

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The sum of noised answers."""
        answers, refused = self.answers(engine, asked)
        size = sum(asked.size(part) for part in asked.parts)
        self.require_feasible(float(len(answers)) * size, "noise on each answer")
        sums = {
            name: torch.zeros(asked.shapes[name], dtype=torch.float64) for part in asked.parts for name in part.tables
        }
        for place, answer in enumerate(answers):
            for name, noise in self._noises(asked, 1.0, place) if self.executed else ():
                sums[name] += noise
            for name, total in sums.items():
                places, values = entries(_contribution(answer, name), total.shape[1])
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


def _require_fine(point: FixedPoint, size: int) -> None:
    if point.sensitivity(size) > _ROUNDED * point.bound:
        raise PrivacyError(
            f"fixed point: rounding {size} entries to steps of {point.resolution:.2g} may add more than a hundredth to "
            f"the clip of {point.bound:g}; sum fewer answers at once, or smaller tables"
        )
