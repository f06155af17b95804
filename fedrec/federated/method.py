"""`FederatedMethod`: what a researcher writes to add an algorithm.

A method's `round` reads like the pseudo-code of its paper: it asks queries and gets sums. It never sees a user. The
server's state is a mapping of names to tensors, which is also what a checkpoint holds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

import pandas as pd
import torch
from torch import Tensor

from fedrec.components import Component, Config, Registry
from fedrec.errors import ModelError
from fedrec.federated.answers import Answer
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.engine import Engine, Totals
from fedrec.federated.query import Query
from fedrec.privacy import Clip, PlannedRelease
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.trainer import Stopping
from fedrec.streams import Streams

NO_STOPPING = Stopping(every=1, patience=0)


@dataclass(frozen=True)
class Federation:
    """What is public about a federation, and how its server computes.

    Attributes:
        n_users, n_items: sizes of the population and of the catalogue.
        streams: the server's random streams.
        dtype, device: of the server's tables.
        item_attributes: what is publicly known of the items, one row a code; no columns if nothing is.
    """

    n_users: int
    n_items: int
    streams: Streams
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    item_attributes: pd.DataFrame = field(default_factory=pd.DataFrame)

    def random_items(self, width: int, purpose: str = "items") -> Tensor:
        """A table of standard normal numbers, a row an item: [n_items, width].

        Args:
            width: of the table.
            purpose: names the stream that they are drawn from.
        """
        generator = self.streams.generator(purpose, self.device)
        return torch.randn((self.n_items, width), generator=generator, dtype=self.dtype, device=self.device)


class NobodyAnswered(Exception):  # noqa: N818 (it says what happened, and is no mistake)
    """A round whose sum is empty. The round is given up and the server's state stays as it was."""


class Ask:
    """The engine's sum within one round. Each call is the round's next phase.

    Attributes:
        round: counted from 1.
        expected: q|U|, what sums are divided by.
        totals: what was answered so far, in order, with numbers that only a simulation sees.
    """

    def __init__(self, engine: Engine, round: int) -> None:
        self.round = round
        self.expected = engine.expected
        self.totals: list[Totals] = []
        self._engine = engine

    def __call__(self, query: Query) -> Totals:
        """The sum over this round's participants; under a guarantee the noised sums, and no exact number beside them.

        Raises:
            NobodyAnswered: if there is none. Under a guarantee nobody may know, and the noise is the answer.
            ModelError: if most answers had to be refused: what was broadcast has diverged, not a few devices.
        """
        totals = self._engine.sum(query, round=self.round, phase=len(self.totals))
        self.totals.append(totals)
        if totals.noised:
            return Totals(totals.sums, noised=True)
        refused = sum(totals.refused.values())
        if refused > totals.answered:
            raise ModelError(
                f"round {self.round}: {refused} of {refused + totals.answered} answers to '{query.kind}' were refused "
                f"({', '.join(totals.refused)}); training diverged: lower the rate"
            )
        if totals.answered + totals.late == 0:
            raise NobodyAnswered
        return totals

    def answers(self, query: Query, clip: Clip | None = None) -> list[Answer]:
        """The single answers of this round's participants, for methods and defences that need them.

        Answers that are refused are counted and left out.

        Raises:
            PrivacyError: under a guarantee, which promises sums.
        """
        phase = len(self.totals)
        found = list(self._engine.answers(query, round=self.round, phase=phase, clip=clip))
        taken = [answer for answer in found if not answer.refused]
        self.totals.append(
            Totals(
                {},
                answered=len(taken),
                refused=Counter(answer.refused for answer in found if answer.refused),
                bytes_up=sum(part.bytes() for answer in taken for part in answer.contributions.values()),
                bytes_down=len(found) * sum(sent.numel() * sent.element_size() for sent in query.broadcast.values()),
            )
        )
        return taken


class FederatedMethod(Component, Protocol):
    """A federated algorithm.

    Attributes:
        config: its settings, which the constructor takes.
        rounds: the most rounds it runs.
        stopping: when it looks at the validation metric, and when it stops.
    """

    @property
    def config(self) -> Config:
        """Its settings."""

    @property
    def rounds(self) -> int:
        """The most rounds it runs."""

    @property
    def stopping(self) -> Stopping:
        """When it looks at the validation metric, and when it stops."""

    def releases(self) -> tuple[PlannedRelease, ...]:
        """Every release that it will make: query, draws, clip and share of the budget.

        A target epsilon is calibrated over all of them before the first round. A query that is not listed cannot be
        asked under a guarantee.
        """

    def start(self, federation: Federation) -> Tensors:
        """The server's state before the first round."""

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        """The server's state after one more round."""

    def memory(self, state: Tensors) -> Query | None:
        """The query whose private state scoring reads, or None if devices remember nothing."""

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        """Scores of every item, computed on the users' devices: [n, n_items]. Nothing of it is released."""


METHODS: Registry[FederatedMethod] = Registry("method")
"""The federated methods, by kind; `fedrec.federated.methods` fills it."""
