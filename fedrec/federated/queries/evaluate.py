"""Evaluate: how well a model ranks what its users hold out, as sums that a server divides.

A device ranks the whole catalogue for its user, as a simulation would: the candidates are everything outside the user's
training items, ties are ordered by the hash of user and item, and only the user's own metric values leave. So the sum
over all users, divided by their number, is the number that `fedrec.evaluation.evaluate` gives.

It is the one query that is handed held-out items. The method that scores is not: it sees a cohort without them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedrec.components import build_config
from fedrec.errors import DataError, FedrecError, did_you_mean
from fedrec.evaluation import HeldOut
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows
from fedrec.federated.method import METHODS, FederatedMethod
from fedrec.federated.query import Query, Setting, allow
from fedrec.recommenders.recommender import Tensors
from fedrec.streams import Streams


@allow("evaluate")
@dataclass(frozen=True, eq=False)
class Evaluate(Query):
    """Metric sums and numbers of users, over all users and over each group, of those with training and held-out items.

    A message names the method by its kind, which a node looks up among the methods that it knows, and by its settings.

    Attributes:
        method: what scores on the device.
        state: the server's state that scoring reads, by name.
        part: the held-out part, "valid" or "test".
        metrics: accuracy metrics with a length, "ndcg@10"; each lies in [0, 1].
        seed: of the run; it orders ties and draws sampled candidates.
        groups: name -> number of groups, of attributes that the devices hold as codes.
        everyone: whether all users are asked; otherwise the round's participants are.
    """

    method: FederatedMethod
    state: Tensors
    part: str
    metrics: tuple[str, ...]
    seed: int
    groups: Mapping[str, int] = field(default_factory=dict)
    everyone: bool = True

    @classmethod
    def of(
        cls, method: FederatedMethod, state: Tensors, part: str, metrics: Sequence[str], seed: int, *, everyone: bool
    ) -> Evaluate:
        """Ask for a method's present model."""
        return cls(method, scoring_state(state), part, tuple(metrics), seed, everyone=everyone)

    @property
    def held_out(self) -> str:  # type: ignore[override]
        """The part that it is handed."""
        return self.part

    @property
    def private(self) -> tuple[str, ...]:  # type: ignore[override]
        """What scoring reads of the devices' memory."""
        return scoring_memory(self.method, self.state)

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`metrics`: [1 + groups, 1 + metrics], a row for all users and for each group: their number, then the sums."""
        return {"metrics": (1 + sum(self.groups.values()), 1 + len(self.metrics))}

    @property
    def bounds(self) -> Mapping[str, tuple[float, ...]]:
        """1, for the count and for each metric."""
        return {"metrics": (1.0,) * (1 + len(self.metrics))}

    @property
    def broadcast(self) -> Mapping[str, Tensor]:
        """The model."""
        return self.state

    @property
    def dtype(self) -> torch.dtype:
        """Metrics are double."""
        return torch.float64

    @property
    def settings(self) -> Mapping[str, Setting]:
        """Everything else, as plain words and numbers.

        Raises:
            ConfigError: if the method has no kind, by which a node could know it.
        """
        return {
            **settings_of(self.method),
            "part": self.part,
            "metrics": ",".join(self.metrics),
            "seed": self.seed,
            "groups": json.dumps(dict(self.groups)),
            "everyone": self.everyone,
        }

    @classmethod
    def build(cls, broadcast: Mapping[str, Tensor], settings: Mapping[str, Setting]) -> Evaluate:
        """The query of a message.

        Raises:
            DataError: if the method is not one that this node knows, or the settings are not its own.
        """
        try:
            sizes = {str(name): int(size) for name, size in json.loads(str(settings["groups"])).items()}
            return cls(
                method_of(settings),
                broadcast,
                str(settings["part"]),
                tuple(str(settings["metrics"]).split(",")),
                int(settings["seed"]),
                sizes,
                bool(settings["everyone"]),
            )
        except (KeyError, ValueError, AttributeError, FedrecError) as error:
            raise DataError(f"query 'evaluate' does not fit its definition: {error}") from error

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        """That of the method's own memory."""
        memory = self.method.memory(self.state)
        assert memory is not None  # otherwise nothing is private, and nobody asks
        return memory.initial(without_held_out(cohort), draw)

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """Each user's values in the row of all and in those of the user's groups. Nothing is remembered."""
        assert cohort.held_out is not None  # by `held_out`
        ranking, plain, device = ranking_of(cohort, self.part, self.seed), without_held_out(cohort), cohort.keys.device
        users = ranking.warm_users

        def score(some: Tensor) -> Tensor:
            here = some.to(device)
            return self.method.score(self.state, plain.take(here), state.take(here))

        value = torch.ones(len(users), 1 + len(self.metrics), dtype=torch.float64)
        if len(users):
            found = ranking.accuracy(score, users, self.metrics)
            value[:, 1:] = torch.stack([found[name] for name in self.metrics], dim=1)
        owner, index = [users], [torch.zeros_like(users)]
        first = 1
        for name, size in self.groups.items():
            if name not in cohort.held_out.groups:
                raise DataError(f"evaluate: the devices know no attribute '{name}'; ask without it")
            code = cohort.held_out.groups[name].cpu()[users]
            known = (code >= 0) & (code < size)
            owner.append(users.where(known, -1))
            index.append(first + code)
            first += size
        owners, rows, values = torch.cat(owner), torch.cat(index), value.repeat(1 + len(self.groups), 1)
        kept = owners >= 0
        owners, rows, values = owners[kept].to(device), rows[kept].to(device), values[kept].to(device)
        return {"metrics": Rows.coalesce(owners, rows, values, n_rows=first)}, State()


