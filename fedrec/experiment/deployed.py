"""Run an experiment where the users' data are on nodes: federated arms alone, tested by sums over the users.

The run directory is that of any experiment as far as a server can write one. What takes single users' lists or values
(top-k lists, paired tests) is not in it.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from fedrec.errors import ConfigError, RunError
from fedrec.evaluation import EvaluationConfig, seed_deviation
from fedrec.evaluation.accuracy import ACCURACY
from fedrec.evaluation.metrics import sampled_name
from fedrec.experiment import manifest
from fedrec.experiment.arms import ArmConfig
from fedrec.experiment.config import ExperimentConfig
from fedrec.experiment.fitting import build_arm
from fedrec.experiment.preparation import naming
from fedrec.experiment.runner import Progress, Step, silent, telling
from fedrec.experiment.store import (
    ArmDirectory,
    History,
    Result,
    RunDirectory,
    write_atomically,
    write_json,
    write_tensors,
)
from fedrec.experiment.summary import write_csv
from fedrec.federated import FederatedRecommender, Federation
from fedrec.federated.queries import Evaluate
from fedrec.flower import FlowerEngine, Grid, Post, Roll, greet
from fedrec.recommenders import Disclosure, Training
from fedrec.streams import Streams

log = logging.getLogger(__name__)

PATIENCE = 300.0  # seconds that nodes are waited for before a run begins

_UNPAID = (
    "Not paid for: the sums of metric values over the users' test items, without noise, after the last round; the "
    "promise is about the model."
)


def run_deployed(config: ExperimentConfig, grid: Grid, out: Path, progress: Progress = silent) -> Path:
    """Run an experiment over the nodes of a grid, or finish one that was interrupted.

    Args:
        config: what was asked.
        grid: Flower's.
        out: the folder to write: new, empty, or that of an unfinished run of the same experiment.
        progress: is told of every round.

    Returns:
        The folder.

    Raises:
        FedrecError: if the configuration or the folder is unfit, or too few nodes come.
    """
    left_out = [arm.name for arm in config.arms if not arm.method.federated]
    config = _federated(config)
    directory = RunDirectory(out)
    if directory.finished:
        raise RunError(f"{out}: holds a finished run; choose another folder, or delete it")
    post = Post(grid, config.engine.timeout)
    roll = greet(post, config.engine.nodes, PATIENCE)
    for arm in config.arms:
        with naming(f"arms.{arm.name}"):
            _recommender(arm, config).check_size(roll.n_users, roll.n_items)
    config.evaluation.require_catalogue(roll.n_items)
    with directory.locked():
        facts = _begin(directory, config, roll, left_out)
        jobs = list(itertools.product(config.arms, config.seeds))
        for number, (arm, seed) in enumerate(jobs, start=1):
            folder = directory.arm(arm.name, seed)
            if folder.finished:
                continue
            step = Step(arm.name, seed, number, len(jobs), 0, 0, None, config.evaluation.metric)
            session = f"{facts['run']}.{arm.name}.{seed}"
            with naming(f"arms.{arm.name}, seed {seed}"):
                _fit_and_test(arm, seed, config, post, roll, session, folder, telling(progress, step))
        _write_tables(directory, config)
        facts |= {"finished": True, "finished_at": manifest.now(), "peak_memory_mb": manifest.peak_memory_mb()}
        write_json(directory.path / "manifest.json", facts)
    return directory.path


def _federated(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with the arms that nodes can train.

    Raises:
        ConfigError: if there are none, or settings would have to be chosen first.
    """
    if config.tune is not None:
        raise ConfigError("tune: settings are not chosen on nodes; tune elsewhere, and run RUN/tuned.toml here")
    arms = [arm for arm in config.arms if arm.method.federated]
    for arm in config.arms:
        if not arm.method.federated:
            log.warning(
                "arms.%s: method '%s' is trained where all data are, and a deployment has no such place: left out",
                arm.name,
                arm.method.kind,
            )
        elif arm.population is not None and arm.population.kind == "silos":
            raise ConfigError(f"arms.{arm.name}.population: nodes cannot tell who is in which silo; set kind = 'users'")
    if not arms:
        raise ConfigError("arms: none is federated, and a deployment has no place where all data are; run it locally")
    return config.model_copy(update={"arms": tuple(arms)})


def _recommender(arm: ArmConfig, config: ExperimentConfig) -> FederatedRecommender:
    recommender = build_arm(arm, config.engine)
    assert isinstance(recommender, FederatedRecommender)  # by `_federated`
    return recommender


def _begin(directory: RunDirectory, config: ExperimentConfig, roll: Roll, left_out: Sequence[str]) -> dict[str, Any]:
    """The manifest of a run that begins, or goes on.

    Raises:
        RunError: if what goes on is another experiment, or another federation.
    """
    nodes = {
        "users": roll.n_users,
        "items": roll.n_items,
        "nodes": len(roll.nodes),
        "catalogue": next(iter(roll.nodes.values())).catalogue,
    }
    digest = sha256(config.to_toml().encode()).hexdigest()
    if directory.begun:
        facts = directory.manifest
        for name, began, found in (
            ("configuration", facts["config_sha256"], digest),
            ("federation", facts["data"], nodes),
        ):
            if began != found:
                raise RunError(f"{directory.path}: the {name} changed since the run began; undo that, or start anew")
        facts["resumed_at"].append(manifest.now())
    else:
        directory.require_free()
        facts = {
            "experiment": config.name,
            "run": secrets.token_hex(8),  # names what nodes remember of this run, and of no other
            "finished": False,
            "started_at": manifest.now(),
            "resumed_at": [],
            "finished_at": None,
            "versions": manifest.versions(),
            "git": manifest.git_revision(),
            "machine": manifest.machine(),
            "config_sha256": digest,
            "data": nodes,
            "left_out": list(left_out),
            "seeds": list(config.seeds),
            "randomness": config.engine.randomness,
        }
    write_json(directory.path / "manifest.json", facts)
    write_atomically(directory.path / "config.toml", config.to_toml())
    return facts


