"""`Rounds`: a federated method as something that learns in steps, which the common training loop runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor

from fedrec.errors import ModelError
from fedrec.federated.cohort import NO_STATE, Cohort
from fedrec.federated.costs import Communication
from fedrec.federated.engine import Population, Simulation, Totals, is_simulation
from fedrec.federated.method import Ask, FederatedMethod, Federation, NobodyAnswered
from fedrec.federated.private_engine import PrivateEngine
from fedrec.federated.queries import Evaluate
from fedrec.recommenders.histories import Histories
from fedrec.recommenders.recommender import Disclosure, Scorer, Tensors, require_finite


class Watched(Protocol):
    """What early stopping watches: a metric on a part that the devices hold."""

    @property
    def metric(self) -> str:
        """Accuracy metric, "ndcg@10"."""

    @property
    def seed(self) -> int:
        """Of the run; it orders ties and draws candidates."""


class Rounds:
    """A method, the users that it is trained on, and how far it has come; a step is one round.

    Args:
        method: the algorithm.
        federation: what is public.
        population: the users; they can be scored where they are at hand, as in a simulation.
        private: the guarantee's engine over them, if there is one.

    Attributes:
        communication: what the rounds so far have cost.
    """

    def __init__(
        self,
        method: FederatedMethod,
        federation: Federation,
        population: Population,
        private: PrivateEngine | None,
    ) -> None:
        self.method = method
        self.federation = federation
        self.population = population
        self.private = private
        self.communication = Communication()
        self._state: Tensors = method.start(federation)
        self._moment = (0, 0)  # of the next query

    def step(self, number: int) -> Mapping[str, tuple[float, Disclosure]]:
        """One round. If nobody answers, the model stays as it was."""
        ask = Ask(self.private or self.population, number)
        with suppress(NobodyAnswered):
            self._state = self.method.round(self._state, ask)
        for name, tensor in self._state.items():
            require_finite(tensor, f"round {number}, '{name}'")
        self.communication.rounds, self._moment = number, (number, len(ask.totals))
        up, down = self._count_costs(ask.totals)
        seen: dict[str, float] = {
            "answered": min((totals.answered for totals in ask.totals), default=0),
            "clipped": sum(totals.clipped for totals in ask.totals),
            "refused": sum(sum(totals.refused.values()) for totals in ask.totals),
            "delayed": sum(totals.delayed for totals in ask.totals),
            "late": sum(totals.late for totals in ask.totals),
            "mb_up_per_user": up,
            "mb_down_per_user": down,
        }
        rows: dict[str, tuple[float, Disclosure]] = {}
        if is_simulation(self.population):
            rows = {name: (value, "simulation") for name, value in seen.items()}
        if any(totals.nodes for totals in ask.totals):
            carried = {
                "nodes": min(totals.nodes - sum(totals.failed.values()) for totals in ask.totals),
                "failures": sum(sum(totals.failed.values()) for totals in ask.totals),
                "mb_up": sum(totals.bytes_up for totals in ask.totals) / 1e6,
                "mb_down": sum(totals.bytes_down for totals in ask.totals) / 1e6,
            }
            rows |= {name: (value, "server") for name, value in carried.items()}
        if self.private is not None:  # computed from noised bits
            rows |= {f"clip of {query}": (norm, "released") for query, norm in self.private.clips.items()}
        return rows

    def _count_costs(self, asked: Sequence[Totals]) -> tuple[float, float]:
        """Megabytes a user, up and down, of some queries, which are added to those of the run."""
        up = sum(totals.bytes_up for totals in asked) / self.federation.n_users / 1e6
        down = sum(totals.bytes_down for totals in asked) / self.federation.n_users / 1e6
        self.communication.mb_up_per_user += up
        self.communication.mb_down_per_user += down
        return up, down

    def validate(self, validator: Watched, score: Scorer) -> float:
        """The validator's number, as the devices give it: a sum of metric values over a sum of users.

        It is not computed from scores, which a server does not have. Under a guarantee it is that of the round's
        participants, with noise on both sums.
        """
        engine, (round, phase), everyone = self.private or self.population, self._moment, self.private is None
        query = Evaluate.of(self.method, self._state, "valid", [validator.metric], validator.seed, everyone=everyone)
        totals = engine.sum(query, round=round, phase=phase)
        self._moment = (round, phase + 1)
        self._count_costs([totals])
        users, value = totals.sums["metrics"][0]
        return float(value / users.clamp(min=1.0))  # noise may take a number of users to zero and below

    def score(self, users: Tensor) -> Tensor:
        """Scores of every item, computed with what each user's device holds."""
        users = users.to(self.federation.device)
        query = self.method.memory(self._state)
        if query is None:
            return self.method.score(self._state, self._at_hand.devices.cohort(users), NO_STATE)
        return self.method.score(self._state, *self._at_hand.look(users, query))

    @property
    def _at_hand(self) -> Simulation:
        """The users, where they are in this process.

        Raises:
            ModelError: where they are not.
        """
        if not is_simulation(self.population):
            raise ModelError("the users are on nodes of their own, which score for themselves; ask them by `Evaluate`")
        return self.population

    @property
    def folds_in(self) -> bool:
        """Whether devices remember nothing beside their histories."""
        return self.method.memory(self._state) is None

    def score_histories(self, histories: Histories) -> Tensor:
        """Scores as the devices of users who took no part would compute them."""
        if not self.folds_in:
            raise ModelError(
                f"{type(self.method).__name__} keeps private state on the devices that it was trained on, so it does "
                "not fold in; fit it with the new users"
            )
        device = self.federation.device
        keys = torch.zeros(len(histories), dtype=torch.int64, device=device)  # nothing is drawn
        cohort = Cohort(keys, histories.indptr.to(device), histories.items.to(device), histories.n_items)
        return self.method.score(self._state, cohort, NO_STATE)

    def model(self) -> Tensors:
        """The server's tensors alone."""
        return self._state

    def state(self) -> Tensors:
        """The server's tensors and the users'."""
        server = {f"server/{name}": tensor for name, tensor in self._state.items()}
        noise = {} if self.private is None else self.private.tensors()
        return (
            server
            | {f"users/{name}": tensor for name, tensor in self.population.tensors().items()}
            | {f"noise/{name}": tensor for name, tensor in noise.items()}
        )

    def restore(self, state: Tensors) -> None:
        """Continue from a checkpoint, nodes included."""
        device = self.federation.device
        self._state = {
            name.removeprefix("server/"): tensor.to(device)
            for name, tensor in state.items()
            if name.startswith("server/")
        }
        self.population.restore(
            {name.removeprefix("users/"): t.to(device) for name, t in state.items() if name.startswith("users/")}
        )
        if self.private is not None:
            noise = {name.removeprefix("noise/"): t for name, t in state.items() if name.startswith("noise/")}
            self.private.restore(noise)

    def facts(self) -> Mapping[str, object]:
        """The ledger and the costs so far."""
        private = {"ledger": None} if self.private is None else self.private.facts()
        return {"communication": asdict(self.communication), **private}

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Continue a ledger.

        Raises:
            PrivacyError: if it is not that of the rounds that were done.
        """
        self.communication = Communication(**facts["communication"])
        if self.private is not None:
            self.private.restore_facts(facts, self.communication.rounds)
