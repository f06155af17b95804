"""What befalls a federation of real processes: nothing is lost, nobody gets in, and what ends says why in one line."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from fedrec.experiment import RunDirectory, run
from fedrec.report import write_report
from simulations.credentials import make_node_keys, make_tls
from simulations.deployment import HOST, Deployment, Node
from tests.deployment.conftest import Federation, asked, until

pytestmark = pytest.mark.deployment


def test_nobody_gets_in_whom_the_superlink_does_not_know(federation: Federation, tmp_path: Path) -> None:
    """A node whose key nobody registered, one without a key, and one that trusts another authority: each ends."""
    deployment = federation.deployment
    before = deployment.online()
    assert len(before) == 2
    stranger, keyless, deceived = (Node(tmp_path / name, {}) for name in ("stranger", "keyless", "deceived"))
    for node in (stranger, deceived):
        node.keys = make_node_keys(node.folder)
    deployment.start(stranger)
    deployment.start(keyless)
    deployment.start(deceived, authority=make_tls(tmp_path / "other", [HOST]).authority)
    for node, said in (
        (stranger, "Failed to activate SuperNode"),
        (keyless, "SuperNode authentication is enabled"),
        (deceived, "CERTIFICATE_VERIFY_FAILED"),
    ):
        process = node.process
        assert process is not None
        until(lambda process=process: process.poll() is not None, f"{node.folder.name} to be refused")  # type: ignore[misc]
        assert process.returncode != 0
        assert said in node.log
        assert "SuperNode ID" not in node.log
    assert deployment.online() == before


def test_a_server_app_and_a_superlink_that_are_killed_cost_no_round(federation: Federation, tmp_path: Path) -> None:
    """The run ends in the numbers of a simulation, and no node's process ever opened another node's data."""
    deployment, out = federation.deployment, tmp_path / "run"
    checkpoint = out / "arms" / "federated" / "seed-0" / "checkpoint.safetensors"
    with opened_by(deployment) as opened:
        session = federation.run(federation.experiment(2), out)
        until(checkpoint.exists, "a round")
        (server,) = running(deployment, "flwr-serverapp")
        server.kill()
        code, said = session.end()
        assert code == 2
        assert f"Once begun it goes on with: fedrec resume {out}" in said
        asked_before = deployment.nodes[0].log.count("Receiving: query.sum")
        session = federation.fedrec("resume", str(out))
        until(lambda: deployment.nodes[0].log.count("Receiving: query.sum") > asked_before, "another round")
        deployment.kill_superlink()
        code, said = session.end()
        assert code == 2
        deployment.start_superlink()
        until(lambda: len(deployment.online()) == 2, "the nodes to come back")
        code, said = federation.fedrec("resume", str(out)).end()
        assert code == 0, said
    local = RunDirectory(run(asked(2), tmp_path / "local"))
    found, wanted = (RunDirectory(folder).summary["arms"]["federated"]["metrics"] for folder in (out, local.path))
    assert {name for name in wanted if name not in found} <= {
        name for name in wanted if "worst-decile" in name or "embedding" in name
    }
    for name, metric in found.items():
        assert metric["mean"] == pytest.approx(wanted[name]["mean"], abs=1e-6), name
    history = pd.read_csv(out / "history.csv")
    assert sorted(history[history["name"] == "nodes"]["round"]) == [1, 2]
    assert set(history[history["name"] == "nodes"]["value"]) == {2}
    for number, files in opened.items():
        others = [node.config["data"] for other, node in enumerate(deployment.nodes) if other != number]
        assert not [file for file in files if any(file.startswith(place) for place in others)]
        assert any(file.startswith(str(deployment.nodes[number].folder)) for file in files)


def running(deployment: Deployment, program: str) -> list[psutil.Process]:
    """The deployment's processes of a program."""
    found = []
    for process in deployment.processes():
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if program in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextlib.contextmanager
def opened_by(deployment: Deployment) -> Iterator[dict[int, set[str]]]:
    """Every file that the processes of each node are seen to have open, or are told of, looked at again and again."""
    seen: dict[int, set[str]] = {number: set() for number in range(len(deployment.nodes))}
    homes = {str(node.folder): number for number, node in enumerate(deployment.nodes)}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            for process in deployment.processes():
                with contextlib.suppress(psutil.Error):
                    number = homes.get(process.environ().get("FLWR_HOME", ""))
                    if number is not None:
                        seen[number] |= {file.path for file in process.open_files()}
                        told = " ".join(process.cmdline())
                        others = [node for other, node in enumerate(deployment.nodes) if other != number]
                        seen[number] |= {node.config["data"] for node in others if node.config["data"] in told}

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def test_flwr_run_takes_the_app_folder_and_overrides(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "run"
    overrides = "arms.federated.method.rounds=1; arms.federated-dp.method.factors=4"
    run_config = f'set="{overrides}" out="{out}"'
    app = str(Path(__file__).parents[2] / "flower_app")
    federation.deployment.flwr("run", app, "deployment", "--stream", "--run-config", run_config)
    history = pd.read_csv(out / "history.csv")
    assert history[history["arm"] == "federated"]["round"].max() == 1
    assert "ε&nbsp;=&nbsp;8.00</b>" in write_report(out).read_text()


def test_a_run_directory_that_cannot_be_written_ends_the_run_in_one_line(
    federation: Federation, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    code, said = federation.run(federation.experiment(1), tmp_path / "file" / "run").end()
    assert code == 2
    line = next(line for line in said.splitlines() if line.startswith("fedrec: "))
    assert "cannot be written (Not a directory); make it writable, or choose another --out" in line


def test_a_node_that_dies_in_mid_round_is_counted_and_the_rest_go_on(federation: Federation, tmp_path: Path) -> None:
    deployment, out = federation.deployment, tmp_path / "run"
    dying = deployment.nodes[1]
    answered = dying.log.count("Receiving: query.sum")
    session = federation.run(federation.experiment(2, timeout=60.0), out)
    until(lambda: dying.log.count("Receiving: query.sum") > answered, "a round")
    deployment.kill(dying)
    code, said = session.end()
    assert code == 0, said
    history = pd.read_csv(out / "history.csv").set_index(["name", "round"])["value"]
    assert (history["nodes", 2], history["failures", 2]) == (1, 1)
    metrics = pd.read_csv(out / "metrics.csv", keep_default_na=False)
    users = metrics[(metrics["metric"] == "users") & (metrics["group"] == "") & (metrics["split"] == "test")]["value"]
    assert users.tolist() == [20.0]
