"""A SuperLink and two SuperNodes in processes of their own, over TLS, with node authentication."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedrec.experiment import ExperimentConfig
from simulations.deployment import Deployment, deployed

NODES = 2
PATIENCE = 1200.0  # seconds until a test gives up on something that takes ten to sixty on an idle machine


def asked(rounds: int, **engine: Any) -> ExperimentConfig:
    """One arm with private state on the nodes, and a checkpoint after every round."""
    method = {"kind": "ego-lightgcn", "dim": 4, "rounds": rounds, "stopping": {"every": 1, "patience": 0}}
    return ExperimentConfig.read(
        {
            "name": "small",
            "seeds": [0],
            "data": {"name": "synthetic", "synthetic": {"users": 40, "items": 30, "interactions": 8}},
            "evaluation": {"k": [5], "metric": "ndcg@5", "bootstrap": 100},
            "arms": [{"name": "federated", "method": method}],
            "engine": {"precision": "float64", **engine},
        }
    )


def until(ready: Callable[[], bool], what: str) -> None:
    """Wait for something, or fail."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            pytest.fail(f"after {PATIENCE:.0f} s still waiting for {what}")
        time.sleep(0.2)


@dataclass
class Session:
    """`fedrec` at work, and what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    def end(self) -> tuple[int, str]:
        """Its exit code and all that it said."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"fedrec is still running; see {self.log}")
        return code, self.log.read_text(errors="replace")


@dataclass
class Federation:
    """A deployment, and the commands that are given to it."""

    deployment: Deployment
    folder: Path

    def experiment(self, rounds: int, **engine: Any) -> ExperimentConfig:
        """An experiment as these nodes run it."""
        config, _ = deployed(asked(rounds, **engine), NODES, self.folder / "data")
        settings = config.engine.model_copy(update={"superlink": self.deployment.address})
        return config.model_copy(update={"engine": settings})

    def fedrec(self, *arguments: str) -> Session:
        """Begin a command."""
        log = self.folder / f"fedrec-{time.monotonic_ns()}.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "fedrec.cli", *arguments],
                env=self.deployment.environment(self.deployment.home),
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        return Session(process, log)

    def run(self, config: ExperimentConfig, out: Path) -> Session:
        """Begin a run."""
        path = self.folder / f"{out.name}.toml"
        path.write_text(config.to_toml())
        return self.fedrec("run", str(path), "--out", str(out))


@pytest.fixture(scope="package")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("deployment")
    _, shards = deployed(asked(1), NODES, folder / "data")
    with Deployment.of(folder / "processes", shards, folder / "data" / "catalogue.parquet") as deployment:
        yield Federation(deployment, folder)
    assert not deployment.processes()
