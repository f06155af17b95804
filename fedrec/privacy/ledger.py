"""The book of a run's releases: every noisy sum that anyone gets to see is written here, and ε is read from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

from fedrec.errors import PrivacyError
from fedrec.privacy.accounting import Accountant, Draws, effective_noise_multiplier, epsilon
from fedrec.privacy.clipping import TableClips


def counted_rate(rate: float, sampling: str) -> float:
    """The rate at which a way of sampling users may be accounted for.

    Args:
        rate: q, the probability that a user takes part.
        sampling: "poisson": each user is drawn independently with probability q, and the sample stays hidden from
            whoever sees the release; it amplifies. "independent": no user's part depends on another's, but it is not
            drawn at random, or the sample may be seen; everyone is accounted for as if drawn, at rate 1. "cyclic": as
            "independent", but each user takes part in every b-th draw alone, b = 1/rate, which the ledger counts on.

    Raises:
        PrivacyError: for any other way. In particular samples of a fixed size: adding one user then displaces another,
            the sum moves by up to two clips, and even rate 1 would under-report.
    """
    if not 0 < rate <= 1:
        raise PrivacyError(f"rate = {rate} is not a sampling rate; give one above 0 and at most 1")
    if sampling == "poisson":
        return rate
    if sampling in ("independent", "cyclic"):
        return 1.0
    raise PrivacyError(
        f"sampling '{sampling}' cannot be accounted for: adding one user may change who else takes part; use 'poisson'"
    )


def cycle_of(rate: float) -> int:
    """The number of draws in a cycle: each user takes part in one of them."""
    return round(1 / rate)


@dataclass(frozen=True)
class Release:
    """One released sum.

    Attributes:
        query: kind of the query.
        draw: the participation draw it belongs to: the round.
        noise_multiplier: σ, the noise's deviation over the clip.
        clip: C, the bound on one user's contribution.
        rate: q, the probability that a user was drawn.
        sampling: how users were drawn, see `counted_rate`.
        tables: clips by table, of which `clip` is the root of the sum of squares; or none.
        adaptive: whether the clip follows the data, by releases of their own; a plan cannot know it.
    """

    query: str
    draw: int
    noise_multiplier: float
    clip: float
    rate: float = 1.0
    sampling: str = "poisson"
    tables: TableClips = ()
    adaptive: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tables", tuple((name, norm) for name, norm in self.tables))  # JSON has lists
        for name in ("noise_multiplier", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise PrivacyError(
                    f"release of '{self.query}' in draw {self.draw}: {name} = {value}; give a finite number above 0"
                )
        counted_rate(self.rate, self.sampling)

    def as_planned(self) -> Release:
        """The release as a plan knows it: with no clip that only a run can know."""
        return replace(self, clip=1.0) if self.adaptive else self


class Ledger:
    """Every release of a run, grouped by the participation draw it was made on.

    Args:
        releases: to begin with.
    """

    def __init__(self, releases: Iterable[Release] = ()) -> None:
        self._draws: dict[int, list[Release]] = {}
        for release in releases:
            self.record(release)

    def record(self, release: Release) -> None:
        """Write down a release; nothing is ever taken back.

        Raises:
            PrivacyError: if the draw already has releases of another rate or another way of sampling.
        """
        others = self._draws.setdefault(release.draw, [])
        if others and (others[0].rate, others[0].sampling) != (release.rate, release.sampling):
            raise PrivacyError(
                f"release of '{release.query}': draw {release.draw} was made by {others[0].sampling} sampling at rate "
                f"{others[0].rate}, not {release.sampling} at {release.rate}; participants are drawn once a round"
            )
        others.append(release)

    @property
    def releases(self) -> tuple[Release, ...]:
        """All releases, draw by draw."""
        return tuple(chain.from_iterable(self._draws.values()))

    def draws(self) -> dict[int, tuple[Release, ...]]:
        """The releases of each participation draw."""
        return {draw: tuple(releases) for draw, releases in self._draws.items()}

    def made(self, query: str, draw: int) -> int:
        """How often a kind of query has been released in a draw."""
        return sum(release.query == query for release in self._draws.get(draw, ()))

    def history(self) -> tuple[Draws, ...]:
        """What an accountant sees: each draw is one step, whatever number of releases it carries.

        Of draws in cycles of b, a user is in one of b classes (draw modulo b) and touches no other, whoever knows
        which: each kind of query costs what its costliest class does. (By kind, since noise that is correlated over
        rounds is accounted for by the costliest class of its query, whatever the class.)
        """
        steps: Counter[tuple[float, float]] = Counter()
        classes: dict[tuple[int, str], dict[int, list[float]]] = {}
        for draw, releases in self._draws.items():
            rate, sampling = releases[0].rate, releases[0].sampling
            if sampling == "cyclic":
                cycle = cycle_of(rate)
                for release in releases:
                    own = classes.setdefault((cycle, release.query), {}).setdefault(draw % cycle, [])
                    own.append(release.noise_multiplier)
            else:
                sigma = effective_noise_multiplier(release.noise_multiplier for release in releases)
                steps[sigma, counted_rate(rate, sampling)] += 1
        for sigmas in classes.values():
            steps[min(effective_noise_multiplier(own) for own in sigmas.values()), 1.0] += 1
        return tuple(Draws(sigma, rate, number) for (sigma, rate), number in sorted(steps.items()))

    def spending(self) -> dict[str, float]:
        """The part of all noise budget (Σ 1/σ²) that each kind of query spends."""
        spent: dict[str, float] = {}
        for release in self.releases:
            spent[release.query] = spent.get(release.query, 0.0) + release.noise_multiplier**-2
        whole = sum(spent.values())
        return {query: value / whole for query, value in sorted(spent.items())}

    def epsilon(self, delta: float, accountant: Accountant = "prv") -> float:
        """ε of all releases together at δ; 0 if there are none. To show it to anyone, make a `Guarantee`.

        Raises:
            PrivacyError: see `accounting.epsilon`.
        """
        return epsilon(self.history(), delta, accountant)

    def matches(self, other: Ledger) -> bool:
        """Whether both hold the same releases, in any order; clips that adapt may differ."""
        return self._as_planned() == other._as_planned()

    def within(self, planned: Ledger) -> bool:
        """Whether every release here is in the plan, and none more often than planned."""
        return self._as_planned() <= planned._as_planned()

    def _as_planned(self) -> Counter[Release]:
        return Counter(release.as_planned() for release in self.releases)

    def as_dict(self) -> dict[str, object]:
        """JSON-able; `from_dict` reads it back exactly."""
        return {"releases": [asdict(release) for release in self.releases]}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Ledger:
        """The ledger that `as_dict` described.

        Raises:
            PrivacyError: if it is not one.
        """
        try:
            return cls(Release(**release) for release in saved["releases"])
        except (KeyError, TypeError) as error:
            raise PrivacyError(
                f"a saved privacy ledger cannot be read ({error}); delete the checkpoint and run again"
            ) from error
