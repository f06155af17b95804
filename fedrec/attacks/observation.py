"""What an observer sees: one user's answer, a masked sum of several, or a sum with the noise of a guarantee.

Single answers are collected once, while the arm's rounds are played; every sum of some of them is then at hand. Under a
guarantee they are clipped, and a sum gets the noise of a release. That a sum of one user is among them is no
oversight: whoever knows the other users' answers can subtract them from any sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedrec.attacks.attack import Target
from fedrec.errors import ConfigError, DataError
from fedrec.federated import (
    Answer,
    Ask,
    Contribution,
    Devices,
    Engine,
    LocalEngine,
    Outer,
    OverEngine,
    PrivateEngine,
    Query,
    Totals,
)
from fedrec.privacy import Clip, Gaussian, Schedule

_MOST_BYTES = 3 << 30  # of single answers; 943 users with 1,682 items of width 64 take 400 MB


@dataclass(frozen=True, eq=False)
class Observed:
    """The single answers of some users to one kind of query, added up over the rounds that were watched.

    Attributes:
        query: the first that was asked.
        answers: [n, n_items, width] float32; of an outer product c cᵀ the diagonal, of width 1.
        users: [n] int64 whose they are, positions in the population.
        own: [n, n_items] bool, the users' items.
        deviation: of the noise on each entry of a sum; 0 without a guarantee.
    """

    query: Query
    answers: Tensor
    users: Tensor
    own: Tensor
    deviation: float

    def sum_of(self, members: Tensor, generator: torch.Generator) -> Tensor:
        """What is seen of some of the users' answers together: [n_items, width].

        Args:
            members: [m] int64 positions among `users`.
            generator: draws the noise, afresh for each look.
        """
        total = self.answers[members].sum(dim=0)
        if self.deviation:
            total += self.deviation * torch.randn(total.shape, generator=generator)
        return total

    def apart(self, number: int, other: Observed, place: int) -> float:
        """How far the answer of one user lies from one that was seen otherwise: the norm of their difference.

        Of c cᵀ and b bᵀ, of which the diagonals were kept and whose entries are not negative, it is
        √(‖c‖⁴ + ‖b‖⁴ − 2⟨c, b⟩²), over the whole matrix.

        Args:
            number: position of the answer here.
            other: what was seen otherwise.
            place: position of the answer there.
        """
        one, another = self.answers[number].double(), other.answers[place].double()
        if self.answers.shape[2] in (width for rows, width in self.query.tables.values() if rows == len(one)):
            return float(torch.linalg.vector_norm(one - another))
        square = one.sum().square() + another.sum().square() - 2 * (one * another).sqrt().sum().square()
        return float(square.clamp(min=0.0).sqrt())

    def groups(self, size: int, trials: int, generator: torch.Generator) -> Iterator[tuple[Tensor, int]]:
        """Random groups of users, the first of each being attacked, and one who is not in the group.

        Args:
            size: of a group.
            trials: number of groups; the users attacked are as different as their number allows.
            generator: draws them.

        Raises:
            ConfigError: if there are not more users than that.
        """
        n_users = len(self.users)
        if size >= n_users:
            raise ConfigError(f"sums = {size}: {n_users} users answered, and one must be left out; take smaller sums")
        attacked = torch.cat(
            [torch.randperm(n_users, generator=generator) for _ in range(math.ceil(trials / n_users))]
        )[:trials]
        for user in attacked.tolist():
            others = torch.randperm(n_users - 1, generator=generator)[:size]
            others = others + (others >= user)
            yield torch.cat([torch.tensor([user]), others[:-1]]), int(others[-1])


def case_of(size: int) -> str:
    """What a sum of so many users is called in a table."""
    return "one answer" if size == 1 else f"sum of {size}"


def check_watchable(target: Target, sums: Sequence[int], rounds: int = 1, after: int = 0) -> None:
    """Whether an arm has as many rounds, and as many users beside one, as an attack is to watch.

    Raises:
        ConfigError: if it has not, or cannot be played, see `Target.require_plain`.
    """
    target.require_plain()
    if after + rounds > target.method.rounds:
        raise ConfigError(f"after = {after}, rounds = {rounds}: the arm has {target.method.rounds} rounds; lower them")
    for size in sums:
        if not 1 <= size < target.train.n_users:
            raise ConfigError(
                f"sums = {size}: a sum is of at least 1 user and leaves one of {target.train.n_users} out; correct it"
            )


class _SeenEnough(Exception):  # noqa: N818 (it says what happened, and is no mistake)
    """All rounds that are watched are over."""


@dataclass(eq=False)
class _Watching(OverEngine):
    """An engine that collects the single answers to some queries before it adds them up.

    Attributes:
        engine: adds up, and may add noise.
        local: has the single answers.
        kinds: of the queries; each is watched once a round, when it is first asked for, or under its place among
            those of one kind: ("propagate", 1) is the second pass of a round.
        rounds: first and last round that is watched.
        clips: by kind, under a guarantee.
    """

    engine: Engine
    local: LocalEngine
    kinds: Sequence[tuple[str, int]]
    rounds: tuple[int, int]
    clips: dict[str, Clip]
    seen: dict[tuple[str, int], tuple[Query, dict[int, Tensor]]] = field(default_factory=dict)
    _asked: list[str] = field(default_factory=list)
    _round: int = 0

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The engine's sum."""
        if round != self._round:
            self._round, self._asked = round, []
        place = (query.kind, self._asked.count(query.kind))
        self._asked.append(query.kind)
        if not self.kinds and self.rounds[0] <= round and len(self.local.devices):
            self.kinds = [place]  # whatever is asked first
        if place in self.kinds and self.rounds[0] <= round <= self.rounds[1]:
            self._collect(place, query, round, phase)
            done = all(kind in self.seen for kind in self.kinds)
            if done and round == self.rounds[1] and place == self.kinds[-1]:
                raise _SeenEnough
        return self.engine.sum(query, round=round, phase=phase, clip=clip)

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """The engine's answers."""
        return self.engine.answers(query, round=round, phase=phase, clip=clip)

    def _collect(self, place: tuple[str, int], query: Query, round: int, phase: int) -> None:
        _, found = self.seen.setdefault(place, (query, {}))
        n_items, expected = self.local.devices.n_items, self.local.taking_part(round)
        for answer in self.local.answers(query, round=round, phase=phase, clip=self.clips.get(query.kind)):
            for name, part in answer.contributions.items():
                if query.tables[name][0] == n_items:
                    dense = _dense(part, n_items, query.tables[name][1])
                    _require_room(query, max(expected, len(found)), dense)
                    found[answer.user] = found[answer.user] + dense if answer.user in found else dense
                    break  # the first table of items is the one that is looked at


