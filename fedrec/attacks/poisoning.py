"""Poisoning: fake clients push one item into everybody's list, and what defences do about it.

Every answer of a fake client changes the row of the target item alone, towards the mean vector of items that are
known to be popular: whoever likes what many like is to like the target (the aim of PipAttack, Zhang et al. 2022, by
the plain means of explicit boosting, Bhagoji et al. 2019). Its length is a multiple of the median honest answer's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedrec.attacks.attack import ATTACKS, Finding, Target
from fedrec.attacks.defences import Defence, Robust, aggregate_of
from fedrec.components import Config
from fedrec.errors import ConfigError
from fedrec.federated import (
    Answer,
    Ask,
    Devices,
    Engine,
    LocalEngine,
    OverEngine,
    PrivateEngine,
    Query,
    Rows,
    Totals,
)
from fedrec.federated.cohort import NO_STATE
from fedrec.federated.method import NobodyAnswered
from fedrec.privacy import Clip, Gaussian
from fedrec.recommenders import Tensors
from fedrec.streams import Streams, keys_of


class PoisoningConfig(Config):
    """Settings of `Poisoning`.

    Attributes:
        fakes: number of fake clients, as a share of the honest ones.
        targets: items that are promoted, in a run each: drawn from the less popular half.
        popular: number of items that the attacker knows to be popular.
        boost: length of a fake answer, in lengths of the median honest one.
        rounds: that are played; None is all of the arm's.
        k: length of the lists.
        defences: what the server does, a case each. An arm with a guarantee has its clip and its noise, and no other:
            defences need single answers.
    """

    fakes: float = Field(0.02, gt=0, le=1)
    targets: int = Field(3, ge=1)
    popular: int = Field(50, ge=1)
    boost: float = Field(10.0, gt=0)
    rounds: int | None = Field(None, ge=1)
    k: int = Field(10, ge=1)
    defences: tuple[Defence, ...] = ("none", "norm-bound", "median", "trimmed-mean", "krum", "multi-krum")


@ATTACKS.register("poisoning")
class Poisoning:
    """Can fake clients promote an item?"""

    config_class: ClassVar[type[Config]] = PoisoningConfig

    def __init__(self, config: PoisoningConfig) -> None:
        self.config = config

    def check(self, target: Target) -> None:
        """The arm must train an item table by its changes, and have items to promote."""
        target.require_plain()
        draw_targets(target, self.config.targets)
        query = target.memory
        items = None if query is None else query.broadcast.get("items")
        if query is None or items is None or dict(query.tables) != {"items": tuple(items.shape)}:
            raise ConfigError(
                "attack 'poisoning' pushes a row of an item table that is trained by its changes; name arms of "
                "ego-lightgcn or fedmf in `on`"
            )

    def run(self, target: Target) -> list[Finding]:
        """Exposure of the targets with the attack, beside that without, and what the defence costs without it."""
        self.check(target)
        promoted = draw_targets(target, self.config.targets)
        private = target.recommender.privacy is not None
        defences: tuple[Defence, ...] = ("none",) if private else self.config.defences
        findings = []
        for defence in defences:
            case = "clipped and noised" if private else ("no defence" if defence == "none" else defence)
            lists, hit_rate = self._play(target, defence, None)
            before = [exposure(lists, item, target) for item in promoted]
            found = [self._play(target, defence, item) for item in promoted]
            after = [exposure(lists, item, target) for (lists, _), item in zip(found, promoted, strict=True)]
            k = self.config.k
            findings.append(Finding.mean(case, f"exposure@{k}", after, sum(before) / len(before)))
            if len(target.valid.user):
                findings.append(Finding(case, f"hit-rate@{k}", hit_rate, trials=1))
                findings.append(Finding.mean(case, f"hit-rate@{k}-attacked", [rate for _, rate in found]))
        return findings

    def _play(self, target: Target, defence: Defence, promoted: int | None) -> tuple[Tensor, float]:
        """The honest users' lists after the arm's rounds, [n_users, k], and their hit rate on validation."""
        participation, honest = target.recommender.participation, Devices.of(target.train)
        local = LocalEngine(honest, target.streams, participation, threads=1)
        number = 0 if promoted is None else max(1, round(self.config.fakes * len(honest)))
        fakes = _Fakes(promoted or 0, number, popular_items(target, self.config.popular), self.config.boost)
        engine: Engine = local if promoted is None else Poisoned(local, fakes, target.streams)
        schedule = target.schedule
        if schedule is not None:
            engine = PrivateEngine(
                engine, schedule, target.noise_multipliers(), target.noise(f"poisoned/{promoted}"), Gaussian()
            )
        aggregate = aggregate_of(defence, max(1, round(self.config.fakes * local.expected)))
        if aggregate is not None:
            engine = Robust(engine, aggregate)
        method = target.method
        state = method.start(target.federation(len(honest), honest.n_items))
        for step in range(1, min(self.config.rounds or method.rounds, method.rounds) + 1):
            try:
                state = method.round(state, Ask(engine, step))
            except NobodyAnswered:
                continue
        return self._lists(target, local, state)

    def _lists(self, target: Target, local: LocalEngine, state: Tensors) -> tuple[Tensor, float]:
        users, method = torch.arange(len(local.devices)), target.method
        query = method.memory(state)
        looked = (local.devices.cohort(users), NO_STATE) if query is None else local.look(users, query)
        scores = method.score(state, *looked).double().clone()  # some methods expand one row
        scores[torch.from_numpy(target.train.user), torch.from_numpy(target.train.item)] = -torch.inf
        lists = scores.topk(self.config.k, dim=1).indices
        if not len(target.valid.user):
            return lists, float("nan")
        of_user = lists[torch.from_numpy(target.valid.user)]
        hits = (of_user == torch.from_numpy(target.valid.item).unsqueeze(1)).any(dim=1)
        return lists, float(hits.double().mean())


def draw_targets(target: Target, number: int) -> list[int]:
    """Items from the less popular half of the catalogue.

    Raises:
        ConfigError: if there are not as many.
    """
    popularity = np.bincount(target.train.item, minlength=target.train.n_items)
    candidates = np.argsort(popularity, kind="stable")[: target.train.n_items // 2]
    if number > len(candidates):
        raise ConfigError(f"targets = {number}: {len(candidates)} items are less popular than the others; take fewer")
    chosen: list[int] = (
        target.streams.numbers("attack/poisoning/targets").choice(candidates, number, replace=False).tolist()
    )
    return chosen


def popular_items(target: Target, number: int) -> Tensor:
    """The most popular items, which anyone may know from charts."""
    popularity = np.bincount(target.train.item, minlength=target.train.n_items)
    return torch.from_numpy(np.argsort(-popularity, kind="stable")[:number].copy())


def exposure(lists: Tensor, item: int, target: Target) -> float:
    """The share of the users who lack an item whose list shows it."""
    lacking = torch.ones(len(lists), dtype=torch.bool)
    lacking[torch.from_numpy(target.train.user[target.train.item == item])] = False
    return float((lists[lacking] == item).any(dim=1).double().mean())


@dataclass(frozen=True, eq=False)
class _Fakes:
    """The fake clients.

    Attributes:
        item: what they promote.
        number: of clients.
        popular: [p] items that are known to be popular.
        boost: see `PoisoningConfig`.
    """

    item: int
    number: int
    popular: Tensor
    boost: float

    def answer(self, query: Query, length: float) -> Rows:
        """One fake answer."""
        aim = F.normalize(query.broadcast["items"][self.popular].mean(dim=0), dim=0)
        value = self.boost * length * aim
        return Rows(torch.zeros(1, dtype=torch.int64), torch.tensor([self.item]), value.unsqueeze(0))


@dataclass(eq=False)
class Poisoned(OverEngine):
    """An engine with fake clients among the honest ones. They take part as often as those.

    Attributes:
        engine: the honest ones.
        fakes: the others.
        streams: of the run, from which the fakes draw when they take part.
    """

    engine: LocalEngine
    fakes: _Fakes
    streams: Streams

    @property
    def expected(self) -> float:
        """Of all: the server takes the fakes for clients."""
        return self.engine.expected * (1 + self.fakes.number / len(self.engine.devices))

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The honest sum and that of the fake answers, each scaled to the clip."""
        length = median_length(self.engine, query, round, phase)
        totals = self.engine.sum(query, round=round, phase=phase, clip=clip)
        fake, present = self._scaled(self.fakes.answer(query, length), clip), self._present(round)
        for _ in range(present):
            fake.add_to(totals.sums["items"], None)
        return replace(totals, answered=totals.answered + present)

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """The honest answers, then the fake ones."""
        lengths = []
        for answer in self.engine.answers(query, round=round, phase=phase, clip=clip):
            lengths.append(_length(answer))
            yield answer
        fake = self._scaled(self.fakes.answer(query, float(np.median(lengths)) if lengths else 0.0), clip)
        for number in range(self._present(round)):
            yield Answer(len(self.engine.devices) + number, number, {"items": fake})

    def _scaled(self, fake: Rows, clip: Clip | None) -> Rows:
        if clip is None:
            return fake
        norm = float(torch.linalg.vector_norm(fake.value))
        return Rows(fake.owner, fake.index, fake.value.double() * min(1.0, clip.norm / max(norm, 1e-30)))

    def _present(self, round: int) -> int:
        keys = keys_of(f"fake {number}" for number in range(self.fakes.number))
        return int((self.streams.at(round).uniform("participation", keys) < self.participation.rate).sum())


def median_length(engine: LocalEngine, query: Query, round: int, phase: int) -> float:
    """The median norm of the honest answers of a round; the fakes know it from devices of their own."""
    lengths = [_length(answer) for answer in engine.answers(query, round=round, phase=phase)]
    return float(np.median(lengths)) if lengths else 0.0


def _length(answer: Answer) -> float:
    return math.sqrt(sum(float(part.squared_norms(1).sum()) for part in answer.contributions.values()))
