"""What is promised, in full: an ε is only ever shown as part of a `Guarantee`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from fedrec.errors import PrivacyError
from fedrec.privacy.ledger import Ledger, Release, counted_rate
from fedrec.privacy.mechanisms import Mechanism

Randomness = Literal["seeded", "os"]
"""Where the noise comes from: a seed, for simulation, or the operating system, for a deployment."""


def check_delta(delta: float, n_users: int) -> None:
    """Refuse a δ that allows a user's data to be published outright.

    Raises:
        PrivacyError: if delta >= 1 / n_users.
    """
    if delta * n_users >= 1:
        raise PrivacyError(
            f"delta = {delta:g} is not below 1/users = 1/{n_users}, so one user's data might be published outright; "
            f"take delta = {0.1 / n_users:.0e} or less"
        )


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """User-level differential privacy of one run, with everything that it depends on; `Guarantee.of` makes one.

    ε is computed from the releases themselves, so there is no Guarantee with another number.

    Attributes:
        made: the releases of the run.
        planned: those it was going to make. ε is quoted for them: when a run stops is itself learned from the data, so
            one that stopped early is not credited with what it left out.
        delta: δ.
        n_users: number of users, which is taken to be public.
        randomness: where the noise came from.
        mechanism: in words.
        trust: who adds the noise.
    """

    made: tuple[Release, ...] = field(repr=False)
    planned: tuple[Release, ...] = field(repr=False)
    delta: float
    n_users: int
    randomness: Randomness
    mechanism: str
    trust: Literal["central"] = "central"

    unit: ClassVar[str] = "one user: everything they did, over the whole training of one arm with one seed"
    adjacency: ClassVar[str] = "add or remove one user"
    accountant: ClassVar[str] = "prv"

    def __post_init__(self) -> None:
        check_delta(self.delta, self.n_users)
        if not self.planned:
            raise PrivacyError(
                "no release was planned, so there is nothing to guarantee; leave the privacy section out"
            )
        if not Ledger(self.made).within(Ledger(self.planned)):
            raise PrivacyError(
                f"the run made {len(self.made)} releases, not all of them among the {len(self.planned)} that its noise "
                "was calibrated for; correct the method's schedule"
            )

    @classmethod
    def of(
        cls,
        ledger: Ledger,
        *,
        delta: float,
        n_users: int,
        randomness: Randomness,
        mechanism: Mechanism,
        planned: Ledger | None = None,
    ) -> Guarantee:
        """The guarantee of a run.

        Args:
            ledger: of the run.
            delta: δ.
            n_users: number of users.
            randomness: where the noise came from.
            mechanism: what made the noise.
            planned: `Schedule.ledger` of the whole schedule; None if the ledger was complete from the start.

        Raises:
            PrivacyError: if δ is not below 1 / n_users, nothing was planned, or something unplanned was released.
        """
        return cls(
            made=ledger.releases,
            planned=(ledger if planned is None else planned).releases,
            delta=delta,
            n_users=n_users,
            randomness=randomness,
            mechanism=mechanism.name,
        )

    @property
    def epsilon(self) -> float:
        """ε at δ by Opacus' PRV accountant: the number that is quoted."""
        return Ledger(self.planned).epsilon(self.delta, "prv")

    @property
    def epsilon_rdp(self) -> float:
        """ε at δ by the RDP accountant, which is looser: for comparison with papers that use it."""
        return Ledger(self.planned).epsilon(self.delta, "rdp")

    @property
    def noise_multipliers(self) -> dict[str, float]:
        """σ of each kind of release; the least, should it vary."""
        kinds = sorted({release.query for release in self.planned})
        return {kind: min(r.noise_multiplier for r in self.planned if r.query == kind) for kind in kinds}

    @property
    def clips(self) -> dict[str, float]:
        """C of each kind of release; the largest, should it vary."""
        kinds = sorted({release.query for release in self.planned})
        return {kind: max(r.clip for r in self.planned if r.query == kind) for kind in kinds}

    @property
    def sampling(self) -> str:
        """How users were drawn."""
        return self.planned[0].sampling

    @property
    def rate(self) -> float:
        """q, the probability that a user is drawn; the largest, should it vary."""
        return max(release.rate for release in self.planned)

    @property
    def notes(self) -> dict[str, str]:
        """The conditions and limits of the promise, by topic."""
        amplified = any(counted_rate(release.rate, release.sampling) < 1 for release in self.planned)
        return {
            "released_to": _RELEASED_TO[self.trust],
            "amplification": _AMPLIFIED if amplified else _NOT_AMPLIFIED,
            "joint": _JOINT,
            "randomness": _RANDOMNESS[self.randomness],
            "outside": _OUTSIDE,
        }

    def in_words(self) -> str:
        """The whole guarantee as a paragraph."""
        kinds = "; ".join(
            f"{kind}: noise multiplier {self.noise_multipliers[kind]:.4g}, clip {self.clips[kind]:.4g}, "
            f"{_plural(sum(release.query == kind for release in self.planned), 'release')}"
            for kind in self.noise_multipliers
        )
        made, planned = len(self.made), len(self.planned)
        extent = f"{_plural(planned, 'release')} on {_plural(len(Ledger(self.planned).draws()), 'participation draw')}"
        stopped = f" Only {made} of them were made; epsilon is that of all {planned}." if made < planned else ""
        return " ".join(
            [
                f"({_upwards(self.epsilon)}, {self.delta:g})-differential privacy by the PRV accountant "
                f"({_upwards(self.epsilon_rdp)} by RDP).",
                f"Unit: {self.unit}. Neighbours: {self.adjacency}, of {self.n_users}, a number taken to be public.",
                f"Mechanism: {self.mechanism} ({kinds}).",
                f"{extent}, {self.sampling} sampling at rate {self.rate:g}.{stopped}",
                f"Trust: {self.trust}.",
                *self.notes.values(),
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for `summary.json`."""
        return {
            "unit": self.unit,
            "adjacency": self.adjacency,
            "trust": self.trust,
            "mechanism": self.mechanism,
            "sampling": self.sampling,
            "rate": self.rate,
            "noise_multipliers": self.noise_multipliers,
            "clips": self.clips,
            "releases": len(self.planned),
            "releases_made": len(self.made),
            "draws": len(Ledger(self.planned).draws()),
            "epsilon": self.epsilon,
            "epsilon_rdp": self.epsilon_rdp,
            "delta": self.delta,
            "accountant": self.accountant,
            "n_users": self.n_users,
            "randomness": self.randomness,
            "notes": self.notes,
            "words": self.in_words(),
        }


_RELEASED_TO = {
    "central": "The server sees every single answer and is trusted to clip it, to add the noise, and to keep answers "
    "and sample to itself; the noisy sums, and whatever is computed from them, may be shown to anyone."
}
_AMPLIFIED = (
    "Sampling is credited with a lower epsilon (amplification): true only while nobody who sees a release learns who "
    "took part, or can read a seed that the sample was drawn from."
)
_NOT_AMPLIFIED = "No amplification by sampling is claimed."
_JOINT = (
    "The promise is joint: a user's private state and own recommendations stay on the device and are not counted, and "
    "all other users together learn no more about that user than epsilon allows."
)
_RANDOMNESS = {
    "seeded": "Noise and sample come from a seed, for simulation: whoever can read it can remove the noise and name "
    "the sample, so that this is what the same run would guarantee with secret randomness, not what this one does.",
    "os": "The noise comes from the operating system.",
}
_OUTSIDE = (
    "Outside the promise: other arms and seeds of the same experiment, which are further releases on the same users; "
    "the files that a simulation writes for its experimenter (metrics, top-k lists, private vectors in the model file, "
    "answers counted in the history and in the costs) and choices made by looking at them (early stopping, tuning); "
    "attacks on the last bits of floating-point noise. Taken to be public and fixed: the catalogue, what cleaning left "
    "out (a k-core depends on everyone) and where the split cuts."
)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _upwards(epsilon: float) -> str:
    """Three decimals; a bound is never rounded down."""
    return f"{math.ceil(1000 * epsilon) / 1000:g}"
