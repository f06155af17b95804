"""`MaskedEngine`: an engine over nodes whose sums without a clip travel under masks, such as a deployment's test asks.

The server learns what the total over all nodes says, and of a single node nothing beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fedrec.errors import ConfigError
from fedrec.federated import OverEngine, Query, Totals
from fedrec.federated.answers import Answer
from fedrec.flower.engine import FlowerEngine
from fedrec.flower.exact_layout import ExactLayout
from fedrec.flower.secure_messages import Panel, SecureMessages
from fedrec.privacy import Clip


class MaskedEngine(OverEngine):
    """An engine whose sums are learnt from masks: the total of all nodes that answer, and of none alone.

    Args:
        engine: the nodes.
        answering: the least share of nodes that must answer, and keep their secrets.
        panel: the nodes that the sums are over; the first sum takes any that are enough.
    """

    engine: FlowerEngine

    def __init__(self, engine: FlowerEngine, answering: float, panel: Panel | None = None) -> None:
        self.engine = engine
        self._messages = SecureMessages(engine, answering)
        self._panel = panel or Panel()

    def layout(self, query: Query) -> ExactLayout:
        """How a query's tables become words."""
        roll = self.engine.roll
        nodes = self._panel.among(roll)
        return ExactLayout.of(query, sum(roll.nodes[node].users for node in nodes), len(nodes))

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The sum over all users of the nodes that answer, to the layout's resolution.

        Raises:
            ConfigError: if a clip is given, of which the guarantee's own sums are, or the query has no bounds.
            PrivacyError: if too few nodes answer, or not all that are in an earlier sum: nothing is opened or learnt.
        """
        if clip is not None:
            raise ConfigError(f"query '{query.kind}' asks for clip {clip.norm}, of a sum that is no release; give none")
        sums, totals = self._messages.sum(query, (round, phase), None, self.layout(query), self._panel)
        return replace(totals, sums={name: total.to(query.dtype) for name, total in sums.items()})

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """As `FlowerEngine.answers`: refused."""
        return self.engine.answers(query, round=round, phase=phase, clip=clip)
