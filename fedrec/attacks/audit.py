"""The audit: a lower bound on ε from planted canaries, which a sound mechanism keeps below the claimed ε.

One run with many canaries is enough: Steinke, Nasr & Jagielski 2023, see `fedrec.attacks.bounds`. Where a release has
so few entries that canaries hide each other (a sum of metrics, of clip bits), many runs with one canary each say more.
The canaries and what is read of them stand in `fedrec.attacks.canaries`. What a sound arm shows lies far below its ε,
since guesses about single canaries are far from the worst case that δ allows for; a mechanism that adds a tenth of its
noise is far above. Gaussian noise promises more than that ε, which is why it is held to a second bound that shows less
than that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from fedrec.attacks.attack import ATTACKS, Finding, Target
from fedrec.attacks.bounds import (
    best_one_run_bound,
    best_one_run_mu_bound,
    gaussian_epsilon,
    many_runs_bound,
    many_runs_mu_bound,
)
from fedrec.attacks.canaries import Planting, Scores, play
from fedrec.attacks.defects import Defect, require_plantable
from fedrec.components import Config
from fedrec.errors import ConfigError
from fedrec.privacy import PrivacyConfig, Schedule, counted_rate

_KNOWN = 10  # users beside the canary of each of many runs: a guarantee is about every data set, small ones included
_TOGETHER = 1000  # runs that are played at once where they may be: each noised answer is as wide as all their items


class AuditConfig(Config):
    """Settings of `Audit`.

    Attributes:
        canaries: how many are planted in the one run; about half of them are in.
        runs: how many runs there are instead, of one canary each, which is in in about half of them; None is one run.
            Where devices add all of the noise and send one answer each, many are played at once.
        items: how many items of its own each canary has. A canary shows nothing beyond its clip, and less where its
            answer is smaller: choose it so that the answer's norm reaches the clip.
        members: users of a canary where the guarantee is about silos; they have the same items, so that a silo of n
            answers with n times the norm of a user.
        confidence: of either bound.
        defects: what is planted in the mechanism, one audit each; "none" audits it as it is.
        times: how often interactions were recorded where "unmerged" is planted.
    """

    canaries: int = Field(500, ge=10)
    runs: int | None = Field(None, ge=20)
    items: int = Field(1, ge=1)
    members: int = Field(10, ge=1)
    confidence: float = Field(0.95, gt=0, lt=1)
    defects: tuple[Defect, ...] = Field(("none",), min_length=1)
    times: int = Field(100, ge=2)


@dataclass(frozen=True)
class AuditResult:
    """What one audit came to.

    Attributes:
        claimed: ε of the arm's whole schedule.
        bound: the ε that is refuted, at the stated confidence.
        gaussian_bound: ε, at the arm's δ, of the μ-GDP that is refuted, at the same confidence; None where the arm does
            not promise any: the sample is hidden, or the noise discrete.
        accuracy: share of right guesses, one about every canary.
        canaries: their number, in all runs.
        estimate: ε if the scores of canaries in and out were Gaussian of one width: an estimate, not a bound.
    """

    claimed: float
    bound: float
    gaussian_bound: float | None
    accuracy: float
    canaries: int
    estimate: float

    @property
    def holds(self) -> bool:
        """Whether neither bound refutes the claim; of a sound arm each may with probability 1 − confidence."""
        return max(self.bound, self.gaussian_bound or 0.0) <= self.claimed


@ATTACKS.register("audit")
class Audit:
    """Plants canaries and bounds ε from below."""

    config_class: ClassVar[type[Config]] = AuditConfig

    def __init__(self, config: AuditConfig) -> None:
        self.config = config

    def check(self, target: Target) -> None:
        """The arm must have a guarantee to be held to, of which the defects are."""
        privacy, schedule = target.recommender.privacy, target.schedule
        if privacy is None or schedule is None:
            raise ConfigError("attack 'audit' tests a guarantee, and the arm has none; give it a privacy section")
        for defect in self.config.defects:
            require_plantable(defect, privacy, schedule, self.config.members)

    def run(self, target: Target) -> list[Finding]:
        """One audit for each defect: the claim, the bound, and how it came about."""
        findings = []
        for defect in self.config.defects:
            case, found = "sound" if defect == "none" else defect, self.audit(target, defect)
            error = (found.accuracy * (1 - found.accuracy) / found.canaries) ** 0.5
            findings += [
                Finding(case, "claimed-epsilon", found.claimed),
                Finding(case, "epsilon-bound", found.bound, trials=found.canaries),
            ]
            if found.gaussian_bound is not None:
                findings.append(Finding(case, "epsilon-bound-gaussian", found.gaussian_bound, trials=found.canaries))
            findings += [
                Finding(case, "epsilon-estimate", found.estimate, trials=found.canaries),
                Finding(case, "right-guesses", found.accuracy, error, 0.5, found.canaries),
            ]
        return findings

    def audit(self, target: Target, defect: Defect = "none") -> AuditResult:
        """Audit an arm, perhaps with a defect.

        Raises:
            ConfigError: if it has no guarantee, or none that the defect is of.
        """
        schedule, privacy, config = target.schedule, target.recommender.privacy, self.config
        if schedule is None or privacy is None:
            raise ConfigError("attack 'audit' tests a guarantee, and the arm has none; give it a privacy section")
        scores = self._one_run(target, defect) if config.runs is None else self._many_runs(target, defect, config.runs)
        bound, mu_bound = (many_runs_bound, many_runs_mu_bound)
        if config.runs is None:
            bound, mu_bound = (best_one_run_bound, best_one_run_mu_bound)
        statistics, included = scores.statistics, scores.included
        gaussian_bound = None
        if _promises_gaussian(schedule, privacy):
            gaussian_bound = gaussian_epsilon(mu_bound(statistics, included, config.confidence), privacy.delta)
        return AuditResult(
            claimed=schedule.epsilon(target.noise_multipliers(), privacy.delta, privacy.quoted),
            bound=bound(statistics, included, privacy.delta, config.confidence),
            gaussian_bound=gaussian_bound,
            accuracy=accuracy(scores.likelihood, included),
            canaries=len(included),
            estimate=gaussian_epsilon(separation(scores), privacy.delta),
        )

    def _one_run(self, target: Target, defect: Defect) -> Scores:
        return play(target, self._planting(defect, self.config.canaries))

    def _many_runs(self, target: Target, defect: Defect, runs: int) -> Scores:
        """Runs of one canary each, or of some where none of them can tell of another.

        A device that adds all of its noise and answers once sends something that no other's coin has any part in.
        """
        together = _TOGETHER if _answers_once_with_noise(target) else 1
        one = replace(self._planting(defect, 1), known=_known(target))
        return Scores.together(
            [
                play(target, replace(one, canaries=min(together, runs - first), run=first))
                for first in range(0, runs, together)
            ]
        )

    def _planting(self, defect: Defect, canaries: int) -> Planting:
        config = self.config
        times = config.times if defect == "unmerged" else 1
        return Planting(canaries, config.items, config.members, defect, times)


def _known(target: Target) -> int | None:
    """How many known users many runs have; None is all, where a sample of few is too few for a sum under masks."""
    privacy, participation = target.recommender.privacy, target.recommender.participation
    masked = privacy is not None and privacy.trust in ("secagg", "distributed")
    return None if masked and participation.rate < 1 else _KNOWN


def _promises_gaussian(schedule: Schedule, privacy: PrivacyConfig) -> bool:
    """Whether what is accounted for is μ-GDP for some μ: everyone is counted in every draw, the noise is Gaussian."""
    return privacy.trust != "distributed" and counted_rate(schedule.rate, schedule.sampling) == 1


def _answers_once_with_noise(target: Target) -> bool:
    """Whether each device sends one answer in all, with all of its noise on it."""
    privacy, schedule = target.recommender.privacy, target.schedule
    if privacy is None or schedule is None or privacy.trust != "local":
        return False
    return sum(planned.draws * planned.per_draw for planned in schedule.releases) == 1


def accuracy(statistic: Tensor, included: Tensor) -> float:
    """The share of right guesses if the half of the largest values is guessed to be in."""
    truth, half = included[statistic.argsort(stable=True)], len(included) // 2
    return (int((~truth[:half]).sum()) + int(truth[half:].sum())) / len(included)


def separation(scores: Scores) -> float:
    """How many deviations lie between the mean log likelihood ratios of canaries in and out; at most 1e9.

    0 if fewer than two are in or fewer than two are out, which have no deviation.
    """
    inside, outside = scores.likelihood[scores.included], scores.likelihood[~scores.included]
    if min(len(inside), len(outside)) < 2:
        return 0.0
    apart, within = inside.mean() - outside.mean(), ((inside.var() + outside.var()) / 2).sqrt()
    return float(apart / within.clamp(min=max(1e-9 * abs(float(apart)), 1e-300)))
