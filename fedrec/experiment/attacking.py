"""Attacking the arms of an experiment: what an attack is given, and what is kept of its findings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fedrec.attacks import Finding, Target
from fedrec.data import Split
from fedrec.errors import ConfigError
from fedrec.experiment.arms import ArmConfig
from fedrec.experiment.fitting import build_arm
from fedrec.federated import EngineConfig, FederatedRecommender


def target_of(arm: ArmConfig, engine: EngineConfig, split: Split, seed: int) -> Target:
    """An arm as an attack is given it.

    Raises:
        ConfigError: if it is trained centrally.
    """
    recommender = build_arm(arm, engine)
    if not isinstance(recommender, FederatedRecommender):
        raise ConfigError(f"arm '{arm.name}' is trained centrally: nothing leaves a device that could be observed")
    return Target(recommender, split.train, split.valid, seed)


def findings_text(findings: Sequence[Finding]) -> str:
    """The text of a file that `read_findings` reads; floats read back exactly.

    Raises:
        ConfigError: if a number is not finite: an attack must leave out what it could not measure.
    """
    for finding in findings:
        numbers = [number for number in (finding.value, finding.error, finding.chance) if number is not None]
        if not all(map(math.isfinite, numbers)):
            raise ConfigError(f"'{finding.measure}' of '{finding.case}' is not finite; correct the attack")
    return json.dumps([asdict(finding) for finding in findings], indent=2, allow_nan=False) + "\n"


def read_findings(path: Path) -> list[Finding]:
    """The findings that were written."""
    return [Finding(**entry) for entry in json.loads(path.read_text())]


def over_seeds(by_seed: Sequence[Sequence[Finding]]) -> list[Finding]:
    """What an attack comes to over several seeds: means of values, trials added up."""
    found = []
    for same in zip(*by_seed, strict=True):
        errors = [finding.error for finding in same if finding.error is not None]
        chances = [finding.chance for finding in same if finding.chance is not None]
        found.append(
            Finding(
                case=same[0].case,
                measure=same[0].measure,
                value=sum(finding.value for finding in same) / len(same),
                error=math.sqrt(sum(error**2 for error in errors)) / len(same) if len(errors) == len(same) else None,
                chance=sum(chances) / len(chances) if chances else None,
                trials=sum(finding.trials for finding in same),
            )
        )
    return found
