"""The guarantee that a run is asked for, as an experiment's `privacy` section states it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field, field_validator, model_validator

from fedrec.components import Config
from fedrec.errors import ConfigError, PrivacyError, did_you_mean
from fedrec.privacy.accounting import Accountant
from fedrec.privacy.clipping import BIT_CLIP, AdaptiveClipConfig, Clip, bit_of
from fedrec.privacy.continual import ContinualConfig
from fedrec.privacy.guarantee import Trust, Unit
from fedrec.privacy.schedule import PlannedRelease, Schedule, calibrate


class PrivacyConfig(Config):
    """The guarantee that a run must reach: by a target ε, or by the noise itself.

    Attributes:
        epsilon: target ε of the whole run; the noise is calibrated to it.
        noise_multiplier: or the noise of a whole participation draw (of the first ones, if the budget grows), as a
            multiple of the clip.
        delta: δ; below one over the number of users, or of silos if they are the unit.
        clip: bound on one user's contribution to a query; None takes the method's own. A number for a method of one
            query; a table of numbers by query, or by table of the one query; or by query a table by table.
        adaptive: lets the clip of one query follow a quantile of the norms.
        shares: part of every draw's budget (its 1/σ²) by query, instead of the method's own.
        growth: what the last draws spend, as a multiple of the first ones.
        continual: correlates the noise of one query over the rounds.
        validation: share of every draw's budget that is set aside for early stopping, whose looks are then releases
            like any other, of the participants' metric; None allows no early stopping.
        unit: whom the promise is about: one "user", or one "silo" of a population of silos.
        trust: who adds the noise. "central": the server, which sees every answer. "secagg": the server, which sees
            exact sums. "distributed": every client adds a part of it under masks; the server sees noised sums. "local":
            every client adds enough for itself; the server sees noised answers.
        answering: of a secure sum's clients, the least share that must answer, and keep its secrets; of nodes as well,
            where clients are on nodes.
        executed: whether a simulation runs what devices do (masks, and noise of each), or adds up the same words
            without masks and draws the sum of the noise at once, which has the same distribution and takes far less.
            Nodes mask in either case, and each draws its clients' noise one by one or at once.
        amplification: whether sampling is credited; None wherever that is sound.
        accountant: the one that is quoted; RDP is always reported beside it, and quoted where noise is discrete.
    """

    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    clip: float | dict[str, float | dict[str, float]] | None = None
    adaptive: AdaptiveClipConfig | None = None
    shares: dict[str, float] | None = None
    growth: float = Field(1.0, gt=0)
    continual: ContinualConfig | None = None
    validation: float | None = None
    unit: Unit = "user"
    trust: Trust = "central"
    answering: float = Field(0.9, gt=0.5, le=1)
    executed: bool = True
    amplification: bool | None = None
    accountant: Literal["prv"] = "prv"

    @field_validator("epsilon")
    @classmethod
    def _positive_epsilon(cls, value: float | None) -> float | None:
        if value is not None and value <= 0:
            raise ValueError("must be above 0; take 8 for weak and 1 for strong privacy, or leave the section out")
        return value

    @field_validator("noise_multiplier", "clip")
    @classmethod
    def _positive(cls, value: object) -> object:
        if isinstance(value, float) and value <= 0:
            raise ValueError("must be above 0; leave the privacy section out for a run without noise")
        return value

    @field_validator("validation")
    @classmethod
    def _part(cls, value: float | None) -> float | None:
        if value is not None and not 0 < value < 1:
            raise ValueError("must be between 0 and 1, such as 0.1; leave it out to train without early stopping")
        return value

    @field_validator("delta")
    @classmethod
    def _probability(cls, value: float) -> float:
        if not 0 < value < 1:
            raise ValueError("must be between 0 and 1, and below one over the number of users; 1e-5 is usual")
        return value

    @field_validator("accountant", mode="before")
    @classmethod
    def _sound_accountant(cls, value: object) -> object:
        if value == "gdp":
            raise ValueError("under-reports epsilon; use 'prv'")
        if value != "prv":
            raise ValueError("is not quoted; use 'prv' (RDP is always reported beside it)")
        return value

    @model_validator(mode="after")
    def _one_target(self) -> PrivacyConfig:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give either epsilon or noise_multiplier, and not both")
        return self

    @model_validator(mode="after")
    def _sound(self) -> PrivacyConfig:
        if self.trust in ("distributed", "local") and self.amplification:
            raise ValueError(
                f"trust '{self.trust}' protects from the server, which sees who takes part, so that sampling hides "
                "nobody; leave amplification out"
            )
        if self.continual is not None and self.trust in ("distributed", "local"):
            raise ValueError(
                f"continual correlates the server's noise, and with trust '{self.trust}' it has none; leave continual "
                "out, or set trust = 'central' or 'secagg'"
            )
        return self

    @property
    def quoted(self) -> Accountant:
        """The accountant whose ε is quoted: no pair of distributions is known for sums of discrete noise."""
        return "rdp" if self.trust == "distributed" else self.accountant

    def schedule(
        self,
        releases: Sequence[PlannedRelease],
        rate: float,
        sampling: str,
        looks: PlannedRelease | None = None,
    ) -> Schedule:
        """What a method will release under these settings.

        Args:
            releases: the method's own plan.
            rate, sampling: how users are drawn.
            looks: at the validation metric, of which `validation` is the share.

        Raises:
            ConfigError: if clips or shares are of other queries.
            PrivacyError: if the shares of some draw sum to more than one, or sampling cannot be accounted for.
        """
        planned = self._shared(self._clipped(releases))
        if self.adaptive is not None:
            planned = self._adaptive(planned, self.adaptive)
        if looks is not None and self.validation is not None:
            # A look may come with any round's releases, and shares of one draw must not sum to more than one.
            planned = tuple(replace(one, share=(1 - self.validation) * one.share) for one in planned)
            planned = (*planned, replace(looks, share=self.validation))
        return Schedule(planned, rate, self._accounted(rate, sampling), self.growth)

    def _accounted(self, rate: float, sampling: str) -> str:
        """Poisson sampling amplifies unless whoever is protected from sees the sample."""
        if sampling != "poisson":
            if self.amplification:
                raise PrivacyError(
                    f"privacy.amplification: participation.sampling = '{sampling}' hides nobody; it takes 'poisson'"
                )
            return sampling
        hidden = self.trust in ("central", "secagg") and self.amplification is not False
        return "poisson" if hidden or rate == 1 else "independent"

    def _clipped(self, releases: Sequence[PlannedRelease]) -> tuple[PlannedRelease, ...]:
        if self.clip is None:
            return tuple(releases)
        kinds = [planned.query for planned in releases]
        if not isinstance(self.clip, dict):
            if len(releases) != 1:
                raise ConfigError(
                    f"privacy.clip = {self.clip}: one clip cannot serve the queries {', '.join(kinds)}; give one by "
                    f"query, clip = {{ {kinds[0]} = {self.clip:g} }}"
                )
            return (releases[0].clipped_to(Clip(self.clip)),)
        by_query: Mapping[str, float | dict[str, float]] = self.clip
        if len(releases) == 1 and not set(by_query) & set(kinds):
            by_table = {name: norm for name, norm in by_query.items() if not isinstance(norm, dict)}
            if len(by_table) == len(by_query):
                by_query = {kinds[0]: by_table}
        for query in by_query:
            if query not in kinds:
                raise ConfigError(f"privacy.clip.{query}: the method makes no such query; {did_you_mean(query, kinds)}")
        return tuple(
            planned.clipped_to(_clip_of(by_query[planned.query])) if planned.query in by_query else planned
            for planned in releases
        )

    def _shared(self, releases: Sequence[PlannedRelease]) -> tuple[PlannedRelease, ...]:
        if self.shares is None:
            return tuple(releases)
        kinds = [planned.query for planned in releases]
        if set(self.shares) != set(kinds):
            raise ConfigError(
                f"privacy.shares = {self.shares}: give the share of each of the queries {', '.join(kinds)}, and no "
                "other"
            )
        return tuple(replace(planned, share=self.shares[planned.query]) for planned in releases)

    def _adaptive(self, releases: Sequence[PlannedRelease], config: AdaptiveClipConfig) -> tuple[PlannedRelease, ...]:
        """The bits of one query take a part of its budget."""
        query = Schedule(tuple(releases)).repeated(config.query, "privacy.adaptive.query")
        planned: list[PlannedRelease] = []
        for one in releases:
            if one.query != query:
                planned.append(one)
                continue
            if one.tables or one.per_draw > 1:
                raise ConfigError(
                    f"privacy.adaptive: the clip of '{query}' is by table or serves several sums a round, and one bit "
                    "a user tells of one norm; leave adaptive out"
                )
            planned.append(replace(one, share=(1 - config.share) * one.share, adaptive=True))
            planned.append(replace(one, query=bit_of(query), clip=BIT_CLIP, share=config.share * one.share))
        return tuple(planned)

    def noise_multipliers(self, schedule: Schedule) -> dict[str, float]:
        """The noise multiplier of each kind of release in a method's schedule, in its first draws.

        Raises:
            PrivacyError: if no noise reaches the target; see `calibrate`.
        """
        if self.epsilon is not None:
            return calibrate(schedule, self.epsilon, self.delta, self.quoted)
        assert self.noise_multiplier is not None  # by `_one_target`
        return schedule.noise_multipliers(self.noise_multiplier)


def _clip_of(given: float | Mapping[str, float]) -> Clip:
    return Clip(given) if isinstance(given, float) else Clip.by_table(given)
