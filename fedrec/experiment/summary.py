"""The tables of a whole run, made from what each arm and seed left in its folder, and from nothing else.

Rows stand in the order of the configuration and floats are written so that they read back exactly: the same results
are the same bytes, whenever and in whatever order the arms were computed.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fedrec.errors import RunError
from fedrec.evaluation import (
    MIN_GROUP,
    Interval,
    bootstrap_interval,
    bootstrap_intervals,
    compare,
    gap_by_chance,
    holm,
    seed_deviation,
)
from fedrec.experiment.attacking import over_seeds, read_findings
from fedrec.experiment.attacks import plan
from fedrec.experiment.config import ExperimentConfig
from fedrec.experiment.store import Result, RunDirectory, write_atomically, write_json
from fedrec.streams import Streams

ArmResults = Mapping[int, tuple[Result, pd.DataFrame]]
"""By seed: what one arm came to, and its per-user metrics."""

GROUP = "group:"
"""What the name of a per-user column begins with if it tells groups of users apart; an attribute's name follows."""


def write_tables(run: RunDirectory, config: ExperimentConfig, tuning: Mapping[str, Mapping[str, Any]]) -> None:
    """Write metrics.csv, history.csv, summary.json and, of attacks, attacks.csv of a run whose work is all finished.

    Args:
        run: the directory.
        config: with the settings that were fitted.
        tuning: how they were chosen, by arm; none for arms that were taken as they are.
    """
    results = {arm.name: {seed: run.arm(arm.name, seed).read() for seed in config.seeds} for arm in config.arms}
    write_rows(run.path, results)
    summary = summarise(results, config)
    for arm, content in summary["arms"].items():
        content["tuning"] = tuning.get(arm)
        if arm in tuning and content["guarantee"] is not None:
            content["guarantee"] = with_note(content["guarantee"], "tuning", _looked_at(tuning[arm]))
    summary["attacks"] = _attacks(run, config)
    write_json(run.path / "summary.json", summary)


def write_rows(folder: Path, results: Mapping[str, ArmResults]) -> None:
    """Write metrics.csv and history.csv of arms that are all finished."""
    jobs = [(arm, seed, result) for arm, of_arm in results.items() for seed, (result, _) in of_arm.items()]
    metrics = [(arm, seed, *row) for arm, seed, result in jobs for row in result.metrics]
    history = [(arm, seed, *row) for arm, seed, result in jobs for row in result.history]
    write_csv(folder / "metrics.csv", ("arm", "seed", "split", "metric", "group", "value"), metrics)
    write_csv(folder / "history.csv", ("arm", "seed", "round", "name", "value", "disclosure"), history)


def _attacks(run: RunDirectory, config: ExperimentConfig) -> list[dict[str, Any]]:
    """What each attack came to on each arm, over seeds; that of single seeds is written to attacks.csv."""
    rows, found = [], []
    for attack, arm in plan(config.attacks, config.arms):
        by_seed = {seed: read_findings(run.attack(attack.name, arm.name, seed)) for seed in config.seeds}
        rows += [
            (attack.name, arm.name, seed, *astuple(finding)) for seed, of_seed in by_seed.items() for finding in of_seed
        ]
        together = [asdict(finding) for finding in over_seeds(list(by_seed.values()))]
        found.append({"attack": attack.name, "kind": attack.kind, "arm": arm.name, "findings": together})
    if config.attacks:
        header = ("attack", "arm", "seed", "case", "measure", "value", "error", "chance", "trials")
        write_csv(run.path / "attacks.csv", header, rows)
    return found


def _looked_at(tuning: Mapping[str, Any]) -> str:
    """No epsilon without saying that it leaves out how the settings were chosen."""
    return (
        f"Not paid for: the settings were chosen by {tuning['trials']} trials on the data of the same users, each a "
        "training and a look at held-out items; the promise is that of a run whose settings were known beforehand."
    )


def with_note(guarantee: Mapping[str, Any], name: str, said: str) -> dict[str, Any]:
    """A guarantee, as a summary has it, with one more note, which is also the last of its words."""
    notes = {**guarantee["notes"], name: said}
    return {**guarantee, "notes": notes, "words": f"{guarantee['words']} {said}"}


def summarise(results: Mapping[str, ArmResults], config: ExperimentConfig) -> dict[str, Any]:
    """The content of summary.json: what each arm came to, and how the arms compare.

    Raises:
        RunError: if the arms and seeds do not have the same users in the same order.
    """
    _require_same_users(results)
    arms = {arm: _summary_of(of_arm, config) for arm, of_arm in results.items()}
    return {"metric": config.evaluation.metric, "arms": arms, "tests": _tests(results, config)}


def _require_same_users(results: Mapping[str, ArmResults]) -> None:
    """Users are paired by their position, so one file in another order would be a wrong result without any sign."""
    tables = [(arm, seed, table["user"]) for arm, of_arm in results.items() for seed, (_, table) in of_arm.items()]
    first_arm, first_seed, first = tables[0]
    for arm, seed, users in tables:
        if not users.equals(first):
            raise RunError(
                f"arms.{arm}, seed {seed}: the users in per_user.parquet are not those of arms.{first_arm}, seed "
                f"{first_seed}, in their order; the file was changed: delete arms/{arm}/seed-{seed} and resume the run"
            )


