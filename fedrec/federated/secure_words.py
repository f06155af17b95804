"""Answers as fixed-point words, added up modulo 2^32 under masks: what secure sums of clients have in common."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedrec.errors import PrivacyError
from fedrec.federated.answers import Answer
from fedrec.federated.contribution import Contribution, Outer, Rows
from fedrec.federated.engine import Engine, Totals
from fedrec.federated.private_sums import Asked
from fedrec.privacy import BIT, BIT_CLIP, Part, UniformSource
from fedrec.privacy.fixed_point import FixedPoint, Words
from fedrec.privacy.secure_round import Traffic, secure_sum, sparse_enough
from fedrec.privacy.secure_sum import Session

MOST_WORDS = 2e10
"""Words of masks or noise that a simulation draws on its devices' behalf for one sum: about a minute of one core."""
ROUNDED = 1.01
"""The largest part of a clip that fixed-point rounding may make of it."""


def taken(engine: Engine, asked: Asked) -> tuple[list[Answer], Counter[str]]:
    """The answers that are taken, and how many were refused and why."""
    found = list(engine.answers(asked.query, round=asked.round, phase=asked.phase, clip=asked.clip))
    refused = Counter(answer.refused for answer in found if answer.refused)
    return [answer for answer in found if not answer.refused], refused


def require_feasible(words: float, what: str) -> None:
    """Refuse what a simulation would take too long for, with a PrivacyError."""
    if words > MOST_WORDS:
        raise PrivacyError(
            f"{what} are {words:.1e} words for one sum, and a simulation draws at most {MOST_WORDS:.0e}; set "
            "privacy.executed = false, which adds up the same sums without them"
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


def contribution_to(answer: Answer, table: str) -> Contribution:
    """What an answer adds to a table, or its clip bit, shifted by a half, unless it brings another."""
    return _bit(answer) if table == BIT and BIT not in answer.contributions else answer.contributions[table]


def words_of_answer(answer: Answer, asked: Asked, points: Mapping[Part, FixedPoint]) -> Words:
    """An answer as words, table after table."""
    words, start = np.zeros(sum(asked.size(part) for part in asked.parts), dtype=np.uint32), 0
    for part in asked.parts:
        for name in part.tables:
            shape = asked.shapes[name]
            places, values = entries(contribution_to(answer, name), shape[1])
            words[start + places] = points[part].encode(values)
            start += math.prod(shape)
    return words


def least_of(clients: int, answering: float) -> int:
    """The least number of clients that make up a share of them; a sum of one would be an answer."""
    return max(2, math.ceil(answering * clients - 1e-9))  # floats make 55.00000000000001 of .55 · 100


def decoded_words(words: Words, asked: Asked, points: Mapping[Part, FixedPoint]) -> dict[str, Tensor]:
    """The tables that words stand for."""
    found, start = {}, 0
    for part in asked.parts:
        for name in part.tables:
            shape = asked.shapes[name]
            size = math.prod(shape)
            found[name] = torch.from_numpy(points[part].decode(words[start : start + size])).reshape(shape)
            start += size
    return found


@dataclass(frozen=True)
class SecureWords:
    """Secure sums of clients in one process.

    Attributes:
        source: of the ring's order.
        population: the most clients that may answer, a public number that the fixed-point scale follows.
        answering: the least share of a sum's clients that must answer, and keep their secrets.
        executed: whether the masks are.
    """

    source: UniformSource
    population: int
    answering: float
    executed: bool

    def point(self, part: Part, size: int, headroom: float = 0.0) -> FixedPoint:
        """The fixed-point numbers of a part of so many entries.

        Raises:
            PrivacyError: if rounding may add more than a hundredth to the clip.
        """
        point = FixedPoint(part.clip, self.population, headroom)
        if point.sensitivity(size) > ROUNDED * point.bound:
            raise PrivacyError(
                f"fixed point: rounding {size} entries to steps of {point.resolution:.2g} may add more than a "
                f"hundredth to the clip of {point.bound:g}; sum fewer answers at once, or smaller tables"
            )
        return point

    def least(self, users: int) -> int:
        """The least number of answers that a sum of so many clients is opened for."""
        return least_of(users, self.answering)

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
            noise: key of a client -> what it adds to its words.

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
            words = words_of_answer(answers[place], asked, points)
            return words if noise is None else words + noise(answers[place].key)

        if self.executed:
            require_feasible(float(users) * session.degree * length, f"masks of {session.degree} neighbours each")
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

    def _seed(self, asked: Asked, users: int) -> list[int]:
        """Of the ring's order: the server's choice, from its own source."""
        return [int(2**53 * chance) for chance in self.source.uniforms(2, asked.purpose("ring", users))]
