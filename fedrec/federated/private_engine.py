"""`PrivateEngine`: privacy attaches to the sum, in one place.

It decorates any engine: it passes the clip down, has noise added to every entry of what comes up, and writes the
release into the ledger. A query that is not in the schedule that the budget was calibrated over is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fedrec.errors import PrivacyError
from fedrec.federated.answers import Answer
from fedrec.federated.engine import Engine, OverEngine, Totals
from fedrec.federated.participation import ParticipationConfig
from fedrec.federated.private_sums import Asked, PrivateSums, ServerNoise, is_over_nodes
from fedrec.federated.query import Query
from fedrec.privacy import (
    BIT,
    BIT_CLIP,
    AdaptiveClipConfig,
    Clip,
    CorrelatedNoise,
    Correlation,
    Ledger,
    Mechanism,
    NoiseSource,
    Part,
    Schedule,
    Unit,
    bit_of,
)

SILOS = (
    "a silo's answer is clipped as one, so that the promise would be about silos and not about users; set "
    "privacy.unit = 'silo' to promise that, set population.kind = 'users', or leave the privacy section out"
)


def require_one_answer(participation: ParticipationConfig) -> None:
    """Raise a PrivacyError if a user may be in one sum twice."""
    if participation.late == "fold" and participation.straggler > 0:
        raise PrivacyError(
            "participation.late = 'fold' adds a user's late answer to a sum that may hold one in time as well, so that "
            "one user moves it by two clips; set late = 'discard'"
        )


class Journal(Protocol):
    """Remembers what was released since the last checkpoint, so that a resumed run does not release it again."""

    def load(self, round: int, phase: int, query: str) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None:
        """What was released at a moment and what was withheld, or None."""

    def save(
        self, round: int, phase: int, query: str, sums: Mapping[str, Tensor], withheld: Mapping[str, Tensor]
    ) -> None:
        """Keep it; what was released in earlier rounds is in a checkpoint by now.

        Args:
            round, phase, query: the moment.
            sums: that were released.
            withheld: noise that later rounds will take back in part, which nobody else may read.
        """


class PrivateEngine(OverEngine):
    """An engine whose sums are releases of a mechanism.

    Args:
        engine: adds up the clipped contributions.
        schedule: every release that may be made.
        noise_multipliers: σ of each kind of query, in the first draws.
        source: where the noise comes from.
        mechanism: what makes it.
        sums: how answers become a noised sum; None is by a server that sees them and adds the mechanism's noise.
        adaptive: how the clip of one query follows the users' norms; the schedule plans the releases of its bits.
        correlation: of the noise of the one query whose sums are added up over the rounds, by its kind.
        unit: whom the promise is about.

    Raises:
        PrivacyError: if the engine samples users otherwise than the schedule is accounted for, folds late answers into
            later sums, or has clients of several users and the promise is about users.

    Attributes:
        ledger: where each release is written; a resumed run sets the one it had.
        sums: how answers become a noised sum.
        journal: where a release is written before anybody is asked anything that follows from it; None where nobody
            but this process sees a round before its checkpoint.
    """

    journal: Journal | None = None

    def __init__(
        self,
        engine: Engine,
        schedule: Schedule,
        noise_multipliers: Mapping[str, float],
        source: NoiseSource,
        mechanism: Mechanism,
        *,
        sums: PrivateSums | None = None,
        adaptive: AdaptiveClipConfig | None = None,
        correlation: tuple[str, Correlation] | None = None,
        unit: Unit = "user",
    ) -> None:
        self.schedule = schedule
        self.noise_multipliers = noise_multipliers
        self.sums: PrivateSums = sums or ServerNoise(mechanism, source)
        self.ledger = Ledger()
        self._planned = {planned.query: planned for planned in schedule.releases}
        self._clips = {query: [planned.bound] for query, planned in self._planned.items()}
        self._adaptive = adaptive
        self._correlated = None if correlation is None else (correlation[0], CorrelatedNoise(correlation[1]))
        self.engine = engine
        self._last: tuple[tuple[int, int, str], Totals] | None = None
        self._require_sound(unit)

    def _require_sound(self, unit: Unit) -> None:
        schedule, sampling = self.schedule, self.engine.participation
        accounted = {sampling.sampling} | ({"independent"} if sampling.sampling == "poisson" else set())
        if schedule.rate != sampling.rate or schedule.sampling not in accounted:
            raise PrivacyError(
                f"the schedule is accounted at {schedule.sampling} sampling of rate {schedule.rate} and the engine "
                f"samples {sampling.sampling} at {sampling.rate}; build both from one participation section"
            )
        if self.sums.trust in ("distributed", "local") and schedule.sampling == "poisson" and schedule.rate < 1:
            raise PrivacyError(
                f"trust '{self.sums.trust}' protects from the server, which sees who takes part: sampling hides "
                "nobody; account for it as 'independent'"
            )
        if self._adaptive is None and any(planned.adaptive for planned in schedule.releases):
            raise PrivacyError(
                "a clip of the schedule adapts, and how is not said; give the privacy section's `adaptive`"
            )
        require_one_answer(sampling)
        if unit == "silo" and any(planned.adaptive for planned in schedule.releases):
            raise PrivacyError("a clip that adapts follows the norms of users, by a bit of each; the unit is one silo")
        if self.engine.silos != (unit == "silo"):
            raise PrivacyError(SILOS if unit == "user" else "unit 'silo': every user is a client; there are no silos")
        if self._correlated is not None:
            query, noise = self._correlated
            if (self._planned[query].draws, schedule.cycle) != (noise.correlation.rounds, noise.correlation.cycle):
                raise PrivacyError(f"the noise of '{query}' is {noise.correlation.words}; the schedule says otherwise")
            if self.sums.trust in ("distributed", "local"):
                raise PrivacyError(
                    f"noise that is correlated over rounds is the server's; trust is '{self.sums.trust}'"
                )

    def planned(self, through: int | None = None) -> Ledger:
        """What the ledger holds after round `through`, or at the end."""
        return self.schedule.ledger(self.noise_multipliers, through)

    @property
    def mechanism(self) -> str:
        """What makes the noise, in words."""
        if self._correlated is None:
            return self.sums.name
        query, noise = self._correlated
        return f"{self.sums.name}; that of '{query}' {noise.correlation.words}"

    @property
    def clips(self) -> dict[str, float]:
        """The clip that each query has now, and that a later round may change."""
        return {query: clips[-1].norm for query, clips in self._clips.items() if self._planned[query].adaptive}

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The noised sum of clipped contributions.

        Asked again under the same (round, phase), it returns what it released then: fresh noise on the same sum would
        be one more release.

        Raises:
            PrivacyError: if the release was not planned, or the query asks for a clip of its own or for everyone.
        """
        if clip is not None:
            raise PrivacyError(f"query '{query.kind}' asks for clip {clip.norm}; the schedule sets the clip: give none")
        if query.everyone:
            raise PrivacyError(
                f"query '{query.kind}' asks everyone, and its release is accounted for a round's participants; ask them"
            )
        moment = (round, phase, query.kind)
        if self._last is not None and self._last[0] == moment:
            return self._last[1]
        self.schedule.require_planned(query.kind, round, self.ledger)
        planned, clip = self._planned[query.kind], self._clips[query.kind][-1]
        totals = self._release(query, round, phase, clip)
        self.ledger.record(self.schedule.release(planned, round, self.noise_multipliers, clip))
        if planned.adaptive:
            bit = self._planned[bit_of(query.kind)]
            self.ledger.record(self.schedule.release(bit, round, self.noise_multipliers, bit.bound))
            self._adapt(query.kind, clip, totals)
        device = next(iter(query.broadcast.values()), torch.empty(0)).device
        released = {name: total.to(device, query.dtype) for name, total in totals.sums.items() if name != BIT}
        self._last = (moment, replace(totals, sums=released, noised=True))
        return self._last[1]

    def _release(self, query: Query, round: int, phase: int, clip: Clip) -> Totals:
        """A noised sum, or that of this moment which was released before the process was killed."""
        found = None if self.journal is None else self.journal.load(round, phase, query.kind)
        if found is not None:
            sums, withheld = found
            if is_over_nodes(self.engine):
                self.engine.passed((round, phase))
            if self._correlated is not None and self._correlated[0] == query.kind:
                self.restore(withheld)
            return Totals(sums, noised=True)
        asked = self._noised(Asked(query, round, phase, clip, self._parts(query, round, clip)))
        totals = self.sums.sum(self.engine, asked)
        if self.journal is not None:
            self.journal.save(round, phase, query.kind, totals.sums, self.tensors())
        return totals

    def _parts(self, query: Query, round: int, clip: Clip) -> Sequence[Part]:
        """Clip and noise of each table, that of the clip's bits included."""
        parts = clip.parts(query.tables, self._noise_multiplier(query.kind, round))
        if self._planned[query.kind].adaptive:
            parts = (*parts, Part((BIT,), BIT_CLIP, self._noise_multiplier(bit_of(query.kind), round)))
        return parts

    def _noise_multiplier(self, query: str, round: int) -> float:
        return self.schedule.noise_multiplier(self.noise_multipliers, query, round)

    def _noised(self, asked: Asked) -> Asked:
        """With the noise of earlier rounds taken into account, if this query's is correlated.

        Raises:
            PrivacyError: if a round was left out: what a user's rounds cost together counts on the rounds in between.
        """
        if self._correlated is None or self._correlated[0] != asked.query.kind:
            return asked
        query, noise = self._correlated
        first = self._planned[query].first
        if asked.round > first and not self.ledger.made(query, asked.round - 1):
            raise PrivacyError(f"release of '{query}' in draw {asked.round}: draw {asked.round - 1} was left out")
        factor = noise.correlation.factor
        parts = [replace(part, noise_multiplier=factor * part.noise_multiplier) for part in asked.parts]
        return replace(asked, parts=parts, correlate=noise.next)

    def _adapt(self, query: str, clip: Clip, totals: Totals) -> None:
        """The next round's clip, from this round's noised bits."""
        assert self._adaptive is not None
        unclipped = float(totals.sums[BIT]) / self.expected + BIT_CLIP
        self._clips[query].append(Clip(self._adaptive.next_norm(clip.norm, unclipped)))

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """Refused: a guarantee promises sums only."""
        raise PrivacyError(
            f"query '{query.kind}' asks for single answers, and this run's guarantee promises noised sums only; "
            "drop the arm's privacy section, or use a method of sums"
        )

    def tensors(self) -> dict[str, Tensor]:
        """The noise that later rounds will take back in part, for a checkpoint."""
        return {} if self._correlated is None else self._correlated[1].tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The counterpart of `tensors`."""
        if self._correlated is not None:
            self._correlated[1].restore(tensors)

    def facts(self) -> dict[str, object]:
        """Ledger, and every clip that adapts, that of the next round last."""
        clips = {query: [clip.norm for clip in self._clips[query]] for query in self.clips}
        return {"ledger": self.ledger.as_dict(), "clips": clips}

    def restore_facts(self, facts: Mapping[str, Any], done: int) -> None:
        """Continue a ledger and the clips after `done` rounds.

        Raises:
            PrivacyError: if they are not those of the rounds that were done.
        """
        if facts.get("ledger") is None:
            raise PrivacyError(
                "the checkpoint has no privacy ledger, so its rounds were not accounted; start a new run"
            )
        saved = Ledger.from_dict(facts["ledger"])
        clips = {query: [float(norm) for norm in norms] for query, norms in facts.get("clips", {}).items()}
        recorded = {query: [r.clip for r in saved.releases if r.query == query] for query in self.clips}
        if not saved.matches(self.planned(through=done)) or {q: norms[:-1] for q, norms in clips.items()} != recorded:
            raise PrivacyError(
                f"the ledger of {len(saved.releases)} releases is not that of this configuration's first {done} "
                "rounds; ledger, checkpoint or configuration was changed: start a new run"
            )
        self.ledger = saved
        for query, norms in clips.items():
            self._clips[query] = [Clip(norm) for norm in norms]
