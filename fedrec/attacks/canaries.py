"""Canaries: users whose presence an observer with every other knowledge tries to read from what an arm releases.

A canary's history is made of items that nobody else has. Each takes part or not by a coin of its own. The observer
knows all the others and what they add to every sum, every canary's answer, were it there (it keeps a shadow of each
one's device), and sees every release of the run. What is left unknown are the coins, the noise and the sample: just
what the guarantee rests on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedrec.attacks.attack import Target
from fedrec.attacks.defects import AskedOtherwise, Defect, repeated, with_defect
from fedrec.errors import ConfigError
from fedrec.federated import (
    Answer,
    Ask,
    Cohort,
    Contribution,
    Devices,
    Engine,
    LocalEngine,
    Outer,
    ParticipationConfig,
    PrivateEngine,
    Query,
    State,
    Totals,
)
from fedrec.privacy import Clip, Schedule, scales
from fedrec.streams import Streams, keys_of


@dataclass(frozen=True, eq=False)
class Scores:
    """What the observer makes of each canary after a whole run.

    Attributes:
        likelihood: [m] log of the likelihood ratio of in and out, of the releases at the canary's own items.
        untouched: [m] minus the number of the canary's own rows that were released without any change, summed over
            releases; noise on every entry leaves none.
        included: [m] bool, the truth.
        releases: number of releases that were seen.
    """

    likelihood: Tensor
    untouched: Tensor
    included: Tensor
    releases: int


def play(target: Target, canaries: int, items: int, defect: Defect = "none", times: int = 1) -> Scores:
    """Play an arm's private rounds with planted canaries, and score each of them.

    Args:
        target: the arm, with a guarantee.
        canaries: m, how many are planted; about half of them are in.
        items: how many items of its own each has; they are added to the catalogue.
        defect: what is planted in the mechanism.
        times: how often each interaction was recorded, of everybody.

    Raises:
        ConfigError: if the arm's items are too few to be a release of, see `Transcript`.
    """
    schedule = target.schedule
    if schedule is None:
        raise ConfigError("canaries are scored by the noise of a guarantee, and the arm has none; give it privacy")
    streams, participation = target.streams, target.recommender.participation
    n_items = target.train.n_items + canaries * items
    indptr, own = target.train.csr
    others = Devices(target.train.users.keys, indptr, own, n_items)
    planted = Devices(
        keys_of(f"canary {number}" for number in range(canaries)),
        torch.arange(canaries + 1) * items,
        torch.arange(target.train.n_items, n_items),
        n_items,
    )
    included = torch.from_numpy(streams.numbers("canary/coins").random(canaries) < 0.5)
    present = planted.take(torch.nonzero(included).flatten())
    population = _Population(
        LocalEngine(others, streams, participation),
        LocalEngine(present, streams, participation),
        participation.rate * (len(others) + canaries / 2),
    )
    engine, mechanism = with_defect(defect, population)
    multipliers = target.noise_multipliers()
    private = PrivateEngine(engine, schedule, multipliers, target.noise(f"audit/{defect}"), mechanism)
    transcript = Transcript(
        private, population, LocalEngine(planted, streams, threads=1), schedule, items, defect, times
    )
    state = target.method.start(target.federation(len(others) + canaries // 2, n_items))
    try:
        for number in range(1, target.method.rounds + 1):
            state = target.method.round(state, Ask(transcript, number))
    except _EndOfTranscript:
        pass  # what the server makes of its last release is its own business
    likelihood, untouched = transcript.scores()
    return Scores(likelihood, untouched, included, transcript.releases)


class _EndOfTranscript(Exception):  # noqa: N818 (it says what happened, and is no mistake)
    """Every planned release has been made."""


@dataclass(eq=False)
class _Population:
    """The sum over the known users and the canaries that are in; that over the known ones is kept.

    Attributes:
        known, planted: who adds up either.
        expected: the public number that sums are divided by, whatever the coins say.
        sums: of the known users, of the last query.
    """

    known: Engine
    planted: Engine
    expected: float
    sums: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def participation(self) -> ParticipationConfig:
        """Of both."""
        return self.known.participation

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """Both together."""
        known, planted = (
            engine.sum(query, round=round, phase=phase, clip=clip) for engine in (self.known, self.planted)
        )
        self.sums = known.sums
        return Totals({name: total + planted.sums[name] for name, total in known.sums.items()})

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """The known users' answers, then the canaries'."""
        for engine in (self.known, self.planted):
            yield from engine.answers(query, round=round, phase=phase, clip=clip)


class _Recorded(AskedOtherwise):
    """A query whose contributions are kept as they were made, one cohort after the other."""

    def __init__(self, inner: Query) -> None:
        super().__init__(inner)
        self.contributions: list[tuple[int, Mapping[str, Contribution]]] = []

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """The same, kept."""
        contributions, state = self.inner.contribute(cohort, state, draw)
        self.contributions.append((len(cohort), contributions))
        return contributions, state


class Transcript:
    """An engine of private sums that reads each release for signs of the canaries.

    Args:
        private: makes the releases.
        population: knows what the known users add to them.
        shadow: all canaries' devices, each answering every query.
        schedule: of all releases.
        items: how many items of its own each canary has; they end the catalogue, canary by canary.
        defect: of the queries.
        times: as in `play`.
    """

    def __init__(
        self,
        private: PrivateEngine,
        population: _Population,
        shadow: LocalEngine,
        schedule: Schedule,
        items: int,
        defect: Defect,
        times: int,
    ) -> None:
        self.participation = private.participation
        self.expected = population.expected
        self.releases = 0
        self._private, self._population, self._shadow = private, population, shadow
        self._clips = {planned.query: Clip(planned.clip) for planned in schedule.releases}
        self._planned = len(private.planned().releases)
        self._items, self._defect, self._times = items, defect, times
        self._rounds: dict[int, Tensor] = {}
        self._untouched = torch.zeros(len(shadow.devices))

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The release, after it was read."""
        if self.releases == self._planned:
            raise _EndOfTranscript
        asked = repeated(query, self._times, self._defect)
        totals = self._private.sum(asked, round=round, phase=phase, clip=clip)
        self.releases += 1
        answers = _Recorded(repeated(query, self._times, "none"))
        bound = self._clips[query.kind]
        self._shadow.sum(answers, round=round, phase=phase, clip=bound)
        self._read(totals.sums, answers, bound, round)
        if self.releases == self._planned:
            raise _EndOfTranscript
        return totals

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """Refused by the private engine."""
        return self._private.answers(query, round=round, phase=phase, clip=clip)

    def scores(self) -> tuple[Tensor, Tensor]:
        """The two statistics, [m] each.

        A canary that is in takes part in a round with probability q, so that the round's likelihood ratio is
        (1 − q) + q e^ℓ, where ℓ = Σ (⟨r, c⟩ − ½‖c‖²) / s² over the round's releases r beyond the known users, of
        noise s, to which it would have added c.
        """
        rate, total = self.participation.rate, torch.zeros(len(self._shadow.devices), dtype=torch.float64)
        for ratio in self._rounds.values():
            if rate == 1:
                total += ratio
            else:
                total += torch.logaddexp(torch.full_like(ratio, math.log(1 - rate)), ratio + math.log(rate))
        return total, -self._untouched

    def _read(self, released: Mapping[str, Tensor], answers: _Recorded, clip: Clip, round: int) -> None:
        schedule, multipliers = self._private.schedule, self._private.noise_multipliers
        deviation = schedule.noise_multiplier(multipliers, answers.kind, round) * clip.norm
        first = 0
        ratio = self._rounds.setdefault(round, torch.zeros(len(self._shadow.devices), dtype=torch.float64))
        for size, contributions in answers.contributions:
            norms = torch.stack([part.squared_norms(size) for part in contributions.values()]).sum(dim=0)
            scale = scales(norms, clip)
            for name, part in contributions.items():
                beyond = released[name].double() - self._population.sums[name].double()
                read = self._along(part.scaled(scale) if not isinstance(part, Outer) else part, beyond, first, size)
                along, square = read if not isinstance(part, Outer) else (scale * read[0], scale.square() * read[1])
                ratio[first : first + size] += (along - 0.5 * square) / deviation**2
            first += size
        for name, total in released.items():
            self._count_untouched(total, self._population.sums[name].to(total.dtype))

    def _along(self, part: Contribution, beyond: Tensor, first: int, size: int) -> tuple[Tensor, Tensor]:
        """⟨r, c⟩ and ‖c‖² of some canaries, from `first` on, at their own items; 0 in a table that is not of items."""
        if len(beyond) != self._shadow.devices.n_items:
            return torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        own = (part.index - self._own_from) // self._items == part.owner + first
        owner, index, value = part.owner[own], part.index[own], part.value[own].double()
        if isinstance(part, Outer):
            vectors, places = value.view(size, self._items), index.view(size, self._items)
            squares = beyond[places.unsqueeze(2), places.unsqueeze(1)]
            return torch.einsum("ni,nij,nj->n", vectors, squares, vectors), vectors.square().sum(dim=1).square()
        along, square = (beyond[index] * value).sum(dim=1), value.square().sum(dim=1)
        nothing = torch.zeros(size, dtype=torch.float64)
        return nothing.index_add(0, owner, along), nothing.index_add(0, owner, square)

    @property
    def _own_from(self) -> int:
        """The first of the canaries' items."""
        return self._shadow.devices.n_items - len(self._shadow.devices) * self._items

    def _count_untouched(self, released: Tensor, known: Tensor) -> None:
        """Own rows that look as if nobody but the known users had been there; of a square table, own diagonal cells."""
        if len(released) != self._shadow.devices.n_items:
            return
        same = (released == known).all(dim=1)
        if released.shape[0] == released.shape[1]:
            same = released.diagonal() == known.diagonal()
        self._untouched += same[self._own_from :].view(-1, self._items).sum(dim=1)
