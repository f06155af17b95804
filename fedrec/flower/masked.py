"""`MaskedNodes`: the server's side of secure sums over messages, as a way from answers to a noised sum.

The server learns the total of all nodes that answered, in fixed point, and adds the noise. Of a single node it sees
words that look uniform; how many of its users answered, were clipped or refused it does not learn at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedrec.federated.engine import Engine, Totals
from fedrec.federated.private_sums import Asked, ServerNoise
from fedrec.flower import secure
from fedrec.flower.engine import FlowerEngine
from fedrec.flower.secure_messages import SecureMessages
from fedrec.privacy import Mechanism, Part, Trust, UniformSource
from fedrec.privacy.fixed_point import FixedPoint


class MaskedNodes:
    """Secure sums of nodes.

    Args:
        engine: the nodes.
        mechanism, source: of the server's noise.
        answering: the least share of nodes that must answer, and keep their secrets.
    """

    trust: Trust = "secagg"

    def __init__(self, engine: FlowerEngine, mechanism: Mechanism, source: UniformSource, answering: float) -> None:
        self._engine = engine
        self._messages = SecureMessages(engine, answering)
        self._server = ServerNoise(mechanism, source)

    @property
    def name(self) -> str:
        """The server's mechanism, on a sum that it learns from masks."""
        return f"{self._server.name}, of a secure sum of nodes in fixed point, whose rounding is counted in the clip"

    def layout(self, asked: Asked) -> secure.Layout:
        """How the tables become words: the finest fixed point in which the largest node's sum fits."""
        nodes = self._engine.roll.nodes
        most = max(greeting.users for greeting in nodes.values())
        names = tuple(name for part in asked.parts for name in part.tables)
        points = tuple(FixedPoint(part.clip * most, len(nodes)) for part in asked.parts for _ in part.tables)
        return secure.Layout(names, tuple(asked.shapes[name] for name in names), points)

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The nodes' total, and the noise, in proportion to the clip and what rounding adds to it.

        A user moves one node's sum, by a clip at most, and with it the rounding of every entry, by a step at most.

        Raises:
            PrivacyError: if too few nodes answer: the sum is not opened, and nothing is learnt.
        """
        assert engine is self._engine or getattr(engine, "engine", None) is self._engine
        layout = self.layout(asked)
        exact, totals = self._messages.sum(asked.query, (asked.round, asked.phase), asked.clip, layout)
        steps = dict(zip(layout.names, (point.resolution for point in layout.points), strict=True))
        bounds = {part: _sensitivity(part, asked, steps) for part in asked.parts}
        return self._server.noised(totals, exact, asked, bounds)


def _sensitivity(part: Part, asked: Asked, steps: Mapping[str, float]) -> float:
    rounding = sum(math.prod(asked.shapes[name]) * steps[name] ** 2 for name in part.tables)
    return part.clip + math.sqrt(rounding)
