"""A small method that keeps every promise, and breaks any one of them on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedrec.components import Config
from fedrec.federated import Ask, Cohort, Contribution, Federation, Query, Rows, State, allow
from fedrec.federated.method import NO_STOPPING, NobodyAnswered
from fedrec.privacy import PlannedRelease
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.sampling import negatives
from fedrec.streams import Streams

CALLS: list[str] = []
"""What a dishonest query remembers between calls."""


class Understated(Rows):
    """Rows that call their norm smaller than it is."""

    def squared_norms(self, n_users: int) -> Tensor:
        return super().squared_norms(n_users) * 1e-6


@allow("taste")
@dataclass(frozen=True, eq=False)
class Taste(Query):
    """One gradient step of matrix factorisation with a private user vector and one negative an item."""

    items: Tensor
    fault: str
    private = ("user",)

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        return {"items": (self.items.shape[0], self.items.shape[1])}

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        draw = Streams(0) if self.fault == "one seed" else draw
        return State({"user": draw.normal("user-vector", cohort.keys, self.items.shape[1]).to(self.items.dtype)})

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        user, keys = state.dense["user"], cohort.keys
        if self.fault == "keyed by position":
            keys = torch.arange(len(cohort))
        able = (cohort.degrees < cohort.n_items)[cohort.owner]
        owner, own = cohort.owner[able], cohort.items[able]
        counter = torch.arange(len(cohort.items))[able] - cohort.indptr[owner]
        bounds = (cohort.keys, cohort.indptr, cohort.items)
        drawn = negatives(draw, keys, *bounds[1:], owner, counter, cohort.n_items)
        if self.fault == "one seed":
            drawn = own.roll(1) if len(cohort) == 1 else own
        both, who = torch.cat([own, drawn]), torch.cat([owner, owner])
        target = torch.cat([torch.ones_like(own), torch.zeros_like(drawn)]).to(user.dtype)
        table = self.items[both]
        slope = (torch.sigmoid((table * user[who]).sum(dim=1)) - target).unsqueeze(1)
        degree = cohort.degrees.to(user.dtype).clamp(min=0 if self.fault == "degree unguarded" else 1)
        pull = torch.zeros_like(user).index_add_(0, who, slope * table) / degree.unsqueeze(1)
        value = -0.1 * slope * user[who]
        if self.fault == "global numbers":
            value = value + torch.rand(()).item()
        if self.fault == "divided by the cohort":
            value = value / len(cohort)
        if self.fault == "steps in place":
            self.items.mul_(0.5)
        if self.fault == "remembers calls":
            CALLS.append("taste")
            value = value * len(CALLS)
        if self.fault == "vectors mix":
            pull = pull + user.mean(dim=0)
        rows = Rows.coalesce(who, both, value, cohort.n_items)
        if self.fault == "rows repeated":
            order = torch.argsort(who, stable=True)
            rows = Rows(who[order], both[order], value[order])
        if self.fault == "norm understated":
            rows = Understated(rows.owner, rows.index, rows.value)
        return {"items": rows}, State({"user": user - 0.1 * pull})


@dataclass(frozen=True, eq=False)
class Secret(Taste):
    """The same, not on the allow-list."""


@allow("taste-pair")
@dataclass(frozen=True, eq=False)
class Pair(Taste):
    """The same, with a setting that no message carries."""

    pair: tuple[int, int] = (1, 2)


@dataclass(frozen=True, eq=False)
class Own(Query):
    """Devices remember a row for each of their items, which is its code, and send nothing."""

    kind = "own"
    private = ("rows",)

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        return {"nothing": (1, 1)}

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        return State(ragged={"rows": Rows(cohort.owner[:0], cohort.items[:0], torch.zeros(0, 1, dtype=torch.float64))})

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        rows = Rows(cohort.owner, cohort.items, cohort.items.double().unsqueeze(1))
        return {"nothing": self.initial(cohort, draw).ragged["rows"]}, State(ragged={"rows": rows})


class TinyConfig(Config):
    fault: str = ""


class Tiny:
    """Federated averaging of `Taste`."""

    config_class: ClassVar[type[Config]] = TinyConfig
    rounds = 6
    stopping = NO_STOPPING

    def __init__(self, config: TinyConfig) -> None:
        self.config = config
        self.done = 0

    def releases(self) -> tuple[PlannedRelease, ...]:
        match self.config.fault:
            case "nothing planned":
                return ()
            case "one draw too many":
                return (PlannedRelease(query="taste", draws=7, clip=1.0),)
            case "twice a draw":
                return (PlannedRelease(query="taste", draws=6, clip=1.0, per_draw=2),)
        return (PlannedRelease(query=self.memory({"items": torch.zeros(1, 1)}).kind, draws=6, clip=1.0),)

    def start(self, federation: Federation) -> Tensors:
        streams = Streams(0) if self.config.fault == "one seed" else federation.streams
        federation.streams.generator("items")
        items = torch.randn(federation.n_items, 4, dtype=federation.dtype, generator=streams.generator("items"))
        return {"items": items}

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        fault, items = self.config.fault, state["items"]
        self.done += 1
        if fault == "state stepped in place":
            items.add_(1.0)
        try:
            totals = ask(self.memory(state))
        except NobodyAnswered:
            if fault != "empty round swallowed":
                raise
            return {"items": torch.zeros_like(items)}
        rate = self.done if fault == "counts in the object" else 1.0
        expected = torch.tensor(totals.answered) if fault == "divided by answers" else ask.expected
        step = rate * totals.sums["items"] / expected
        return {"items": items + (torch.inf if fault == "diverges" else 1.0) * step}

    def memory(self, state: Tensors) -> Taste:
        kinds: dict[str, type[Taste]] = {"off the list": Secret, "setting unsaid": Pair}
        return kinds.get(self.config.fault, Taste)(state["items"], self.config.fault)

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        user = private.dense["user"]
        scores = user @ state["items"].T
        match self.config.fault:
            case "scores of one item":
                return scores[:, :1]
            case "scores not finite":
                return scores / 0.0
            case "scores with a gradient":
                return scores.requires_grad_()
            case "scores centred":
                return scores - scores.mean(dim=0)
            case "scores in place":
                user += 1.0
            case "held-out items known":  # the order in which the canary deals items: the ninth is held out
                order = Streams(0).uniform("canary", cohort.keys.unsqueeze(1), torch.arange(cohort.n_items)).argsort(1)
                return scores.scatter_add(1, order[:, 8:9], scores.new_full((len(cohort), 1), 100.0))
        return scores