def _summary_of(results: ArmResults, config: ExperimentConfig) -> dict[str, Any]:
    """One arm: means over seeds, with intervals over users where a metric has a value for each user."""
    by_seed = {seed: _overall(result) for seed, (result, _) in results.items()}
    first, users = results[config.seeds[0]]
    values = _per_user(results)
    generator = Streams(config.seeds[0]).generator("bootstrap")
    intervals = bootstrap_intervals(values, generator, samples=config.evaluation.bootstrap)
    metrics = {}
    for name in by_seed[config.seeds[0]]:
        per_seed = [by_seed[seed][name] for seed in config.seeds]
        metrics[name] = of_seeds(per_seed, intervals.get(name))
    return {
        "metrics": metrics,
        "groups": _groups(values[config.evaluation.metric], users, config),
        "guarantee": first.guarantee,
        "seconds": sum(result.seconds for result, _ in results.values()) / len(results),
        "communication": mean_communication([result for result, _ in results.values()]),
    }


def of_seeds(per_seed: Sequence[float], interval: Interval | None) -> dict[str, Any]:
    """What a summary says of one metric of one arm.

    Args:
        per_seed: its values.
        interval: over users, if it has one.
    """
    return {
        "mean": sum(per_seed) / len(per_seed),
        "ci95": [interval.low, interval.high] if interval else None,
        "seed_deviation": seed_deviation(torch.tensor(per_seed, dtype=torch.float64).unsqueeze(1)),
        "per_seed": list(per_seed),
    }


def _overall(result: Result) -> dict[str, float]:
    """Test metrics over all users, by name."""
    return {metric: value for split, metric, group, value in result.metrics if split == "test" and not group}


def _per_user(results: ArmResults) -> dict[str, Tensor]:
    """By metric, [seeds, users] in one order of users; every arm and seed was tested on the same ones."""
    tables = [table for _, table in results.values()]
    return {
        str(name): torch.stack([torch.from_numpy(table[name].to_numpy(copy=True)) for table in tables])
        for name in tables[0].columns
        if name != "user" and not str(name).startswith(GROUP)
    }


def _groups(values: Tensor, users: pd.DataFrame, config: ExperimentConfig) -> dict[str, Any]:
    """The headline metric by groups of users: what each group has, and whether the gap between them is chance.

    All of it is of each user's mean over seeds. The gap is thus that of the groups' means over seeds, no wider than the
    mean of the gaps of single seeds in metrics.csv, in which another group may be the worst every time.

    Args:
        values: [seeds, users].
        users: columns "group:<attribute>", in the same order.
        config: its first seed draws the intervals and the test.
    """
    streams = Streams(config.seeds[0])
    found: dict[str, Any] = {}
    for column in users.columns[users.columns.str.startswith(GROUP)]:
        attribute, labels = column.removeprefix(GROUP), pd.Categorical(users[column])
        codes = torch.from_numpy(labels.codes.astype("int64"))
        test = gap_by_chance(values, codes, streams.generator(f"gap/{attribute}"), smallest=MIN_GROUP)
        generator = streams.generator(f"groups/{attribute}")
        groups = {}
        for code in sorted(set(codes[codes >= 0].tolist())):
            of_group = values[:, codes == code]
            interval = bootstrap_interval(of_group, generator, samples=config.evaluation.bootstrap)
            groups[str(labels.categories[code])] = {
                "users": of_group.shape[1],
                "mean": interval.mean,
                "ci95": [interval.low, interval.high],
            }
        gap = None if test is None else {"value": test.gap, "by_chance": test.by_chance, "p": test.p}
        found[attribute] = {"gap": gap, "groups": groups}
    return found


def mean_communication(results: Sequence[Result]) -> dict[str, float] | None:
    """Means over seeds: early stopping may end them at different rounds."""
    costs = [result.communication for result in results if result.communication is not None]
    return {name: sum(cost[name] for cost in costs) / len(costs) for name in costs[0]} if costs else None


def _tests(results: Mapping[str, ArmResults], config: ExperimentConfig) -> list[dict[str, Any]]:
    """Every pair of arms on the headline metric, paired by user, with Holm's correction for their number."""
    metric = config.evaluation.metric
    values = {arm: _per_user(of_arm)[metric] for arm, of_arm in results.items()}
    pairs = list(itertools.combinations(values, 2))
    found = [compare(values[a], values[b], Streams(config.seeds[0]).generator(f"test/{a}/{b}")) for a, b in pairs]
    holm_bootstrap = holm([one.p_bootstrap for one in found])
    holm_wilcoxon = holm([one.p_wilcoxon for one in found])
    return [
        {
            "metric": metric,
            "a": a,
            "b": b,
            "difference": one.difference.mean,
            "ci95": [one.difference.low, one.difference.high],
            "users": values[a].shape[-1],
            "seed_deviation": one.seed_deviation,
            "d_z": one.d_z,
            "rank_biserial": one.rank_biserial,
            "p_bootstrap": one.p_bootstrap,
            "p_bootstrap_holm": holm_bootstrap[position],
            "p_wilcoxon": one.p_wilcoxon,
            "p_wilcoxon_holm": holm_wilcoxon[position],
        }
        for position, ((a, b), one) in enumerate(zip(pairs, found, strict=True))
    ]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows, floats by `repr`, so that they read back exactly."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue())
