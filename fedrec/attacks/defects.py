"""Mechanisms with a planted defect: what an audit has to catch.

Each is a mistake that real code has made or could make. They stand here, and not in the tests, so that an experiment
can show that its audit would have noticed; nothing but `fedrec.attacks` builds them. A defect changes what a release is
asked for, after the guarantee has accounted for it, so that the sound code carries it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from fedrec.attacks.repeated import repeated
from fedrec.errors import ConfigError
from fedrec.federated import Answer, Engine, OverEngine, Query, Totals
from fedrec.federated.private_sums import Asked, PrivateSums
from fedrec.privacy import BIT, Clip, Correlation, Part, PrivacyConfig, Schedule, Trust
from fedrec.privacy.continual import sensitivity, square_root

Defect = Literal[
    "none",
    "weak-noise",
    "no-clip",
    "unmerged",
    "touched-rows",
    "first-clip",
    "bare-bits",
    "bare-looks",
    "one-participation",
    "thin-shares",
    "single-clip",
    "users-clipped",
]
"""What is planted. In any mechanism: noise a tenth of what it should be; no clipping; entries of one row that are not
merged before their norm is taken; noise on those rows alone that somebody touched. Of a clip that adapts: noise in
proportion to the clip of the first round for ever; bits without noise. Of early stopping: looks at the validation part
without noise. Of noise that is correlated over rounds: noise for one participation of each user. Of noise that clients
share: a part of 1/n² of the variance where it should be 1/n. Of local noise: in proportion to one clip, and not to the
two by which answers differ. Of silos: users are clipped."""

_WEAKNESS = 0.1
_NOTHING = 1e-30  # of a noise multiplier, which must not be 0: it is lost in any sum
_LOOKED_AT = ("metrics",)  # the table of `Evaluate`
_UNBOUNDED = Clip(1e300)

_OF: Mapping[str, tuple[Callable[[PrivacyConfig], bool], str]] = {
    "unmerged": (
        lambda privacy: privacy.trust == "central" and privacy.unit == "user",
        "needs a server that adds up users' answers as lists of rows (privacy.trust = 'central', unit = 'user'): a "
        "masked or noised answer has one number an entry, and a silo's users are added up before its norm is taken",
    ),
    "first-clip": (
        lambda privacy: privacy.adaptive is not None and privacy.trust == "central",
        "is of a clip that adapts, by a server that sees answers (privacy.adaptive, trust = 'central'): in fixed point "
        "an answer above the first clip is refused",
    ),
    "bare-bits": (
        lambda privacy: privacy.adaptive is not None and privacy.trust in ("central", "secagg"),
        "is of a clip that adapts (privacy.adaptive), whose bits the server noises (trust = 'central' or 'secagg')",
    ),
    "bare-looks": (
        lambda privacy: privacy.validation is not None and privacy.trust in ("central", "secagg"),
        "is of early stopping (privacy.validation), whose looks the server noises (trust = 'central' or 'secagg')",
    ),
    "one-participation": (
        lambda privacy: privacy.continual is not None,
        "is of noise that is correlated over rounds; set privacy.continual",
    ),
    "thin-shares": (
        lambda privacy: privacy.trust == "distributed",
        "is of noise that clients share; set privacy.trust = 'distributed'",
    ),
    "single-clip": (
        lambda privacy: privacy.trust == "local",
        "is of noise on single answers; set privacy.trust = 'local'",
    ),
    "users-clipped": (
        lambda privacy: privacy.unit == "silo" and privacy.trust != "local",
        "is of sums of silos; set privacy.unit = 'silo', and not trust = 'local'",
    ),
}


def require_plantable(defect: Defect, privacy: PrivacyConfig, schedule: Schedule, members: int) -> None:
    """Refuse a defect of another mechanism than the guarantee's, and one that would change nothing.

    Args:
        defect: to be planted.
        privacy, schedule: of the arm.
        members: users of a canary, where the guarantee is about silos.

    Raises:
        ConfigError: naming what it is of.
    """
    possible, reason = _OF.get(defect, (lambda _: True, ""))
    if not possible(privacy):
        raise ConfigError(f"defects: '{defect}' {reason}; or leave it out")
    if defect == "one-participation" and privacy.continual is not None:
        correlation = Correlation.of(privacy.continual, schedule)[1]
        if correlation.rounds <= correlation.cycle:
            raise ConfigError(
                f"defects: 'one-participation' changes nothing: nobody takes part twice in {correlation.rounds} rounds "
                f"of which each user takes part in one of {correlation.cycle}; ask for more rounds, or leave it out"
            )
    if defect == "users-clipped" and members < 2:
        raise ConfigError(
            f"defects: 'users-clipped' changes nothing of a silo of {members} user; raise members, or leave it out"
        )


@dataclass(eq=False)
class Changed:
    """Noised sums of something else than what is asked for.

    Attributes:
        sums: the sound ones.
        change: of a release.
        trust: the sound ones'.
    """

    sums: PrivateSums
    change: Callable[[Asked], Asked]
    trust: Trust = field(init=False)

    def __post_init__(self) -> None:
        self.trust = self.sums.trust

    @property
    def name(self) -> str:
        """That it is broken."""
        return f"not quite {self.sums.name}"

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """What the changed release comes to."""
        return self.sums.sum(engine, self.change(asked))


def weakened(factor: float, *tables: str) -> Callable[[Asked], Asked]:
    """Noise times a factor: on the tables of one part, or on every table, the clip's bits among them."""

    def change(asked: Asked) -> Asked:
        def weak(part: Part) -> Part:
            meant = not tables or part.tables == tables
            return replace(part, noise_multiplier=part.noise_multiplier * factor) if meant else part

        return replace(asked, parts=tuple(map(weak, asked.parts)))

    return change


