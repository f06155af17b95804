"""What a method is going to release, and how much noise that takes: known before the first round."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import count

from fedrec.errors import PrivacyError, did_you_mean
from fedrec.privacy import accounting
from fedrec.privacy.accounting import Accountant
from fedrec.privacy.clipping import Clip, TableClips
from fedrec.privacy.ledger import Ledger, Release, counted_rate, cycle_of

_LARGEST_EPSILON = 300.0  # e^300 bounds nothing, and PRV's arithmetic ends soon after
_STEPS = 8  # in which a growing budget rises
_STRONGEST_NOISE = math.log(1e6)  # log σ; no sum of users survives it


@dataclass(frozen=True, kw_only=True)
class PlannedRelease:
    """One kind of release in a method's schedule.

    Attributes:
        query: kind of the query; a schedule lists each kind once.
        draws: number of participation draws (rounds) it occurs in.
        clip: C, the bound on one user's contribution.
        tables: clips by table, of which `clip` is the root of the sum of squares; or none.
        adaptive: whether the clip follows the users' norms, starting from `clip`.
        per_draw: how many times it occurs within each of these draws.
        share: its part of a draw's budget, in (0, 1]: its releases within one draw get `share` of the draw's 1/σ².
        first: the first draw it occurs in.
        every: draws from one occurrence to the next.
    """

    query: str
    draws: int
    clip: float
    per_draw: int = 1
    share: float = 1.0
    first: int = 1
    every: int = 1
    tables: TableClips = ()
    adaptive: bool = False

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("per_draw", 1), ("first", 0), ("every", 1)):
            if getattr(self, name) < least:
                raise PrivacyError(f"planned release of '{self.query}': {name} = {getattr(self, name)}; min. {least}")
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise PrivacyError(f"planned release of '{self.query}': clip = {self.clip}; give a finite number above 0")
        if self.tables and not math.isclose(self.clip, math.hypot(*(norm for _, norm in self.tables)), rel_tol=1e-9):
            raise PrivacyError(f"planned release of '{self.query}': clip = {self.clip} is not that of {self.tables}")
        if not 0 < self.share <= 1:
            raise PrivacyError(f"planned release of '{self.query}': share = {self.share}; give one above 0, at most 1")

    @property
    def bound(self) -> Clip:
        """What its contributions are clipped to, at first if that adapts."""
        return Clip(self.clip, self.tables)

    def clipped_to(self, clip: Clip) -> PlannedRelease:
        """The same release under another clip."""
        return replace(self, clip=clip.norm, tables=clip.tables)

    def occurs_in(self) -> range:
        """The draws it occurs in."""
        return range(self.first, self.first + self.draws * self.every, self.every)


@dataclass(frozen=True)
class Schedule:
    """Every release that a method is going to make.

    With a noise multiplier σ for a whole draw, a kind of share s that occurs n times in a draw gets σ_j = σ √(n/s) each
    time: its n releases spend n/σ_j² = s/σ², and a draw whose shares sum to one spends 1/σ².

    The budget need not be spent evenly over the draws: `growth` is what the last draws spend, as a multiple of the
    first ones, rising geometrically in at most eight steps, so that an accountant has few sorts of draws to compose.

    Args:
        releases: one entry for each kind.
        rate: q, the probability that a user takes part in a draw.
        sampling: how users are drawn, see `ledger.counted_rate`.
        growth: 1/σ² of the last draws over that of the first ones.

    Raises:
        PrivacyError: if a kind is listed twice, or the shares of some draw sum to more than one.
    """

    releases: tuple[PlannedRelease, ...]
    rate: float = 1.0
    sampling: str = "poisson"
    growth: float = 1.0

    def __post_init__(self) -> None:
        counted_rate(self.rate, self.sampling)
        if not (math.isfinite(self.growth) and self.growth > 0):
            raise PrivacyError(f"growth = {self.growth} of the budget over the draws; give a finite number above 0")
        kinds = Counter(planned.query for planned in self.releases)
        for query, times in kinds.items():
            if times > 1:
                raise PrivacyError(f"the schedule lists '{query}' {times} times; list it once, with `per_draw`")
        spent: Counter[int] = Counter()
        shares: dict[int, float] = {}
        for planned in self.releases:
            spent.update(planned.occurs_in())
            for draw in planned.occurs_in():
                shares[draw] = shares.get(draw, 0.0) + planned.share
        for draw, share in shares.items():
            if share > 1 + 1e-9:  # thirds and tenths do not sum exactly
                raise PrivacyError(
                    f"the {spent[draw]} kinds released in draw {draw} have shares that sum to {share:.4g}; at most 1"
                )

    def noise_multipliers(self, noise_multiplier: float) -> dict[str, float]:
        """The noise multiplier of each kind, from that of a whole draw: σ_j = σ √(per_draw / share)."""
        return {
            planned.query: noise_multiplier * math.sqrt(planned.per_draw / planned.share) for planned in self.releases
        }

    @property
    def cycle(self) -> int | None:
        """The least number of draws from one participation of a user to the next; None if only chance bounds it."""
        if self.sampling == "cyclic":
            return cycle_of(self.rate)
        return None if self.sampling == "poisson" and self.rate < 1 else 1

    def spending(self, draw: int) -> float:
        """What a draw spends (its 1/σ²), as a multiple of the first ones' spending; `growth` in the last ones."""
        draws = self._extent
        if self.growth == 1 or len(draws) == 1:
            return 1.0
        steps = min(_STEPS, len(draws))
        step = (draw - draws[0]) * steps // len(draws)
        return float(self.growth ** (step / (steps - 1)))

    @cached_property
    def _extent(self) -> range:
        """From the first to the last draw."""
        occurring = [planned.occurs_in() for planned in self.releases]
        return range(min(draws[0] for draws in occurring), max(draws[-1] for draws in occurring) + 1)

    def noise_multiplier(self, noise_multipliers: Mapping[str, float], query: str, draw: int) -> float:
        """That of one release: σ_j of its kind over the root of what its draw spends."""
        return noise_multipliers[query] / math.sqrt(self.spending(draw))

    def ledger(self, noise_multipliers: Mapping[str, float], through: int | None = None) -> Ledger:
        """The ledger of a run that keeps to the schedule: a plan is a ledger written in advance.

        Args:
            noise_multipliers: by kind, of the first draws.
            through: the last draw that has been made; None for the finished run. What a checkpoint's ledger has to
                match.
        """
        return Ledger(
            self.release(planned, draw, noise_multipliers, planned.bound)
            for planned in self.releases
            for draw in planned.occurs_in()
            if through is None or draw <= through
            for _ in range(planned.per_draw)
        )

    def repeated(self, query: str | None, place: str) -> str:
        """The query that a setting is about: the named one, or the only one that is released in several draws.

        Raises:
            PrivacyError: if there is no such query, or not just one.
        """
        several = [planned.query for planned in self.releases if planned.draws > 1]
        if query is not None and query not in several:
            raise PrivacyError(f"{place} = '{query}': released in no two rounds; {did_you_mean(query, several)}")
        if query is None and len(several) != 1:
            raise PrivacyError(f"{place}: name the query; in several rounds there are: {', '.join(several) or 'none'}")
        return query or several[0]

    def release(
        self, planned: PlannedRelease, draw: int, noise_multipliers: Mapping[str, float], clip: Clip
    ) -> Release:
        """One release of a kind, as the ledger records it."""
        return Release(
            planned.query,
            draw,
            self.noise_multiplier(noise_multipliers, planned.query, draw),
            clip.norm,
            self.rate,
            self.sampling,
            clip.tables,
            planned.adaptive,
        )

    def epsilon(self, noise_multipliers: Mapping[str, float], delta: float, accountant: Accountant = "prv") -> float:
        """ε of the whole schedule at δ."""
        return self.ledger(noise_multipliers).epsilon(delta, accountant)

    def require_planned(self, query: str, draw: int, ledger: Ledger) -> None:
        """Check a release before it is made.

        Args:
            query: its kind.
            draw: its participation draw.
            ledger: what has been released so far.

        Raises:
            PrivacyError: if the schedule has no such release, or all of them in this draw have been made.
        """
        planned = {planned.query: planned for planned in self.releases}
        if query not in planned:
            raise PrivacyError(f"release of '{query}' was not planned; {did_you_mean(query, planned)}")
        draws = planned[query].occurs_in()
        if draw not in draws:
            raise PrivacyError(
                f"release of '{query}' in draw {draw} was not planned: it is in {len(draws)} draws, {draws[0]} to "
                f"{draws[-1]}; correct the method's schedule"
            )
        made = ledger.made(query, draw)
        if made >= planned[query].per_draw:
            raise PrivacyError(
                f"release of '{query}' in draw {draw}: all {made} that were planned have been made; raise `per_draw`"
            )


