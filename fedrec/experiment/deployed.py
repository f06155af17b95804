"""Run an experiment where the users' data are on nodes: federated arms alone, tested by sums over the users.

The run directory is that of any experiment as far as a server can write one. What takes single users' lists or values
(top-k lists, some tests) is not in it; `resamples.parquet` takes the place of the users' values.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from fedrec.errors import ConfigError, RunError
from fedrec.experiment import manifest
from fedrec.experiment.arms import ArmConfig
from fedrec.experiment.config import ExperimentConfig
from fedrec.experiment.deployed_measuring import (
    Catalogue,
    asked_in_test,
    measure_deployed,
    panel_of,
    require_nodes,
    unpaid_test,
)
from fedrec.experiment.fitting import Told, build_arm
from fedrec.experiment.outcome import tell_test
from fedrec.experiment.preparation import naming
from fedrec.experiment.resampled import summarise_resampled
from fedrec.experiment.runner import Progress, Step, silent, telling
from fedrec.experiment.store import (
    ArmDirectory,
    History,
    Result,
    RunDirectory,
    write_atomically,
    write_json,
)
from fedrec.experiment.summary import write_csv
from fedrec.experiment.tracking import Logged, require_tracking, tracking
from fedrec.federated import FederatedRecommender, Federation, groups_asked
from fedrec.flower import FlowerEngine, Grid, Panel, Post, Roll, greet
from fedrec.recommenders import Disclosure, Training
from fedrec.streams import Streams

log = logging.getLogger(__name__)

PATIENCE = 300.0  # seconds that nodes are waited for before a run begins


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
    require_tracking(config.tracking)
    directory = RunDirectory(out)
    if directory.finished:
        raise RunError(f"{out}: holds a finished run; choose another folder, or delete it")
    post = Post(grid, config.engine.timeout)
    roll = greet(post, config.engine.nodes, PATIENCE)
    for arm in config.arms:
        with naming(f"arms.{arm.name}"):
            _recommender(arm, config).check_size(roll.n_users, roll.n_items, silos=_silos(arm, roll))
            require_nodes(arm.privacy, len(roll.nodes))
    config.evaluation.require_catalogue(roll.n_items)
    public = Catalogue.of(config, roll)
    groups_asked(public.labels, config.evaluation)
    with directory.locked():
        facts = _begin(directory, config, roll, left_out)
        panel = panel_of(directory.path / "panel.json")
        jobs = list(itertools.product(config.arms, config.seeds))
        for number, (arm, seed) in enumerate(jobs, start=1):
            folder = directory.arm(arm.name, seed)
            if folder.finished:
                continue
            step = Step(arm.name, seed, number, len(jobs), 0, 0, None, config.evaluation.metric)
            session = f"{facts['run']}.{arm.name}.{seed}"
            with (
                naming(f"arms.{arm.name}, seed {seed}"),
                tracking(config.tracking, out, config.name, arm.name, seed) as logged,
            ):
                told = telling(progress, step)
                _fit_and_test(arm, seed, config, post, roll, public, session, folder, told, logged, panel)
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
        elif arm.population is not None and arm.population.kind == "silos" and arm.population.rule != "attribute":
            raise ConfigError(
                f"arms.{arm.name}.population.rule = '{arm.population.rule}': nodes cannot tell who is in which silo; "
                "set 'attribute', by which each node is one, or kind = 'users'"
            )
    if not arms:
        raise ConfigError("arms: none is federated, and a deployment has no place where all data are; run it locally")
    return config.model_copy(update={"arms": tuple(arms)})


def _silos(arm: ArmConfig, roll: Roll) -> int | None:
    """How many silos there are, each node being one; None where every user is a client."""
    return len(roll.nodes) if arm.population is not None and arm.population.kind == "silos" else None


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
    public: Catalogue,
    session: str,
    folder: ArmDirectory,
    told: Told,
    logged: Logged,
    panel: Panel,
) -> None:
    """Fit an arm with a seed, test it once, and keep what it came to."""
    log.info("%s, seed %d", arm.name, seed)
    recommender = _recommender(arm, config)
    history: History = []

    def note(step: int, name: str, value: float, disclosure: Disclosure) -> None:
        history.append((step, name, float(value), disclosure))
        logged(step, f"{disclosure}/{name}", float(value))
        if name in ("nodes", "failures"):
            seen[name] = int(value)

    seen = {"nodes": len(roll.nodes), "failures": 0}

    def progress(done: int, planned: int, best: float | None) -> None:
        log.info("round %d of %d, %d nodes%s", done, planned, seen["nodes"], _behind(seen["failures"]))
        told(done, planned, best)

    checkpoints = folder.checkpoints()
    training = Training(seed, arm.name, config.engine.device, log=note, progress=progress, checkpoints=checkpoints)
    engine = FlowerEngine(
        post,
        roll,
        session=session,
        seed=seed,
        participation=arm.participation,
        randomness=config.engine.randomness,
        silo_by=arm.population.by or "" if arm.population is not None else "",
        rollbacks=recommender.rollbacks,
    )
    streams, dtype, device = Streams(seed), config.engine.dtype, training.torch_device
    federation = Federation(roll.n_users, roll.n_items, streams, dtype, device)
    looks = recommender.method.stopping.patience > 0 and "valid" in roll.parts
    watched = _Watched(config.evaluation.metric, seed) if looks else None
    recommender.fit_over(engine, federation, training, watched, _silos(arm, roll), folder.journal)
    seconds = checkpoints.seconds
    guarantee = None if recommender.guarantee is None else recommender.guarantee.as_dict()
    if guarantee is not None and arm.privacy is not None:
        unpaid = unpaid_test(arm.privacy, config.engine.randomness)
        guarantee |= {
            "notes": {**guarantee["notes"], "test": unpaid},
            "words": f"{guarantee['words']} {unpaid}",
        }
    metrics, resampled = measure_deployed(
        recommender, asked_in_test(engine, arm.privacy, panel), config, seed, public, validated="valid" in roll.parts
    )
    result = Result(
        metrics=metrics,
        history=history,
        guarantee=guarantee,
        communication=asdict(recommender.communication),
        seconds=seconds,
    )
    tell_test(logged, result)
    folder.write_resampled(result, model=recommender.model(), resampled=resampled)


def _behind(failures: int) -> str:
    return f", {failures} failed" if failures else ""


def _write_tables(directory: RunDirectory, config: ExperimentConfig) -> None:
    """metrics.csv, history.csv and summary.json of a run whose arms are all finished."""
    results = {
        arm.name: {seed: directory.arm(arm.name, seed).read_resampled() for seed in config.seeds} for arm in config.arms
    }
    jobs = [(arm, seed, result) for arm, of_arm in results.items() for seed, (result, _) in of_arm.items()]
    metrics = [(arm, seed, *row) for arm, seed, result in jobs for row in result.metrics]
    history = [(arm, seed, *row) for arm, seed, result in jobs for row in result.history]
    write_csv(directory.path / "metrics.csv", ("arm", "seed", "split", "metric", "group", "value"), metrics)
    write_csv(directory.path / "history.csv", ("arm", "seed", "round", "name", "value", "disclosure"), history)
    write_json(directory.path / "summary.json", summarise_resampled(results, config))
