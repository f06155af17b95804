"""simulations/deployment.py leaves nothing behind, however it ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from simulations.deployment import MARK
from simulations.processes import environment
from tests.deployment.conftest import PATIENCE, asked, until

pytestmark = pytest.mark.deployment


def left_of(folder: Path) -> list[psutil.Process]:
    """Processes of deployments in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            known = process.environ()
            own = MARK in known and known.get("FLWR_HOME", "").startswith(str(folder))
            if own and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_whatever_ends_the_script_ends_all_that_it_started(tmp_path: Path, ending: signal.Signals, code: int) -> None:
    """Interrupted while it starts, while a run is on, and killed outright, which the processes notice themselves."""
    config = tmp_path / "asked.toml"
    config.write_text(asked(2).to_toml())
    script = str(Path(__file__).parents[2] / "simulations" / "deployment.py")
    command = [sys.executable, script, str(config), "--nodes", "1", "--out", str(tmp_path / "run")]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=environment(), stdout=said, stderr=said)
        started = 2 if ending == signal.SIGINT else 4  # SuperLink, SuperNode, and what starts apps for each
        until(lambda: len(left_of(tmp_path)) >= started, "the processes")
        process.send_signal(ending)
        assert process.wait(PATIENCE) == code
        until(lambda: not left_of(tmp_path), "everything to end")
        said.seek(0)
        assert (b"everything is stopped" in said.read()) == (code == 130)