def calibrate(schedule: Schedule, epsilon: float, delta: float, accountant: Accountant = "prv") -> dict[str, float]:
    """The least noise with which the whole schedule keeps to (ε, δ).

    Args:
        schedule: every release of the run.
        epsilon: the target ε, above 0.
        delta: δ.
        accountant: "prv" is the one that is quoted.

    Returns:
        The noise multiplier of each kind (in the first draws), rounded up to four digits. ε of the schedule is at most
        the target, and within about .2% of it.

    Raises:
        PrivacyError: if no amount of noise reaches the target, or it is too large to mean anything.
    """
    return dict(_calibrated(schedule, epsilon, delta, accountant))


@lru_cache(maxsize=64)  # the same arm is checked, trained and audited
def _calibrated(
    schedule: Schedule, epsilon: float, delta: float, accountant: Accountant
) -> tuple[tuple[str, float], ...]:
    if not 0 < epsilon <= _LARGEST_EPSILON:
        raise PrivacyError(f"epsilon = {epsilon}; give a target above 0 and at most {_LARGEST_EPSILON:.0f}, such as 8")
    unit = schedule.ledger(schedule.noise_multipliers(1.0)).history()
    if not unit:
        raise PrivacyError("the schedule has no release to add noise to; list what the method releases")

    def spent(log_sigma: float, by: Accountant) -> float:
        sigma = math.exp(log_sigma)
        history = [draws._replace(noise_multiplier=sigma * draws.noise_multiplier) for draws in unit]
        return accounting.epsilon(history, delta, by)

    # RDP is quick and gives a place to start; it cannot resolve the smallest ε, and need not.
    start = _least_noise(lambda x: spent(x, "rdp"), max(epsilon, 0.1), start=0.0, step=1.0, tolerance=0.05)
    log_sigma = _least_noise(lambda x: spent(x, accountant), epsilon, start=start, step=0.1, tolerance=2e-4)
    multipliers = schedule.noise_multipliers(math.exp(log_sigma))
    return tuple((query, _rounded_up(sigma)) for query, sigma in multipliers.items())


def _least_noise(
    spent: Callable[[float], float], target: float, *, start: float, step: float, tolerance: float
) -> float:
    """The least log σ with spent(log σ) ≤ target, to an absolute tolerance and from above; `spent` falls with σ."""
    low = high = start
    for doubling in count():  # each step is twice the one before it
        if spent(high) <= target:
            break
        low, high = high, high + step * 2**doubling
        if high > _STRONGEST_NOISE:
            raise PrivacyError(
                f"epsilon = {target} cannot be shown for this schedule with any noise; take a larger one or fewer draws"
            )
    for doubling in count():
        if spent(low) > target:
            break
        low, high = low - step * 2**doubling, low
    from scipy import optimize  # slow to import, and no node needs it

    root: float = optimize.brentq(lambda x: spent(x) - target, low, high, xtol=tolerance)
    while spent(root) > target:  # the root is only as good as the tolerance
        root += tolerance
    return root


def _rounded_up(value: float) -> float:
    """To four significant digits: enough for any report, and the same on every machine."""
    digits = 3 - math.floor(math.log10(value))
    return math.ceil(value * 10.0**digits) / 10.0**digits
