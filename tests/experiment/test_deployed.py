"""An experiment over nodes that hold their own data ends in the numbers of one over everybody's."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedrec.data import load_interactions, shard
from fedrec.errors import ConfigError, RunError
from fedrec.evaluation import OMITTED
from fedrec.experiment import ExperimentConfig, RunDirectory, run
from fedrec.experiment.apps import serve
from fedrec.experiment.deployed import run_deployed
from fedrec.flower import InProcessGrid
from fedrec.flower.node_app import client
from fedrec.report import summary_table, write_report

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
            "data": {"name": "synthetic", "synthetic": {"users": 100, "items": 40, "interactions": 8}},
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
    page = write_report(folder).read_text()
    for said in ("on 3 nodes that hold their own users: 100 users and 40 items. Finished", "Catalogue fingerprint"):
        assert said in page


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
    (tmp_path / "federation.json").write_text(json.dumps({"users": 100, "columns": {}}))
    with pytest.raises(ConfigError, match="39 items, and not those of the nodes' catalogue"):
        run_deployed(config, nodes, tmp_path / "deployed")
    with pytest.raises(ConfigError, match="no user column 'group'; valid: activity"):
        run_deployed(asked(kind="flower", nodes=2), nodes, tmp_path / "deployed")
    assert not (tmp_path / "deployed").exists()


@pytest.mark.parametrize("write", [3, 5])
def test_a_full_disk_ends_the_run_in_one_line_and_costs_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    """At the first checkpoint, or later: what is on the disk stays whole, and the run goes on from it."""
    config = asked(("activity",), kind="flower", nodes=2).model_copy(update={"seeds": (0,)})
    config = config.model_copy(update={"arms": config.arms[:1]})
    whole = run_deployed(config, grid(config, tmp_path / "whole-shards", 2), tmp_path / "whole")
    nodes, out, written = grid(config, tmp_path / "shards", 2), tmp_path / "run", 0
    really = os.fsync

    def fsync(file: int) -> None:
        nonlocal written
        written += not stat.S_ISDIR(os.fstat(file).st_mode)
        if written >= write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(RunError, match=r"cannot be written \(No space left on device\)") as told:
            run_deployed(config, nodes, out)
    assert "\n" not in str(told.value)
    run_deployed(config, nodes, out)
    for name in ("metrics.csv", "history.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    config = asked(("activity",), kind="flower", nodes=2)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        run_deployed(config, grid(config, tmp_path / "shards", 2), tmp_path / "file" / "run")


def test_the_server_says_how_far_it_is_and_why_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = asked(("activity",), kind="flower", nodes=2).model_copy(update={"seeds": (0,)})
    nodes, out = grid(config, tmp_path / "shards", 2), tmp_path / "run"
    told = {"experiment": config.to_toml(), "out": str(out)}
    log = logging.getLogger("fedrec")
    before, level = list(log.handlers), log.level
    try:
        serve(nodes, told)
        with pytest.raises(RunError):
            serve(nodes, told)
    finally:
        log.handlers, log.level = before, level
    said = capsys.readouterr().err.splitlines()
    assert "fedrec: federated, seed 0" in said
    assert "fedrec: round 3 of 3, 2 nodes" in said
    assert said[-1] == f"fedrec: {out}: holds a finished run; choose another folder, or delete it"
