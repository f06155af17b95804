"""The content of summary.json where no server has a user's value: intervals and tests from resampled sums.

Every arm and seed of a run counts each user equally often in a resample, so that their resampled means are paired by
resample as users are paired elsewhere. Where that is not so, of which the number of users in each resample tells, arms
are not compared. What takes single values is None, and `OMITTED` says why.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fedrec.evaluation import BETWEEN_GROUPS, MIN_GROUP, OMITTED, holm, percentile_interval, seed_deviation
from fedrec.experiment.config import ExperimentConfig
from fedrec.experiment.store import Result
from fedrec.experiment.summary import mean_communication, of_seeds

Resampled = Mapping[int, tuple[Result, pd.DataFrame]]
"""By seed: what one arm came to, and its resampled means, as `fedrec.evaluation.resampled_means` names them."""

COUNTED = "counted"
"""The column of the resampled means that says how many users are in each resample."""

_UNPAIRED = (
    "arms that were resampled over other users, or by other weights, are not compared: a node was lost between their "
    "tests, or what it keeps in its state folder was"
)

_DECIMALS = 12  # equal means differ by some 1e-16 in another order of summation, and must count as equal


def summarise_resampled(results: Mapping[str, Resampled], config: ExperimentConfig) -> dict[str, Any]:
    """What each arm came to, and how the arms compare."""
    arms = {arm: _summary_of(of_arm, config) for arm, of_arm in results.items()}
    return {
        "metric": config.evaluation.metric,
        "arms": arms,
        "tests": _tests(results, config),
        "omitted": dict(OMITTED) | ({} if _alike(*results.values()) else {"tests": _UNPAIRED}),
    }


def _alike(*arms: Resampled) -> bool:
    """Whether all arms and seeds have the same number of users in each resample, as the same users and weights give."""
    counted = [table[COUNTED] for of_arm in arms for _, table in of_arm.values()]
    return all(other.equals(counted[0]) for other in counted)


def _summary_of(results: Resampled, config: ExperimentConfig) -> dict[str, Any]:
    resampled = _over_seeds(results)
    overall = [_rows(result, "") for result, _ in results.values()]
    metrics = {}
    for name in overall[0]:
        per_seed = [rows[name] for rows in overall]
        mean = sum(per_seed) / len(per_seed)
        metrics[name] = of_seeds(per_seed, percentile_interval(mean, resampled[name]) if name in resampled else None)
    return {
        "metrics": metrics,
        "groups": _groups(results, resampled, config.evaluation.metric),
        "guarantee": next(result for result, _ in results.values()).guarantee,
        "seconds": sum(result.seconds for result, _ in results.values()) / len(results),
        "communication": mean_communication([result for result, _ in results.values()]),
        "tuning": None,
    }


def _rows(result: Result, group: str) -> dict[str, float]:
    """Test metrics of one group of users, by name."""
    return {metric: value for part, metric, of, value in result.metrics if part == "test" and of == group}


def _over_seeds(results: Resampled) -> dict[str, Tensor]:
    """Each resample's means over seeds, where users, and how often each counts, are the same for every seed.

    Where they are not, seeds are averaged from their least resample to their largest: an interval is then the mean of
    the seeds' own, and not narrower for being drawn several times.
    """
    tables = [table for _, table in results.values()]
    stacked = {
        str(name): torch.stack([torch.from_numpy(table[name].to_numpy(copy=True)) for table in tables])
        for name in tables[0].columns.drop(COUNTED)
        if all(name in table for table in tables)  # a group may be too small to report in one split and not in another
    }
    alike = _alike(results)
    return {name: (values if alike else values.sort(dim=1).values).mean(dim=0) for name, values in stacked.items()}


def _groups(results: Resampled, resampled: Mapping[str, Tensor], metric: str) -> dict[str, Any]:
    """The headline metric by groups of users, and the gap between those of enough users."""
    found: dict[str, Any] = {}
    for name in resampled:
        headline, slash, label = name.partition("/")
        if not slash or headline != metric:
            continue
        rows = [_rows(result, label) for result, _ in results.values()]
        if any(metric not in row for row in rows):
            continue  # nobody is in that group, or too few are
        mean = sum(row[metric] for row in rows) / len(rows)
        interval = percentile_interval(mean, resampled[name])
        attribute, _, value = label.partition("=")
        groups = found.setdefault(attribute, {"gap": None, "groups": {}})["groups"]
        groups[value] = {"users": int(rows[0]["users"]), "mean": mean, "ci95": [interval.low, interval.high]}
    for of_attribute in found.values():
        means = [group["mean"] for group in of_attribute["groups"].values() if group["users"] >= MIN_GROUP]
        if len(means) > 1:
            gap = BETWEEN_GROUPS["gap"](torch.tensor(means, dtype=torch.float64))
            of_attribute["gap"] = {"value": gap, "by_chance": None, "p": None}
    return found


def _tests(results: Mapping[str, Resampled], config: ExperimentConfig) -> list[dict[str, Any]]:
    """Every pair of arms that are paired by resample, on the headline metric, with Holm's correction for their number.

    The test is that of `fedrec.evaluation.compare`: resampled differences are shifted to a mean of zero, and p is the
    share of them that lie as far away as the data, counting the data as one resample.
    """
    metric = config.evaluation.metric
    per_seed = {
        arm: torch.tensor([_rows(result, "")[metric] for result, _ in of_arm.values()], dtype=torch.float64)
        for arm, of_arm in results.items()
    }
    resampled = {arm: _over_seeds(of_arm)[metric] for arm, of_arm in results.items()}
    users = {arm: int(_rows(next(iter(of_arm.values()))[0], "")["users"]) for arm, of_arm in results.items()}
    found: list[dict[str, Any]] = []
    for a, b in itertools.combinations(results, 2):
        if not _alike(results[a], results[b]):
            continue
        differences = per_seed[a] - per_seed[b]
        mean, shifted = differences.mean(), resampled[a] - resampled[b]
        as_far = int(((shifted - mean).abs() >= mean.abs() - 10.0**-_DECIMALS).sum())
        interval = percentile_interval(float(mean), shifted)
        found.append(
            {
                "metric": metric,
                "a": a,
                "b": b,
                "difference": interval.mean,
                "ci95": [interval.low, interval.high],
                "users": users[a],
                "seed_deviation": seed_deviation(differences.unsqueeze(1)),
                "d_z": None,
                "rank_biserial": None,
                "p_bootstrap": (1 + as_far) / (len(shifted) + 1),
                "p_wilcoxon": None,
                "p_wilcoxon_holm": None,
            }
        )
    corrected = holm([test["p_bootstrap"] for test in found])
    return [test | {"p_bootstrap_holm": p} for test, p in zip(found, corrected, strict=True)]
