"""How answers become a noised sum: the contract, and the way in which the server is trusted to see them and to noise.

The ways in which devices send something else than their answers are in `device_sums`. What clip and noise each table
has is said by the parts of a release, which are the same for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeGuard

import torch
from torch import Tensor

from fedrec.federated.engine import Engine, Totals
from fedrec.federated.query import Query
from fedrec.privacy import BIT, BIT_CLIP, Clip, Mechanism, NoiseSource, Part, PrivacyConfig, Trust, UniformSource


@dataclass(frozen=True)
class Asked:
    """One release as it is asked for.

    Attributes:
        query, round, phase, clip: for the engine.
        parts: clip and noise of each table.
        correlate: (table, independent noise) -> the noise to add; None adds it as it is.
    """

    query: Query
    round: int
    phase: int
    clip: Clip
    parts: Sequence[Part]
    correlate: Callable[[str, Tensor], Tensor] | None = None

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """Of all tables, that of the clip's bits included."""
        return {**self.query.tables, BIT: (1, 1)}

    def purpose(self, table: str, *rest: int) -> str:
        """Names the noise of a table, and of a client."""
        return "/".join(str(name) for name in (self.round, self.phase, self.query.kind, table, *rest))

    def size(self, part: Part) -> int:
        """Entries of a part."""
        return sum(math.prod(self.shapes[name]) for name in part.tables)


class PrivateSums(Protocol):
    """A way from answers to a noised sum.

    Attributes:
        trust: who is trusted with what.
    """

    trust: Trust

    @property
    def name(self) -> str:
        """The mechanism in words, for the Guarantee."""

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The noised sums of all tables of all parts, float64, and what only a simulation sees beside them."""


class OverNodes(Engine, Protocol):
    """An engine whose users are on nodes, which see to it what the server gets of them."""

    def private_sums(
        self, privacy: PrivacyConfig, mechanism: Mechanism, source: UniformSource, clients: int
    ) -> PrivateSums:
        """What nodes send where the server is not to see their sums.

        Args:
            privacy: the section, of another trust than the server's.
            mechanism, source: of the noise.
            clients: of all nodes together.
        """

    def passed(self, moment: tuple[int, int]) -> None:
        """Go on from a (round, phase) whose sum the nodes have answered, to a server that was killed since."""


def is_over_nodes(engine: Engine) -> TypeGuard[OverNodes]:
    """Whether an engine's users are on nodes."""
    return hasattr(engine, "private_sums")


class ServerNoise:
    """The server sees answers, adds them up and adds the noise.

    Args:
        mechanism: what makes the noise.
        source: where it comes from.
    """

    trust: Trust = "central"

    def __init__(self, mechanism: Mechanism, source: NoiseSource) -> None:
        self.mechanism = mechanism
        self.source = source

    @property
    def name(self) -> str:
        """That of the mechanism."""
        return self.mechanism.name

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The engine's sum, and the noise."""
        query = asked.query
        totals = engine.sum(query, round=asked.round, phase=asked.phase, clip=asked.clip)
        # b_u − ½ summed over those who answered: half of them, less one for each who is clipped.
        bits = torch.full((1, 1), BIT_CLIP * totals.answered - totals.clipped, dtype=torch.float64)
        return self.noised(totals, {**totals.sums, BIT: bits}, asked, {part: part.clip for part in asked.parts})

    def noised(self, totals: Totals, exact: Mapping[str, Tensor], asked: Asked, bounds: Mapping[Part, float]) -> Totals:
        """Noise in proportion to each part's bound on every entry."""
        sums = {}
        for part in asked.parts:
            for name in part.tables:
                symmetric, total = name in asked.query.symmetric, exact[name]
                noise = self.mechanism.noise(
                    total.shape,
                    part.noise_multiplier,
                    bounds[part],
                    symmetric=symmetric,
                    source=self.source,
                    purpose=asked.purpose(name),
                )
                if asked.correlate is not None and name != BIT:
                    noise = asked.correlate(name, noise)
                sums[name] = symmetrised(total, symmetric) + noise.to(total.device)
        return replace(totals, sums=sums, noised=True)


def symmetrised(total: Tensor, symmetric: bool) -> Tensor:
    """(M + Mᵀ)/2 of a symmetric table: symmetrised noise would let pass bare what differs across the diagonal."""
    return (total + total.T) / 2 if symmetric else total
