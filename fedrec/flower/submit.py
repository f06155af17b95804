"""Giving an experiment to a SuperLink: an app folder, and `flwr run` on it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tomli_w

from fedrec import __version__
from fedrec.errors import ConfigError, RunError

CONNECTION = "fedrec"


def write_app(folder: Path, experiment: str, out: str = "") -> None:
    """Write an app folder: what `flwr run` sends to a SuperLink, and the SuperLink to its nodes.

    It holds no code. The apps are those of the fedrec that is installed there, and the experiment is in the app's
    configuration, which `--run-config` overrides.

    Args:
        folder: to write.
        experiment: the text of a TOML file.
        out: the run directory, on the SuperLink's machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    app = {
        "publisher": "fedrec",
        "components": {"serverapp": "fedrec.experiment.apps:server", "clientapp": "fedrec.flower.node_app:client"},
        "config": {"experiment": experiment, "set": "", "out": out},
    }
    project = {
        "name": "fedrec-experiment",
        "version": __version__,
        "description": "An experiment of fedrec",
        "license": {"text": "Apache-2.0"},
        "dependencies": [],
    }
    (folder / "pyproject.toml").write_text(tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}}))


def submit(experiment: str, superlink: str, out: Path, tell: Callable[[str], None]) -> None:
    """Give an experiment to a SuperLink and pass on what it says, until it is done.

    Args:
        experiment: the text of a TOML file.
        superlink: the SuperLink's address, "host:port", or the name of a connection in Flower's configuration. An
            address that a connection there has is reached as it says (with its certificates); on this machine any other
            is reached without TLS.
        out: the run directory, on the SuperLink's machine.
        tell: is told of each line that the run says, as it comes.

    Raises:
        ConfigError: if there is no such connection, or the address is another machine's and no connection has it.
        RunError: if the run failed; what it said stands above.
    """
    home = Path(os.environ.get("FLWR_HOME", Path.home() / ".flwr"))
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": os.environ.get("FLWR_TELEMETRY_ENABLED", "0")}
    with tempfile.TemporaryDirectory() as temporary:
        write_app(Path(temporary) / "app", experiment, str(out.resolve()))
        name = _connection(superlink, home)
        if name is None:
            environment["FLWR_HOME"] = str(Path(temporary) / "home")
            _write_connection(Path(temporary) / "home", superlink)
            name = CONNECTION
        flwr = str(Path(sys.executable).parent / "flwr")
        command = [flwr, "run", str(Path(temporary) / "app"), name, "--stream"]
        code = _told(command, {**environment, "PYTHONUNBUFFERED": "1"}, tell)
    if code or not (out / "summary.json").exists():
        raise RunError(
            f"the run on {superlink} did not finish; its log above says why. Once begun it goes on with: "
            f"fedrec resume {out}; otherwise give it again"
        )


def _told(command: Sequence[str], environment: Mapping[str, str], tell: Callable[[str], None]) -> int:
    """Run a command, pass on its lines, and give its exit code."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                tell(line.rstrip("\n"))
        except BaseException:  # as `subprocess.run` does; whatever it was, nobody listens any more
            process.kill()
            raise
    return process.returncode


def _connection(superlink: str, home: Path) -> str | None:
    """The connection in Flower's configuration that is meant; None if an address has none and needs none.

    Raises:
        ConfigError: if it is needed.
    """
    connections = _connections(home)
    if superlink in connections:
        return superlink
    for name, connection in connections.items():
        if connection.get("address") == superlink:
            return name
    host = superlink.rpartition(":")[0]
    if not host:
        raise ConfigError(
            f"engine.superlink = '{superlink}': no connection of that name in {home / 'config.toml'}; write one, or "
            "give an address, host:port"
        )
    if host not in ("127.0.0.1", "localhost", "[::1]"):
        raise ConfigError(
            f"engine.superlink = '{superlink}': another machine is reached with TLS; write its address and "
            f"root-certificates into {home / 'config.toml'}, as [superlink.NAME]"
        )
    return None


def _connections(home: Path) -> Mapping[str, Mapping[str, object]]:
    path = home / "config.toml"
    if not path.exists():
        return {}
    try:
        found = tomllib.loads(path.read_text()).get("superlink", {})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); correct it") from error
    return {name: value for name, value in found.items() if isinstance(value, dict)}


def _write_connection(home: Path, address: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    connection = {"address": address, "insecure": True}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}}))
