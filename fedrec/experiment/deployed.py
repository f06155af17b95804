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
from fedrec.experiment.summary import with_note, write_rows
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
        nodes = _Nodes(config, post, roll, public, facts["run"], panel_of(directory.path / "panel.json"))
        jobs = list(itertools.product(config.arms, config.seeds))
        for number, (arm, seed) in enumerate(jobs, start=1):
            folder = directory.arm(arm.name, seed)
            if folder.finished:
                continue
            step = Step(arm.name, seed, number, len(jobs), 0, 0, None, config.evaluation.metric)
            with (
                naming(f"arms.{arm.name}, seed {seed}"),
                tracking(config.tracking, out, config.name, arm.name, seed) as logged,
            ):
                _fit_and_test(arm, seed, nodes, folder, _Said(len(roll.nodes), telling(progress, step), logged))
        _write_tables(directory, config)
        write_json(directory.path / "manifest.json", manifest.end(facts))
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
    digest = manifest.digest_of(config.to_toml())
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
        facts = manifest.beginning(config) | {
            "run": secrets.token_hex(8),  # names what nodes remember of this run, and of no other
            "data": nodes,
            "left_out": list(left_out),
        }
    write_json(directory.path / "manifest.json", facts)
    write_atomically(directory.path / "config.toml", config.to_toml())
    return facts


@dataclass(frozen=True, eq=False)
class _Nodes:
    """What all fits of a run have in common.

    Attributes:
        config: of the experiment.
        post: carries the messages.
        roll: the nodes.
        public: what is known of items and users.
        run: names what the nodes remember of it.
        panel: those that its masked tests are over.
    """

    config: ExperimentConfig
    post: Post
    roll: Roll
    public: Catalogue
    run: str
    panel: Panel

    def engine(self, arm: ArmConfig, seed: int, rollbacks: int) -> FlowerEngine:
        """The nodes, for one fit."""
        return FlowerEngine(
            self.post,
            self.roll,
            session=f"{self.run}.{arm.name}.{seed}",
            seed=seed,
            participation=arm.participation,
            randomness=self.config.engine.randomness,
            silo_by=arm.population.by or "" if arm.population is not None else "",
            rollbacks=rollbacks,
        )


class _Said:
    """What a fit says while it goes on: the rows of its history, and a line a round.

    Args:
        nodes: that are asked.
        told: of each round.
        logged: is told of each logged value, "disclosure/name".

    Attributes:
        history: the rows.
    """

    def __init__(self, nodes: int, told: Told, logged: Logged) -> None:
        self.history: History = []
        self.logged = logged
        self._told = told
        self._seen = {"nodes": nodes, "failures": 0}

    def log(self, step: int, name: str, value: float, disclosure: Disclosure) -> None:
        """Keep a row."""
        self.history.append((step, name, float(value), disclosure))
        self.logged(step, f"{disclosure}/{name}", float(value))
        if name in self._seen:
            self._seen[name] = int(value)

    def progress(self, done: int, planned: int, best: float | None) -> None:
        """Say that a round is over."""
        failed = f", {self._seen['failures']} failed" if self._seen["failures"] else ""
        log.info("round %d of %d, %d nodes%s", done, planned, self._seen["nodes"], failed)
        self._told(done, planned, best)


@dataclass(frozen=True)
class _Watched:
    """What early stopping asks of the nodes' validation part."""

    metric: str
    seed: int


def _fit_and_test(arm: ArmConfig, seed: int, nodes: _Nodes, folder: ArmDirectory, said: _Said) -> None:
    """Fit an arm with a seed, test it once, and keep what it came to."""
    log.info("%s, seed %d", arm.name, seed)
    config, roll, validated = nodes.config, nodes.roll, "valid" in nodes.roll.parts
    recommender, checkpoints = _recommender(arm, config), folder.checkpoints()
    training = Training(
        seed, arm.name, config.engine.device, log=said.log, progress=said.progress, checkpoints=checkpoints
    )
    federation = Federation(roll.n_users, roll.n_items, Streams(seed), config.engine.dtype, training.torch_device)
    engine = nodes.engine(arm, seed, recommender.rollbacks)
    looks = recommender.method.stopping.patience > 0 and validated
    watched = _Watched(config.evaluation.metric, seed) if looks else None
    recommender.fit_over(engine, federation, training, watched, _silos(arm, roll), folder.journal)
    seconds = checkpoints.seconds
    guarantee = None if recommender.guarantee is None else recommender.guarantee.as_dict()
    if guarantee is not None and arm.privacy is not None:
        guarantee = with_note(guarantee, "test", unpaid_test(arm.privacy, config.engine.randomness))
    asked = asked_in_test(engine, arm.privacy, nodes.panel)
    metrics, resampled = measure_deployed(recommender, asked, config, seed, nodes.public, validated=validated)
    result = Result(metrics, said.history, guarantee, asdict(recommender.communication), seconds)
    tell_test(said.logged, result)
    folder.write_resampled(result, model=recommender.model(), resampled=resampled)


def _write_tables(directory: RunDirectory, config: ExperimentConfig) -> None:
    """metrics.csv, history.csv and summary.json of a run whose arms are all finished."""
    results = {
        arm.name: {seed: directory.arm(arm.name, seed).read_resampled() for seed in config.seeds} for arm in config.arms
    }
    write_rows(directory.path, results)
    write_json(directory.path / "summary.json", summarise_resampled(results, config))
