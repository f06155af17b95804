"""`PrivateEngine`: privacy attaches to the sum, in one place.

It decorates any engine: it passes the clip down, adds noise to every entry of what comes up, and writes the release
into the ledger. A query that is not in the schedule that the budget was calibrated over is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from fedrec.errors import PrivacyError
from fedrec.federated.answers import Answer
from fedrec.federated.cohort import Devices
from fedrec.federated.engine import Engine, Totals
from fedrec.federated.participation import ParticipationConfig
from fedrec.federated.query import Query
from fedrec.privacy import Clip, Ledger, Mechanism, NoiseSource, Release, Schedule

SILOS = (
    "a silo's answer is clipped as one, so that the promise would be about silos and not about users, and who is in "
    "which silo may itself depend on everyone's data; set population.kind = 'users', or leave the privacy section out"
)


def require_one_answer(participation: ParticipationConfig) -> None:
    """Raise a PrivacyError if a user may be in one sum twice."""
    if participation.late == "fold" and participation.straggler > 0:
        raise PrivacyError(
            "participation.late = 'fold' adds a user's late answer to a sum that may hold one in time as well, so that "
            "one user moves it by two clips; set late = 'discard'"
        )


class PrivateEngine:
    """An engine whose sums are releases of a mechanism.

    Args:
        engine: adds up the clipped contributions.
        schedule: every release that may be made.
        noise_multipliers: σ of each kind of query.
        source: where the noise comes from.
        mechanism: what makes it.

    Raises:
        PrivacyError: if the engine samples users otherwise than the schedule is accounted for, folds late answers into
            later sums, or has clients of several users.

    Attributes:
        ledger: where each release is written; a resumed run sets the one it had.
    """

    def __init__(
        self,
        engine: Engine,
        schedule: Schedule,
        noise_multipliers: Mapping[str, float],
        source: NoiseSource,
        mechanism: Mechanism,
    ) -> None:
        self.schedule = schedule
        self.noise_multipliers = noise_multipliers
        sampling = engine.participation
        if (schedule.rate, schedule.sampling) != (sampling.rate, sampling.sampling):
            raise PrivacyError(
                f"the schedule is accounted at {schedule.sampling} sampling of rate {schedule.rate} and the engine "
                f"samples {sampling.sampling} at {sampling.rate}; build both from one participation section"
            )
        require_one_answer(sampling)
        devices = getattr(engine, "devices", None)
        if getattr(engine, "silos", False) or (isinstance(devices, Devices) and devices.silo is not None):
            raise PrivacyError(SILOS)
        self.mechanism = mechanism
        self.ledger = Ledger()
        self._clips = {planned.query: Clip(planned.clip) for planned in schedule.releases}
        self._engine = engine
        self._source = source
        self._last: tuple[tuple[int, int, str], Totals] | None = None

    def planned(self, through: int | None = None) -> Ledger:
        """What the ledger holds after round `through`, or at the end."""
        return self.schedule.ledger(self.noise_multipliers, through)

    @property
    def participation(self) -> ParticipationConfig:
        """That of the engine below."""
        return self._engine.participation

    @property
    def expected(self) -> float:
        """q|U|: public, unlike the number who answered."""
        return self._engine.expected

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
        clip, sigma = self._clips[query.kind], self.noise_multipliers[query.kind]
        totals = self._engine.sum(query, round=round, phase=phase, clip=clip)
        sums = {}
        for name, total in totals.sums.items():
            symmetric = name in query.symmetric
            noise = self.mechanism.noise(
                total.shape,
                sigma,
                clip.norm,
                symmetric=symmetric,
                source=self._source,
                purpose=f"{round}/{phase}/{query.kind}/{name}",
            )
            # Noise that is symmetrised protects a sum that is: what differs across the diagonal would pass bare.
            exact = (total + total.T) / 2 if symmetric else total
            sums[name] = (exact + noise.to(total.device)).to(query.dtype)
        rate, sampling = self.schedule.rate, self.schedule.sampling
        self.ledger.record(Release(query.kind, round, sigma, clip.norm, rate, sampling))
        released = replace(totals, sums=sums, noised=True)
        self._last = (moment, released)
        return released

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """Refused: a guarantee promises sums only."""
        raise PrivacyError(
            f"query '{query.kind}' asks for single answers, and this run's guarantee promises noised sums only; "
            "drop the arm's privacy section, or use a method of sums"
        )
