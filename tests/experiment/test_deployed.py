"""An experiment over nodes that hold their own data ends in the numbers of one over everybody's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedrec.data import load_interactions, shard
from fedrec.errors import ConfigError
from fedrec.evaluation import OMITTED
from fedrec.experiment import ExperimentConfig, RunDirectory, run
from fedrec.experiment.deployed import run_deployed
from fedrec.flower import InProcessGrid
from fedrec.flower.node_app import client
from fedrec.report import summary_table

ARMS = [
    {
        "name": "federated",
        "method": {"kind": "ego-lightgcn", "dim": 4, "rounds": 3, "stopping": {"every": 1, "patience": 3}},
        "participation": {"rate": 0.7},
    },
    {"name": "spectral", "method": {"kind": "spectral", "factors": 4}},
]


def asked(groups: tuple[str, ...] = ("group", "activity"), **engine: Any) -> ExperimentConfig:
    """Two federated arms and two seeds on synthetic users who have a group and an activity."""
    return ExperimentConfig.read(
        {
            "name": "tiny",
            "seeds": [0, 1],
            "data": {"name": "synthetic", "synthetic": {"users": 50, "items": 40, "interactions": 8}},
            "evaluation": {"k": [5, 10], "bootstrap": 100, "groups": list(groups)},
            "arms": ARMS,
            "engine": {"precision": "float64", **engine},
        }
    )


def grid(config: ExperimentConfig, folder: Path, nodes: int) -> InProcessGrid:
    """Nodes of this process, each with a shard of its own."""
    shards = shard(load_interactions(config.data)[0], nodes, folder)
    told = {"catalogue": str(folder / "catalogue.parquet")}
    configs: Mapping[int, dict[str, bool | float | int | str]] = {
        number: {"data": str(place), **told} for number, place in enumerate(shards, start=1)
    }
    return InProcessGrid(client, configs, run_config={"experiment": config.to_toml()})


def metrics_of(folder: Path) -> dict[tuple[Any, ...], float]:
    table = pd.read_csv(folder / "metrics.csv", keep_default_na=False)
    return {tuple(row[:-1]): row[-1] for row in table.itertuples(index=False, name=None)}


def test_every_number_that_is_a_sum_is_that_of_a_simulation(tmp_path: Path) -> None:
    catalogue = str(tmp_path / "shards" / "catalogue.parquet")
    config = asked(kind="flower", nodes=3, catalogue=catalogue)
    folder = run_deployed(config, grid(config, tmp_path / "shards", 3), tmp_path / "deployed")
    local = run(asked(), tmp_path / "local")
    found, wanted = metrics_of(folder), metrics_of(local)
    missing = wanted.keys() - found.keys()
    assert all(any(name in metric for name in OMITTED) for _, _, _, metric, _ in missing)
    assert found.keys() <= wanted.keys()
    assert len(found) > 600
    for key, value in found.items():
        assert value == pytest.approx(wanted[key], abs=1e-6), key
    summary, expected = RunDirectory(folder).summary, RunDirectory(local).summary
    for arm in ("federated", "spectral"):
        of_arm, of_local = summary["arms"][arm], expected["arms"][arm]
        assert of_arm["metrics"]["ndcg@10"]["mean"] == pytest.approx(of_local["metrics"]["ndcg@10"]["mean"], abs=1e-6)
        low, high = of_arm["metrics"]["ndcg@10"]["ci95"]
        assert low < of_arm["metrics"]["ndcg@10"]["mean"] < high
        groups, local_groups = of_arm["groups"]["group"]["groups"], of_local["groups"]["group"]["groups"]
        assert {label: one["users"] for label, one in groups.items()} == {
            label: one["users"] for label, one in local_groups.items()
        }
    assert summary["tests"][0]["difference"] == pytest.approx(expected["tests"][0]["difference"], abs=1e-6)
    assert summary_table(folder).row_count == 2


def test_history_marks_what_a_simulation_alone_would_see(tmp_path: Path) -> None:
    config = asked(("activity",), kind="flower", nodes=2)
    folder = run_deployed(config, grid(config, tmp_path / "shards", 2), tmp_path / "deployed")
    history = pd.read_csv(folder / "history.csv")
    assert set(history["disclosure"]) == {"server"}  # what a deployment's server knows; nothing is simulated there
    of_round = history[(history["arm"] == "spectral") & (history["seed"] == 0)]
    values = dict(zip(of_round["name"], of_round["value"], strict=False))
    assert (values["nodes"], values["failures"]) == (2, 0)
    assert values["mb_up"] > 0
    assert not {path.name for path in folder.rglob("*.parquet")} & {"topk.parquet", "per_user.parquet", "train.parquet"}


def test_a_catalogue_that_is_not_the_nodes_is_refused(tmp_path: Path) -> None:
    config = asked(kind="flower", nodes=2, catalogue=str(tmp_path / "other.parquet"))
    nodes = grid(config, tmp_path / "shards", 2)
    pd.read_parquet(tmp_path / "shards" / "catalogue.parquet").iloc[1:].to_parquet(tmp_path / "other.parquet")
    (tmp_path / "federation.json").write_text(json.dumps({"users": 50, "columns": {}}))
    with pytest.raises(ConfigError, match="38 items, and not those of the nodes' catalogue"):
        run_deployed(config, nodes, tmp_path / "deployed")
    with pytest.raises(ConfigError, match="no user column 'group'; valid: activity"):
        run_deployed(asked(kind="flower", nodes=2), nodes, tmp_path / "deployed")
    assert not (tmp_path / "deployed").exists()
