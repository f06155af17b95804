"""The guarantee that a run is asked for, as an experiment's `privacy` section states it."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from fedrec.components import Config
from fedrec.privacy.schedule import Schedule, calibrate


class PrivacyConfig(Config):
    """The guarantee that a run must reach: by a target ε, or by the noise itself.

    Attributes:
        epsilon: target ε of the whole run; the noise is calibrated to it.
        noise_multiplier: or the noise of a whole participation draw, as a multiple of the clip.
        delta: δ; below one over the number of users.
        clip: bound on one user's contribution to a query; None takes the method's own.
        validation: share of every draw's budget that is set aside for early stopping, whose looks are then releases
            like any other, of the participants' metric; None allows no early stopping.
        trust: who adds the noise. "central": the server, which sees every answer.
        accountant: the one that is quoted; RDP is always reported beside it.
    """

    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    clip: float | None = None
    validation: float | None = None
    trust: Literal["central"] = "central"
    accountant: Literal["prv"] = "prv"

    @field_validator("epsilon")
    @classmethod
    def _positive_epsilon(cls, value: float | None) -> float | None:
        if value is not None and value <= 0:
            raise ValueError("must be above 0; take 8 for weak and 1 for strong privacy, or leave the section out")
        return value

    @field_validator("noise_multiplier", "clip")
    @classmethod
    def _positive(cls, value: float | None) -> float | None:
        if value is not None and value <= 0:
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

    @field_validator("trust", mode="before")
    @classmethod
    def _offered_trust(cls, value: object) -> object:
        if value != "central":
            raise ValueError("is not in this version; use 'central', where the server sees answers and adds the noise")
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

    def noise_multipliers(self, schedule: Schedule) -> dict[str, float]:
        """The noise multiplier of each kind of release in a method's schedule.

        Raises:
            PrivacyError: if no noise reaches the target; see `calibrate`.
        """
        if self.epsilon is not None:
            return calibrate(schedule, self.epsilon, self.delta, self.accountant)
        assert self.noise_multiplier is not None  # by `_one_target`
        return schedule.noise_multipliers(self.noise_multiplier)
