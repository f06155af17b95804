"""What is promised, in full: an ε is only ever shown as part of a `Guarantee`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from fedrec.errors import PrivacyError
from fedrec.privacy.accounting import Accountant
from fedrec.privacy.ledger import Ledger, Release, counted_rate
from fedrec.privacy.mechanisms import Mechanism

Randomness = Literal["seeded", "os"]
"""Where the noise comes from: a seed, for simulation, or the operating system, for a deployment."""
Trust = Literal["central", "secagg", "distributed", "local"]
"""Who adds the noise, and what the server sees: answers, exact sums, noised sums, or noised answers."""
Unit = Literal["user", "silo"]
"""Whom the promise is about."""


def check_delta(delta: float, units: int, unit: Unit = "user") -> None:
    """Refuse a δ that allows the data of one user, or one silo, to be published outright.

    Raises:
        PrivacyError: if delta >= 1 / units.
    """
    if delta * units >= 1:
        raise PrivacyError(
            f"delta = {delta:g} is not below 1/{unit}s = 1/{units}, so one {unit}'s data might be published outright; "
            f"take delta = {0.1 / units:.0e} or less"
        )


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """User-level (or silo-level) differential privacy of one run, with everything that it depends on; `Guarantee.of`
    makes one.

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
        silos: number of silos, which is taken to be public, where one silo is the unit; None where one user is.
        executed: whether what devices do under this trust was run, or only its sum.
        nodes: whether users are on nodes, which answer with sums.
    """

    made: tuple[Release, ...] = field(repr=False)
    planned: tuple[Release, ...] = field(repr=False)
    delta: float
    n_users: int
    randomness: Randomness
    mechanism: str
    trust: Trust = "central"
    silos: int | None = None
    executed: bool = True
    nodes: bool = False

    def __post_init__(self) -> None:
        check_delta(self.delta, self.n_users if self.silos is None else self.silos, self._one)
        if self.trust in ("distributed", "local") and any(
            counted_rate(release.rate, release.sampling) < 1 for release in self.planned
        ):
            raise PrivacyError(
                f"trust '{self.trust}' protects from the server, which sees who takes part: sampling hides nobody; "
                "account for it as 'independent'"
            )
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
        mechanism: Mechanism | str,
        planned: Ledger | None = None,
        trust: Trust = "central",
        silos: int | None = None,
        executed: bool = True,
        nodes: bool = False,
    ) -> Guarantee:
        """The guarantee of a run.

        Args:
            ledger: of the run.
            delta: δ.
            n_users: number of users.
            randomness: where the noise came from.
            mechanism: what made the noise, or its words.
            trust: who added it.
            silos: number of silos, if one of them is the unit.
            executed: whether the devices' masks and noise were run one by one.
            nodes: whether users are on nodes, which answer with sums.
            planned: `Schedule.ledger` of the whole schedule; None if the ledger was complete from the start.

        Raises:
            PrivacyError: if δ is not below one over the number of units, nothing was planned, something unplanned was
                released, or sampling is credited against a server that sees the sample.
        """
        return cls(
            made=ledger.releases,
            planned=(ledger if planned is None else planned).releases,
            delta=delta,
            n_users=n_users,
            randomness=randomness,
            mechanism=mechanism if isinstance(mechanism, str) else mechanism.name,
            trust=trust,
            silos=silos,
            executed=executed,
            nodes=nodes,
        )

    @property
    def _one(self) -> Unit:
        return "user" if self.silos is None else "silo"

    @property
    def unit(self) -> str:
        """Whom the promise is about."""
        return _UNIT[self._one]

    @property
    def adjacency(self) -> str:
        """What two data sets differ in that are hard to tell apart."""
        return _ADJACENCY[self.trust].format(one=self._one)

    @property
    def accountant(self) -> Accountant:
        """The accountant of the quoted ε: RDP where noise is discrete, of which nothing tighter is known to hold."""
        return "rdp" if self.trust == "distributed" else "prv"

    @property
    def epsilon(self) -> float:
        """ε at δ: the number that is quoted."""
        return Ledger(self.planned).epsilon(self.delta, self.accountant)

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
        """C of each kind of release; of one that adapts to the data, that of its first."""
        kinds = sorted({release.query for release in self.planned})
        return {kind: max(r.clip for r in self.planned if r.query == kind) for kind in kinds}

    @property
    def spending(self) -> dict[str, float]:
        """The part of all noise budget (Σ 1/σ²) that each kind of query spends."""
        return Ledger(self.planned).spending()

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
        silo = {"silo": _SILO} if self.silos is not None else {}
        at_once = _DRAWN_AT_ONCE if self.nodes else _NOT_EXECUTED
        masks_alone = self.trust == "central" or (self.nodes and self.trust == "secagg")
        return {
            "released_to": (_RELEASED_BY_NODES if self.nodes else _RELEASED_TO)[self.trust].format(one=self._one),
            **silo,
            **({"asked": _ASKED} if self.nodes and self.trust in ("distributed", "local") else {}),
            **({} if self.executed or masks_alone else {"devices": at_once}),
            "amplification": _AMPLIFIED if amplified else _NOT_AMPLIFIED,
            "joint": _JOINT.format(one=self._one),
            "randomness": _RANDOMNESS[self.randomness],
            "outside": _OUTSIDE,
        }

    def in_words(self) -> str:
        """The whole guarantee as a paragraph."""
        kinds = "; ".join(self._kind_in_words(kind) for kind in self.noise_multipliers)
        made, planned = len(self.made), len(self.planned)
        units = self.n_users if self.silos is None else self.silos
        beside = "" if self.accountant == "rdp" else f" ({_upwards(self.epsilon_rdp)} by RDP)"
        extent = f"{_plural(planned, 'release')} on {_plural(len(Ledger(self.planned).draws()), 'participation draw')}"
        stopped = f" Only {made} of them were made; epsilon is that of all {planned}." if made < planned else ""
        return " ".join(
            [
                f"({_upwards(self.epsilon)}, {self.delta:g})-differential privacy by the {self.accountant.upper()} "
                f"accountant{beside}.",
                f"Unit: {self.unit}. Neighbours: {self.adjacency}, of {units}, a number taken to be public.",
                f"Mechanism: {self.mechanism} ({kinds}).",
                f"{extent}, {self.sampling} sampling at rate {self.rate:g}.{stopped}",
                f"Trust: {self.trust}.",
                *self.notes.values(),
            ]
        )

    def _kind_in_words(self, kind: str) -> str:
        """Noise, clip, number and part of the budget of one kind of release."""
        own = [release for release in self.planned if release.query == kind]
        least, most = (f"{bound(r.noise_multiplier for r in own):.4g}" for bound in (min, max))
        clip = f"clip {own[0].clip:.4g}"
        if own[0].tables:
            by_table = ", ".join(f"{name} {norm:.4g}" for name, norm in own[0].tables)
            clip += f" by table ({by_table}; noise in proportion to each, times the root of their number)"
        if own[0].adaptive:
            clip = f"clip {own[0].clip:.4g} at first, then following the norms"
        budget = f", {100 * self.spending[kind]:.3g}% of the noise budget" if len(self.spending) > 1 else ""
        noise = least if least == most else f"{least} to {most}"
        return f"{kind}: noise multiplier {noise}, {clip}, {_plural(len(own), 'release')}{budget}"

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
            "spending": self.spending,
            "releases": len(self.planned),
            "releases_made": len(self.made),
            "draws": len(Ledger(self.planned).draws()),
            "epsilon": self.epsilon,
            "epsilon_rdp": self.epsilon_rdp,
            "delta": self.delta,
            "accountant": self.accountant,
            "n_users": self.n_users,
            "silos": self.silos,
            "randomness": self.randomness,
            "notes": self.notes,
            "words": self.in_words(),
        }


_UNIT = {
    "user": "one user: everything they did, over the whole training of one arm with one seed",
    "silo": "one silo: everything all of its users did, over the whole training of one arm with one seed",
}
_ADJACENCY = {
    "central": "add or remove one {one}",
    "secagg": "add or remove one {one}",
    "distributed": "replace every answer of one {one} by zeros, while it takes part as before",
    "local": "replace the data of one {one} by any other",
}
_RELEASED_TO = {
    "central": "The server sees every single answer and is trusted to clip it, to add the noise, and to keep answers "
    "and sample to itself; the noisy sums, and whatever is computed from them, may be shown to anyone.",
    "secagg": "The server sees the exact sums, and no single answer as long as it follows the protocol of secure sums "
    "and no more clients tell it their secrets than stated; it is trusted to add the noise and to keep exact sums and "
    "sample to itself; devices are trusted to clip. The noisy sums, and whatever is computed from them, may be shown "
    "to anyone.",
    "distributed": "The server sees noisy sums alone, as long as it follows the protocol of secure sums and no more "
    "clients drop out or tell it their secrets than stated; devices are trusted to clip and to add their noise. Who "
    "takes part is seen and not protected. The noisy sums may be shown to anyone.",
    "local": "The server, and whoever else sees them, gets noisy answers alone; each device clips its own answer and "
    "adds the noise, and trusts nobody. Who takes part is seen and not protected.",
}
_RELEASED_BY_NODES: dict[Trust, str] = {
    "central": "A node sees the answers of its own users and is trusted to clip them. The server sees the exact sum of "
    "every node, which of a node with one {one} is that {one}'s answer; it is trusted to add the noise and to keep "
    "those sums to itself. The noisy sums, and whatever is computed from them, may be shown to anyone.",
    "secagg": "A node sees the answers of its own users and is trusted to clip them. The server sees the exact sums "
    "over all nodes that answer, and none of a single one as long as it follows the protocol of secure sums and no "
    "more nodes tell it their secrets than stated (sums of the same over different nodes tell, by subtraction, those "
    "of the nodes they differ in); it is trusted to add the noise and to keep exact sums to itself. The noisy sums, "
    "and whatever is computed from them, may be shown to anyone.",
    "distributed": "A node sees the answers of its own users and is trusted to clip them and to add their noise. The "
    "server sees noisy sums over all nodes alone, as long as it counts rightly who takes part, follows the protocol of "
    "secure sums, and nodes with no more of the users drop out, add no noise or tell it theirs than stated. Who takes "
    "part is seen and not protected. The "
    "noisy sums may be shown to anyone who does not know more of the noise than that: a node knows that of its own "
    "users.",
    "local": "A node sees the answers of its own users, clips each {one}'s and adds its noise, and they trust it. "
    "The server, and whoever else sees them, gets the sum of a node's noisy answers. Who takes part is seen and not "
    "protected.",
}
_ASKED = (
    "A node clips and noises as it is asked, and keeps an account only if its operator granted it an epsilon: "
    "otherwise the server is trusted to ask for no less noise and no more sums than are stated here."
)
_SILO = (
    "The promise is about silos, which clip and answer as one: of a single user it says no more than of all in the "
    "silo together, and two data sets that differ in one user move a sum by up to two clips, which this epsilon does "
    "not cover. Who is in which silo is taken to be public and fixed."
)
_NOT_EXECUTED = (
    "A simulation: devices did not run their masks or draw their own noise; the same words were added without masks, "
    "and the sum of the noise was drawn at once."
)
_DRAWN_AT_ONCE = "Each node drew the noise of all its users at once, which has the distribution of their sum."
_AMPLIFIED = (
    "Sampling is credited with a lower epsilon (amplification): true only while nobody who sees a release learns who "
    "took part, or can read a seed that the sample was drawn from."
)
_NOT_AMPLIFIED = "No amplification by sampling is claimed."
_JOINT = (
    "The promise is joint: a {one}'s private state and own recommendations stay there and are not counted, and all "
    "other {one}s together learn no more about that {one} than epsilon allows."
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
