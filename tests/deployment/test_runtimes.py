"""The same experiment on every runtime: one process, Ray, one user a node, and a SuperLink with SuperNodes over TLS.

    make test-deployment

Quickstart's `federated` and `federated-dp` arms and ego LightGCN under a guarantee, five rounds each, in double
precision, on MovieLens-100K: item tables agree within 1e-9 (the spectral filter by the projector on its eigenspace) and
metrics to six digits. With secure aggregation they agree to its stated resolution.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedrec.data import DataConfig, load_interactions, shard
from fedrec.errors import DataError
from fedrec.experiment import ExperimentConfig, run
from fedrec.experiment.deployed import run_deployed
from fedrec.federated import Federation
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig
from fedrec.flower import InProcessGrid
from fedrec.flower.node_app import client
from fedrec.streams import Streams
from simulations.deployment import Deployment

pytestmark = pytest.mark.deployment
log = logging.getLogger(__name__)

ARMS = ("federated", "federated-dp", "dp-training")
SEED = 0


def document(**engine: Any) -> dict[str, Any]:
    return {
        "name": "runtimes",
        "seeds": [SEED],
        "data": data(),
        "evaluation": {"k": [5, 10, 20], "metric": "ndcg@10", "bootstrap": 100},
        "engine": {"precision": "float64", "randomness": "seeded", **engine},
        "arms": [
            {"name": ARMS[0], "method": {"kind": "ego-lightgcn", "rounds": 5, "stopping": {"patience": 0}}},
            {
                "name": ARMS[1],
                "method": {"kind": "spectral", "release": "gram", "factors": 32},
                "privacy": {"epsilon": 8.0, "delta": 1e-5, "trust": "central"},
            },
            {
                "name": ARMS[2],
                "method": {"kind": "ego-lightgcn", "rounds": 5, "stopping": {"patience": 0}},
                "privacy": {"epsilon": 8.0, "delta": 1e-5},
                "participation": {"rate": 0.5},
            },
        ],
    }


@lru_cache(maxsize=1)
def data() -> dict[str, Any]:
    """Quickstart's MovieLens-100K; where it is out of reach, as many users and items, made up."""
    try:
        load_interactions(DataConfig(name="ml-100k"))
    except DataError as error:
        log.warning("made-up users in place of MovieLens-100K: %s", error)
        return {"name": "synthetic", "synthetic": {"users": 943, "items": 1682, "interactions": 40.0}}
    return {"name": "ml-100k"}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(ExperimentConfig.read(document()), tmp_path_factory.mktemp("local") / "run")


def server_side(folder: Path, arm: str) -> Mapping[str, Tensor]:
    found = load_file(folder / "arms" / arm / f"seed-{SEED}" / "model.safetensors")
    return {name.removeprefix("server/"): t.double() for name, t in found.items() if not name.startswith("users/")}


def values(folder: Path) -> pd.Series[float]:
    table = pd.read_csv(folder / "metrics.csv", keep_default_na=False)
    return table.set_index(["arm", "split", "metric", "group"])["value"]


def assert_the_same(folder: Path, other: Path, arms: tuple[str, ...] = ARMS) -> None:
    for arm in arms:
        mine, theirs = server_side(folder, arm), server_side(other, arm)
        if "basis" in mine:
            one, two = (model["basis"] @ model["basis"].T for model in (mine, theirs))
        else:
            one, two = mine["items"], theirs["items"]
        assert (one - two).abs().max() < 1e-9, arm
    found, expected = values(folder), values(other)
    both = found.index.intersection(expected.index)
    assert len(both) > 20 * len(arms)
    assert ((found[both] - expected[both]).abs() < 5e-7).all()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves sockets and files to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_on_ray_with_two_nodes(local: Path, tmp_path: Path) -> None:
    found = run(ExperimentConfig.read(document(kind="ray", nodes=2)), tmp_path / "run")
    assert_the_same(found, local)
    for arm in ARMS:  # of a simulation the whole run directory is there, users' private state included
        one, other = (load_file(f / "arms" / arm / f"seed-{SEED}" / "model.safetensors") for f in (found, local))
        assert set(one) == set(other)
        assert all((one[name].double() - other[name].double()).abs().max() < 1e-9 for name in one if "user" in name)


def nodes_in_process(folder: Path, nodes: int, experiment: Mapping[str, Any]) -> tuple[InProcessGrid, ExperimentConfig]:
    config = ExperimentConfig.read(experiment)
    shards = shard(load_interactions(config.data)[0], nodes, folder / "shards")
    catalogue = str(folder / "shards" / "catalogue.parquet")
    configs: dict[int, dict[str, bool | float | int | str]] = {
        number: {"data": str(own), "catalogue": catalogue} for number, own in enumerate(shards, start=1)
    }
    return InProcessGrid(client, configs, run_config={"experiment": tomli_w.dumps(dict(experiment))}), config


def test_with_one_user_a_node(local: Path, tmp_path: Path) -> None:
    users = load_interactions(ExperimentConfig.read(document()).data)[0].n_users
    grid, config = nodes_in_process(tmp_path, users, document(kind="flower", nodes=users))
    assert users == 943
    assert_the_same(run_deployed(config, grid, tmp_path / "run"), local)


def test_with_secure_aggregation_to_its_resolution(tmp_path: Path) -> None:
    """Three nodes, one arm under `secagg`: its noise is its own, so that it is held against the same arm in process.

    The mean change is added as it is: Adam would divide it by its own size, and rounding with it. The two differ by the
    rounding of users' answers there and of nodes' sums here, and by that much in proportion of the noise.
    """
    experiment = document(kind="flower", nodes=3)
    arm = experiment["arms"][2]
    method = {**arm["method"], "server": {"kind": "sgd", "rate": 1.0}}
    experiment["arms"] = [
        {**arm, "method": method, "privacy": {**arm["privacy"], "trust": "secagg", "executed": False}}
    ]
    grid, config = nodes_in_process(tmp_path, 3, experiment)
    found = run_deployed(config, grid, tmp_path / "run")
    expected = run(ExperimentConfig.read({**experiment, "engine": document()["engine"]}), tmp_path / "local")
    one, two = (server_side(folder, ARMS[2])["items"] for folder in (found, expected))
    assert (one - two).abs().max() < 1e-6
    start = EgoLightGCN(EgoLightGCNConfig()).start(Federation(943, len(one), Streams(SEED), torch.float64))["items"]
    assert (one - start).abs().max() > 1e-3


def test_on_a_superlink_with_three_supernodes_over_tls(local: Path, tmp_path: Path) -> None:
    experiment = document(kind="flower", nodes=3)
    (tmp_path / "experiment.toml").write_text(tomli_w.dumps(experiment))
    config = ExperimentConfig.read(experiment)
    shards = shard(load_interactions(config.data)[0], 3, tmp_path / "shards")
    with Deployment.of(tmp_path / "deployment", shards, tmp_path / "shards" / "catalogue.parquet") as deployment:
        command = [sys.executable, "-m", "fedrec.cli", "run", str(tmp_path / "experiment.toml")]
        command += ["--superlink", deployment.address, "--out", str(tmp_path / "run")]
        done = subprocess.run(
            command, env=deployment.environment(deployment.home), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert_the_same(tmp_path / "run", local)