@dataclass(frozen=True)
class _Watched:
    """What early stopping asks of the nodes' validation part."""

    metric: str
    seed: int


def _fit_and_test(
    arm: ArmConfig,
    seed: int,
    config: ExperimentConfig,
    post: Post,
    roll: Roll,
    session: str,
    folder: ArmDirectory,
    told: Any,
) -> None:
    """Fit an arm with a seed, test it once, and keep what it came to."""
    recommender = _recommender(arm, config)
    history: History = []

    def note(step: int, name: str, value: float, disclosure: Disclosure) -> None:
        history.append((step, name, float(value), disclosure))

    checkpoints = folder.checkpoints()
    training = Training(seed, arm.name, config.engine.device, log=note, progress=told, checkpoints=checkpoints)
    engine = FlowerEngine(
        post,
        roll,
        session=session,
        seed=seed,
        participation=arm.participation,
        randomness=config.engine.randomness,
        rollbacks=recommender.rollbacks,
    )
    streams, dtype, device = Streams(seed), config.engine.dtype, training.torch_device
    federation = Federation(roll.n_users, roll.n_items, streams, dtype, device)
    looks = recommender.method.stopping.patience > 0 and "valid" in roll.parts
    recommender.fit_over(engine, federation, training, _Watched(config.evaluation.metric, seed) if looks else None)
    seconds = checkpoints.seconds
    guarantee = None if recommender.guarantee is None else recommender.guarantee.as_dict()
    if guarantee is not None:
        guarantee |= {
            "notes": {**guarantee["notes"], "test": _UNPAID},
            "words": f"{guarantee['words']} {_UNPAID}",
        }
    result = Result(
        metrics=_test(recommender, engine, config.evaluation, seed, roll),
        history=history,
        guarantee=guarantee,
        communication=asdict(recommender.communication),
        seconds=seconds,
    )
    write_tensors(folder.path / "model.safetensors", recommender.model())
    write_json(folder.path / "result.json", asdict(result))


def _test(
    recommender: FederatedRecommender, engine: FlowerEngine, config: EvaluationConfig, seed: int, roll: Roll
) -> Sequence[tuple[str, str, str, float]]:
    """Rows (split, metric, group, value): sums of what the users' devices measure, divided by the number of users."""
    rows = []
    names = [
        metric if candidates == "all" else sampled_name(metric)
        for candidates in config.candidates
        for name in ACCURACY
        for metric in (f"{name}@{k}" for k in config.k)
    ]
    after = recommender.method.rounds + 1  # later than every round
    for phase, (part, metrics) in enumerate((("valid", [config.metric]), ("test", names))):
        if part not in roll.parts:
            continue
        query = Evaluate.of(recommender.method, recommender.model(), part, metrics, seed, everyone=True)
        users, *sums = engine.sum(query, round=after, phase=phase).sums["metrics"][0].tolist()
        if not users:
            continue
        rows += [(part, "users", "", users)] if part == "test" else []
        rows += [(part, metric, "", total / users) for metric, total in zip(metrics, sums, strict=True)]
    return rows


def _write_tables(directory: RunDirectory, config: ExperimentConfig) -> None:
    """metrics.csv, history.csv and summary.json of a run whose arms are all finished."""
    results = {
        arm.name: {seed: directory.arm(arm.name, seed).read_result() for seed in config.seeds} for arm in config.arms
    }
    jobs = [(arm, seed, result) for arm, of_arm in results.items() for seed, result in of_arm.items()]
    metrics = [(arm, seed, *row) for arm, seed, result in jobs for row in result.metrics]
    history = [(arm, seed, *row) for arm, seed, result in jobs for row in result.history]
    write_csv(directory.path / "metrics.csv", ("arm", "seed", "split", "metric", "group", "value"), metrics)
    write_csv(directory.path / "history.csv", ("arm", "seed", "round", "name", "value", "disclosure"), history)
    summary = {arm: _summary_of(list(of_arm.values())) for arm, of_arm in results.items()}
    write_json(directory.path / "summary.json", {"metric": config.evaluation.metric, "arms": summary, "tests": []})


def _summary_of(results: Sequence[Result]) -> Mapping[str, Any]:
    """One arm: means over seeds."""
    values: dict[str, list[float]] = {}
    for result in results:
        for part, metric, group, value in result.metrics:
            if part == "test" and not group:
                values.setdefault(metric, []).append(value)
    costs = [result.communication or {} for result in results]
    return {
        "metrics": {
            name: {
                "mean": sum(per_seed) / len(per_seed),
                "ci95": None,
                "seed_deviation": seed_deviation(torch.tensor(per_seed, dtype=torch.float64).unsqueeze(1)),
                "per_seed": per_seed,
            }
            for name, per_seed in values.items()
        },
        "groups": {},
        "guarantee": results[0].guarantee,
        "seconds": sum(result.seconds for result in results) / len(results),
        "communication": {name: sum(cost[name] for cost in costs) / len(costs) for name in costs[0]},
        "tuning": None,
    }
