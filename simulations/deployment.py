"""A federation as it would be deployed, on one machine: a SuperLink, and SuperNodes that hold their own users' data.

    python simulations/deployment.py experiments/quickstart.toml --nodes 3 --out runs/deployed

Deals the users of the experiment's data to nodes, makes certificates and keys, and starts `flower-superlink` with TLS
and node authentication and one `flower-supernode` a node, all on loopback. A node is told where its own file and the
public catalogue lie, and nothing of the others. Then `fedrec run` runs the experiment's federated arms on them; given
again, the command finishes an interrupted run. Whatever was started is stopped in the end, also when the script is
interrupted. What an operator of several machines does by hand is in docs/deployment.md.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import psutil
import tomli_w

from fedrec.data import CleaningConfig, load_interactions, shard
from fedrec.errors import FedrecError, RunError
from fedrec.experiment import ExperimentConfig, RunDirectory, read_config
from fedrec.federated import EngineConfig
from simulations.credentials import NodeKeys, Tls, make_node_keys, make_tls
from simulations.processes import environment

HOST = "127.0.0.1"
MARK = "FEDREC_DEPLOYMENT"  # in the environment of all that a deployment starts, and of all that they start
START_SECONDS = 300.0  # a process that is not ready by then will not be; on an idle machine it takes ten
_PORTS = range(20_000, 32_000)  # Linux deals out those from 32,768 on by itself, and other systems later ones
STOP_SECONDS = 10.0  # after SIGTERM; Flower lets a running app go on for a while
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


def free_port() -> int:
    """A port that nobody listens on now, and that no outgoing connection is given before the process that is to."""
    while True:
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):  # somebody listens there
            probe.bind((HOST, port))
            return port


@dataclass
class Node:
    """One SuperNode: its folder, its keys, and what it is told.

    Attributes:
        folder: its own home, with its keys and its log.
        config: what `--node-config` tells it.
        keys: None before they are made.
        process: None while it is not running.
    """

    folder: Path
    config: Mapping[str, str]
    keys: NodeKeys | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "supernode.log").read_text(errors="replace")


@dataclass
class Deployment:
    """A SuperLink and its SuperNodes, from entering the context to leaving it.

    Attributes:
        folder: where everything of it is written.
        nodes: the SuperNodes.
        port: of the SuperLink.
    """

    folder: Path
    nodes: list[Node]
    port: int = field(default_factory=free_port)
    _mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    _superlink: subprocess.Popen[bytes] | None = None

    @classmethod
    def of(cls, folder: Path, shards: Sequence[Path], catalogue: Path) -> Deployment:
        """One node for each folder that `fedrec data shard` wrote."""
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        remembered = folder / "port"  # a run that goes on is on the same SuperLink
        port = int(remembered.read_text()) if remembered.exists() else free_port()
        remembered.write_text(f"{port}\n")
        public = {"catalogue": str(catalogue.resolve())}
        nodes = []
        for number, own in enumerate(shards):
            home = folder / f"supernode-{number}"
            nodes.append(Node(home, {"data": str(own.resolve()), "state": str(home / "state"), **public}))
        return cls(folder, nodes, port)

    @property
    def address(self) -> str:
        """Of the SuperLink."""
        return f"{HOST}:{self.port}"

    @property
    def home(self) -> Path:
        """Flower's folder of whoever commands the SuperLink; `config.toml` in it names the connection."""
        return self.folder / "superlink"

    @property
    def database(self) -> Path:
        """What the SuperLink remembers its nodes and runs in."""
        return self.home / "state.db"

    @property
    def tls(self) -> Tls:
        """The SuperLink's certificate."""
        credentials = self.folder / "credentials"
        return Tls(credentials / "authority.pem", credentials / "superlink.pem", credentials / "superlink.key")

    def __enter__(self) -> Deployment:
        try:
            make_tls(self.folder / "credentials", [HOST, "localhost"])
            self.home.mkdir(parents=True, exist_ok=True)
            self.database.unlink(missing_ok=True)  # nodes get new keys, and are registered anew
            connection = {"address": self.address, "root-certificates": str(self.tls.authority)}
            superlink = {"default": "deployment", "deployment": connection}
            (self.home / "config.toml").write_text(tomli_w.dumps({"superlink": superlink}))
            self.start_superlink()
            for node in self.nodes:
                self.register(node)
                self.start(node)
            self.wait_for_nodes(len(self.nodes))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start_superlink(self) -> None:
        """Start the SuperLink, which remembers its nodes and its runs in a database, and wait until it answers."""
        command = ["flower-superlink", "--host", HOST, "--port", str(self.port), "--enable-supernode-auth"]
        command += ["--ssl-ca-certfile", str(self.tls.authority), "--ssl-certfile", str(self.tls.certificate)]
        command += ["--ssl-keyfile", str(self.tls.key), "--disable-runtime-dependency-installation"]
        command += ["--database", str(self.database)]
        self._superlink = self._begin(command, self.home, self.home / "superlink.log")
        self._await(self._answers, "the SuperLink", self._superlink, self.home / "superlink.log")

    def kill_superlink(self) -> None:
        """As a power failure would; what it had started notices within a second."""
        assert self._superlink is not None
        self._superlink.kill()
        self._superlink.wait()

    def register(self, node: Node) -> None:
        """Make a node's keys, and tell the SuperLink the public one."""
        node.keys = make_node_keys(node.folder)
        self.flwr("supernode", "register", str(node.keys.public), "deployment")

    def start(self, node: Node, *, authority: Path | None = None) -> None:
        """Start a SuperNode; it need not be registered, and may be given another authority to trust.

        It is handed its keys, the authority's certificate, its data and the catalogue: all that is its own.
        """
        command = ["flower-supernode", "--superlink", self.address, "--port", str(free_port())]
        command += ["--root-certificates", str(authority or self.tls.authority)]
        if node.keys is not None:
            command += ["--auth-supernode-private-key", str(node.keys.private)]
        command += ["--node-config", " ".join(f"{name}={json.dumps(value)}" for name, value in node.config.items())]
        node.process = self._begin(command, node.folder, node.folder / "supernode.log")

    def kill(self, node: Node) -> None:
        """End a SuperNode without letting it say goodbye; what it had started notices within a second."""
        assert node.process is not None
        node.process.kill()
        node.process.wait()

    def wait_for_nodes(self, number: int) -> None:
        """Until so many nodes are online.

        Raises:
            RunError: if they are not in time, or one of them ended.
        """
        for node in self.nodes:
            log = node.folder / "supernode.log"
            self._await(lambda node=node: "SuperNode ID" in node.log, f"{node.folder.name}", node.process, log)  # type: ignore[misc]
        online = self.online()
        if len(online) < number:
            raise RunError(f"{len(online)} of {number} SuperNodes are online; see the logs in {self.folder}")

    def online(self) -> list[str]:
        """The ids of nodes that the SuperLink hears of, in order."""
        said = json.loads(self.flwr("supernode", "list", "deployment", "--format", "json"))
        return sorted(node["node-id"] for node in said["nodes"] if node["status"] == "online")

    def flwr(self, *arguments: str) -> str:
        """What a command of Flower's says on standard output.

        Raises:
            RunError: if it fails.
        """
        done = subprocess.run(
            [*_tool("flwr"), *arguments], env=self.environment(self.home), capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())
            raise RunError(f"flwr {' '.join(arguments)}: failed with {said or 'no message'}")
        return done.stdout

    def environment(self, home: Path) -> dict[str, str]:
        """For a process of the deployment; tools of this interpreter are found first."""
        own = environment() | {MARK: self._mark, "FLWR_HOME": str(home), "FLWR_DISABLE_UPDATE_CHECK": "1"}
        own["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = "0.1"  # seconds; its second is long beside a small round
        return own | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", "")])}

    def processes(self) -> list[psutil.Process]:
        """Everything alive that this deployment started, and all that was started by that."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile, or is somebody else's
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return [process for process in found if process.pid != os.getpid()]

    def stop(self) -> None:
        """End everything: nodes, then the SuperLink, then whatever they left."""
        own = [node.process for node in self.nodes] + [self._superlink]
        running = [process for process in own if process is not None and process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        psutil.wait_procs(self.processes(), timeout=1.0)
        while left := self.processes():
            for straggler in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    straggler.kill()
            psutil.wait_procs(left, timeout=1.0)
        for process in running:
            process.wait()

    def _begin(self, command: Sequence[str], home: Path, log: Path) -> subprocess.Popen[bytes]:
        """Start a process of the deployment in a session of its own, so that Ctrl-C reaches this script alone."""
        home.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as said:
            return subprocess.Popen(
                [*_tool(command[0]), *command[1:]],
                cwd=home,
                env=self.environment(home),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def _answers(self) -> bool:
        trusted = ssl.create_default_context(cafile=str(self.tls.authority))
        try:
            with urllib.request.urlopen(f"https://{self.address}/health", timeout=2.0, context=trusted) as reply:
                return bool(reply.status == 200)
        except OSError:  # nobody listens yet
            return False

    def _await(self, ready: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None, log: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process is not None and process.poll() is not None:
                raise RunError(f"{what} ended with {process.returncode} before it was ready; see {log}")
            if time.monotonic() > deadline:
                raise RunError(f"{what} is not ready after {START_SECONDS:.0f} s; see {log}")
            time.sleep(0.1)


def _tool(name: str) -> list[str]:
    """A command of this interpreter's environment, whatever comes first in the caller's PATH."""
    return [str(Path(sys.executable).parent / name)]


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """Between fork and exec: even if this script is killed outright, what it started is told to end."""
    assert _libc is not None
    _libc.prctl(_DIE_WITH_PARENT, signal.SIGTERM)


def deployed(config: ExperimentConfig, nodes: int, folder: Path) -> tuple[ExperimentConfig, list[Path]]:
    """The experiment as nodes can run it, and their shards, which are dealt if they are not there yet.

    What looks at everyone's data is done before they are dealt: cleaning.

    Args:
        config: what was asked.
        nodes: how many.
        folder: of the shards.
    """
    if not folder.exists():
        shard(load_interactions(config.data)[0], nodes, folder)
    settings = {"kind": "flower", "nodes": nodes, "catalogue": str(folder.resolve() / "catalogue.parquet")}
    engine = EngineConfig.model_validate(config.engine.model_dump() | settings)
    clean = CleaningConfig(invalid=config.data.clean.invalid, duplicates=config.data.clean.duplicates)
    data = config.data.model_copy(update={"clean": clean})
    return (
        config.model_copy(update={"engine": engine, "data": data}),
        [folder / f"node-{number}" for number in range(nodes)],
    )


def run_on(deployment: Deployment, config: ExperimentConfig, out: Path) -> int:
    """Run an experiment on a deployment, or finish its run in a folder, and show what it says; the exit code."""
    asked = deployment.folder / "experiment.toml"
    engine = config.engine.model_copy(update={"superlink": deployment.address})
    asked.write_text(config.model_copy(update={"engine": engine}).to_toml())
    command = ["resume", str(out)] if RunDirectory(out).begun else ["run", str(asked), "--out", str(out)]
    fedrec = [sys.executable, "-m", "fedrec.cli"]
    return subprocess.run([*fedrec, *command], env=deployment.environment(deployment.home), check=False).returncode


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """The first signal ends the run, and what was started; a second one must not keep that from being finished."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Deploy, run, and stop everything."""
    description, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="the experiment, a TOML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in fedrec run")
    parser.add_argument("--nodes", type=int, default=3, help="SuperNodes that the users are dealt to (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("runs/deployed"), help="folder of the run")
    asked = parser.parse_args(arguments)
    place = asked.out.with_name(f"{asked.out.name}-deployment")
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _interrupt)
    try:
        config, shards = deployed(read_config(asked.config, asked.set), asked.nodes, place / "data")
        with Deployment.of(place, shards, place / "data" / "catalogue.parquet") as deployment:
            print(f"{asked.nodes} SuperNodes at {deployment.address}; their logs are in {place}", file=sys.stderr)
            return run_on(deployment, config, asked.out)
    except FedrecError as error:
        print(f"deployment: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("deployment: interrupted; everything is stopped. Give the command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