def _unclipped(asked: Asked) -> Asked:
    return replace(asked, clip=_UNBOUNDED)


@dataclass
class _FirstClip:
    """Noise in proportion to the clip that a query had in its first round, whatever clips the sum."""

    _first: dict[str, float] = field(default_factory=dict)

    def __call__(self, asked: Asked) -> Asked:
        clip = self._first.setdefault(asked.query.kind, asked.clip.norm)
        parts = (part if BIT in part.tables else replace(part, clip=clip) for part in asked.parts)
        return replace(asked, parts=tuple(parts))


@dataclass(eq=False)
class _Touching(OverEngine):
    """An engine that remembers which rows somebody adds to.

    Attributes:
        engine: what adds up.
        touched: table -> [rows] bool, of the last sum.
    """

    engine: Engine
    touched: dict[str, Tensor] = field(default_factory=dict)

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The engine's sum."""
        totals = self.engine.sum(query, round=round, phase=phase, clip=clip)
        self.touched = {name: (total != 0).any(dim=1) for name, total in totals.sums.items()}
        return totals

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """The engine's answers."""
        self.touched = {name: torch.zeros(rows, dtype=torch.bool) for name, (rows, _) in query.tables.items()}
        for answer in self.engine.answers(query, round=round, phase=phase, clip=clip):
            for name, part in answer.contributions.items():
                if name in self.touched:
                    self.touched[name][part.index[(part.value != 0).view(len(part.index), -1).any(dim=1)]] = True
            yield answer


@dataclass(eq=False)
class TouchedRows:
    """Noised sums with noise on those rows alone that somebody touched: the others are released as they are, zero.

    In a symmetric table an entry is touched if its row is and its column is.

    Attributes:
        sums: the sound ones.
        trust: theirs.
    """

    sums: PrivateSums
    trust: Trust = field(init=False)

    def __post_init__(self) -> None:
        self.trust = self.sums.trust

    @property
    def name(self) -> str:
        """That it is broken."""
        return f"on touched rows alone, {self.sums.name}"

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The sound sum, without the noise where nobody was."""
        watched = _Touching(engine)
        totals = self.sums.sum(watched, asked)
        sums = dict(totals.sums)
        for name, touched in watched.touched.items():
            kept = touched.to(sums[name])
            sums[name] = sums[name] * kept.unsqueeze(1)
            if name in asked.query.symmetric:
                sums[name] = sums[name] * kept
        return replace(totals, sums=sums)


def with_defect(
    defect: Defect, sums: PrivateSums, *, times: int, sharing: float, correlation: Correlation | None
) -> PrivateSums:
    """Noised sums with a defect. "users-clipped" is one of the population and stands with the canaries.

    Args:
        defect: what is planted.
        sums: the sound ones.
        times: how often interactions were recorded.
        sharing: n, how many clients share the noise of a sum, as many as are expected to take part in it.
        correlation: of the noise over rounds.
    """
    if defect == "touched-rows":
        return TouchedRows(sums)
    if defect == "one-participation":
        assert correlation is not None  # by `require_plantable`
        coefficients, rounds = square_root(correlation.band), correlation.rounds
        once, whole = (sensitivity(coefficients, rounds, cycle) for cycle in (rounds, correlation.cycle))
        return Changed(sums, weakened(once / whole))
    changes: dict[str, Callable[[Asked], Asked]] = {
        "weak-noise": weakened(_WEAKNESS),
        "no-clip": _unclipped,
        "unmerged": lambda asked: replace(asked, query=repeated(asked.query, times, merged=False)),
        "first-clip": _FirstClip(),
        "bare-bits": weakened(_NOTHING, BIT),
        "bare-looks": weakened(_NOTHING, *_LOOKED_AT),
        "thin-shares": weakened(sharing**-0.5),
        "single-clip": weakened(0.5),
    }
    return Changed(sums, changes[defect]) if defect in changes else sums