def scoring_state(state: Tensors) -> Tensors:
    """What scoring reads of a server's state.

    What `server_step` keeps beside a parameter ("items.exp_avg") is the server's own and is not broadcast.
    """
    return {name: tensor for name, tensor in state.items() if name.partition(".")[0] not in state or "." not in name}


def scoring_memory(method: FederatedMethod, state: Tensors) -> tuple[str, ...]:
    """What scoring reads of the devices' memory, by name."""
    memory = method.memory(state)
    return () if memory is None else memory.private


def settings_of(method: FederatedMethod) -> dict[str, Setting]:
    """A method as plain words: its kind, and its settings.

    Raises:
        ConfigError: if the method has no kind, by which a node could know it.
    """
    return {"method": METHODS.kind_of(type(method)), "config": method.config.model_dump_json()}


def method_of(settings: Mapping[str, Setting]) -> FederatedMethod:
    """The method that `settings_of` described, if this node knows it.

    Raises:
        DataError: if it does not.
        KeyError, ValueError, ConfigError: if the settings are not those of a method.
    """
    kind, config = str(settings["method"]), str(settings["config"])
    if kind not in METHODS:
        raise DataError(f"method '{kind}' is not known to this node; {did_you_mean(kind, METHODS)}")
    method_class = METHODS[kind]
    return method_class(build_config(method_class.config_class, json.loads(config), kind))


def largest_norm(metrics: int, groupings: int = 0) -> float:
    """What no user's answer exceeds: 1 for the count and for each metric, once for all and once a grouping.

    Args:
        metrics: how many are asked for.
        groupings: of users, how many.
    """
    return math.sqrt((1 + metrics) * (1 + groupings))


def without_held_out(cohort: Cohort) -> Cohort:
    """What a method may see of a cohort."""
    return cohort.take(torch.arange(len(cohort), device=cohort.keys.device))


def ranking_of(cohort: Cohort, part: str, seed: int) -> HeldOut:
    """The ranking of a cohort's users, whose codes are their positions. Lists are made on the CPU."""
    held_out = cohort.held_out
    assert held_out is not None
    indptr, degrees = held_out.indptr.cpu(), cohort.degrees.cpu()
    users = torch.nonzero(indptr.diff()).flatten()
    known = [(cohort.indptr, cohort.items), *held_out.known]
    return HeldOut(
        part,
        users,
        degrees[users] > 0,
        (indptr, held_out.items.cpu()),
        tuple((ends.cpu(), items.cpu()) for ends, items in known),
        cohort.keys.cpu(),
        held_out.item_keys.cpu(),
        Streams(seed),
    )
