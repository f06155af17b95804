"""Sums of nodes that add their users' noise themselves, as ways from answers to a noised sum."""

from __future__ import annotations

import math

import torch

from fedrec.errors import DataError
from fedrec.federated.engine import Engine, Totals
from fedrec.federated.private_sums import Asked
from fedrec.flower.adding import CompensatedSum
from fedrec.flower.engine import FlowerEngine
from fedrec.flower.own_noise import OwnNoise
from fedrec.flower.records import ROUNDING, NodeAnswer
from fedrec.flower.requests import request_to_record
from fedrec.privacy import Mechanism, Part, SeededNoise, Trust, UniformSource

_DEVIATIONS = 10.0
"""A Gaussian vector of d entries is longer than √d and so many deviations once in 5e21 (Laurent & Massart 2000)."""


class NoisedNodes:
    """Nodes noise each of their users' answers, enough to protect it from whoever sees it, and send the sum.

    Neighbours and noise are those of `LocalNoise`: what the server gets of a node is computed from noised answers.

    Args:
        engine: the nodes.
        mechanism: of the noise, in words.
        source: of the run; nodes draw from its seed, or from the operating system.
        executed: whether each user's noise is drawn, or that of a node's users at once.
    """

    trust: Trust = "local"

    def __init__(self, engine: FlowerEngine, mechanism: Mechanism, source: UniformSource, executed: bool) -> None:
        self._engine = engine
        self._mechanism = mechanism
        self._stream = stream_of(source)
        self._executed = executed

    @property
    def name(self) -> str:
        """The mechanism in words."""
        return (
            "on each node, for each of its users, with twice the clip, by which two answers of one user differ: "
            f"{self._mechanism.name}"
        )

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The sum of what nodes send."""
        request = self._engine.request((asked.round, asked.phase), asked.clip)
        record = request_to_record(asked.query, request)
        OwnNoise(tuple(asked.parts), self._stream, self._executed).write(record)
        sums = {name: CompensatedSum(asked.shapes[name]) for part in asked.parts for name in part.tables}

        def check(answer: NodeAnswer) -> None:
            for one in asked.parts:
                _require_noised(answer, one, asked.size(one))

        return self._engine.gather(asked.query, request, record, sums, check)


def stream_of(source: UniformSource) -> str:
    """What nodes draw seeded noise under; nothing where they draw from the operating system."""
    return source.for_devices().arm if isinstance(source, SeededNoise) else ""


def _require_noised(answer: NodeAnswer, part: Part, entries: int) -> None:
    """Refuse what clipped and noised answers practically never add up to.

    Raises:
        DataError: if the answer is longer.
    """
    users = answer.counts["answered"]
    norm = math.hypot(*(float(torch.linalg.vector_norm(answer.parts[name].value.double())) for name in part.tables))
    noise = 2 * part.clip * part.noise_multiplier * math.sqrt(users) * (math.sqrt(entries) + _DEVIATIONS)
    if norm > (users * part.clip + noise) * (1 + ROUNDING):
        raise DataError(
            f"an answer longer than its users' clips and noise; norm {norm:g} of {users} users clipped to {part.clip:g}"
        )