def _require_room(query: Query, users: int, answer: Tensor) -> None:
    """Refuse, with a DataError, what would not fit into memory once all have answered."""
    needed = users * answer.numel() * answer.element_size()
    if needed > _MOST_BYTES:
        raise DataError(
            f"single answers of {users} users to '{query.kind}' take {needed / 2**30:.1f} GiB; lower the arm's "
            "participation.rate or its width"
        )


def _dense(part: Contribution, n_items: int, width: int) -> Tensor:
    if isinstance(part, Outer):
        diagonal = torch.zeros(n_items, 1)
        diagonal[part.index, 0] = part.value.float().square()
        return diagonal
    total = torch.zeros(n_items, width)
    part.add_to(total, None)
    return total


def observe(
    target: Target,
    *kinds: tuple[str, int],
    rounds: int = 1,
    after: int = 0,
    devices: Devices | None = None,
) -> list[Observed]:
    """Play an arm's rounds and collect the single answers that its sums are made of.

    Args:
        target: the arm.
        kinds: of the queries, with the place of each within a round among those of its kind, in the order that they
            are asked in; none is whatever the arm asks first.
        rounds: how many are watched; their answers are added up.
        after: rounds that are played before.
        devices: the population; the target's own if None.

    Returns:
        One for each kind; all of users who answered it.

    Raises:
        ConfigError: if the arm has not as many rounds, or asks no such query.
    """
    check_watchable(target, (), rounds, after)
    people = devices or Devices.of(target.train)
    local = LocalEngine(people, target.streams, target.recommender.participation, threads=1)
    engine: Engine = local
    schedule, multipliers = target.schedule, target.noise_multipliers()
    clips = {} if schedule is None else {planned.query: Clip(planned.clip) for planned in schedule.releases}
    if schedule is not None:
        engine = PrivateEngine(local, schedule, multipliers, target.noise("attacked"), Gaussian())
    watching = _Watching(engine, local, kinds, (after + 1, after + rounds), clips)
    state = target.method.start(target.federation(len(people), people.n_items))
    try:
        for number in range(1, after + rounds + 1):
            state = target.method.round(state, Ask(watching, number))
    except _SeenEnough:
        pass
    missing = [kind for kind in watching.kinds if kind not in watching.seen]
    if missing or not watching.seen:
        raise ConfigError(
            f"the arm's method '{type(target.method).__name__}' does not ask "
            f"{', '.join(f'{kind} (number {place})' for kind, place in missing) or 'anything'} in these rounds; attack "
            "an arm that does"
        )
    found = []
    for kind in watching.kinds:
        query, answers = watching.seen[kind]
        if not answers:
            raise ConfigError(f"nobody answered '{kind[0]}' with a table of items; attack another query")
        users = torch.tensor(sorted(answers))
        cohort = people.cohort(users)
        own = torch.zeros(len(users), people.n_items, dtype=torch.bool)
        own[cohort.owner, cohort.items] = True
        watched = range(after + 1, after + rounds + 1)
        deviation = math.sqrt(sum(_variance(schedule, multipliers, kind[0], number) for number in watched))
        stacked = torch.stack([answers[user] for user in users.tolist()])
        found.append(Observed(query, stacked, users, own, deviation))
    return found


def _variance(schedule: Schedule | None, multipliers: Mapping[str, float], kind: str, round: int) -> float:
    """Of the noise on an entry of one released sum; 0 without a guarantee."""
    if schedule is None:
        return 0.0
    (planned,) = (planned for planned in schedule.releases if planned.query == kind)
    return (schedule.noise_multiplier(multipliers, kind, round) * planned.clip) ** 2
