"""Giving an experiment to a SuperLink, of which a script stands in for Flower's command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedrec.errors import ConfigError, RunError
from fedrec.flower.submit import submit


@pytest.fixture
def flwr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands in for it, beside the interpreter."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "flwr"
    script.touch(0o755)
    return script


def test_what_the_run_says_is_passed_on_as_it_comes(flwr: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "run", list[str]()
    flwr.write_text(
        f"""#!/bin/sh
grep -q 'experiment = "the text"' "$2/pyproject.toml" || exit 4
echo "fedrec: federated, seed 0"
while [ ! -e {tmp_path}/heard ]; do sleep 0.01; done
echo "fedrec: round 1 of 1, 3 nodes" >&2
mkdir {out} && echo "{{}}" > {out}/summary.json
"""
    )

    def tell(line: str) -> None:
        said.append(line)
        (tmp_path / "heard").touch()

    submit("the text", "127.0.0.1:9093", out, tell)
    assert said == ["fedrec: federated, seed 0", "fedrec: round 1 of 1, 3 nodes"]


@pytest.mark.parametrize("code", [0, 3])
def test_a_run_that_did_not_finish_says_how_to_go_on(flwr: Path, tmp_path: Path, code: int) -> None:
    flwr.write_text(f"#!/bin/sh\nexit {code}\n")
    with pytest.raises(RunError, match=f"did not finish; .* goes on with: fedrec resume {tmp_path / 'run'}"):
        submit("the text", "127.0.0.1:9093", tmp_path / "run", print)


def test_whoever_stops_listening_stops_the_command(flwr: Path, tmp_path: Path) -> None:
    flwr.write_text("#!/bin/sh\necho begun\nexec sleep 60\n")

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt, match="begun"):  # and not a minute later
        submit("the text", "127.0.0.1:9093", tmp_path / "run", interrupted)


def test_another_machine_takes_a_connection(flwr: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another machine is reached with TLS"):
        submit("the text", "198.51.100.7:9093", tmp_path / "run", print)
    with pytest.raises(ConfigError, match="no connection of that name"):
        submit("the text", "ours", tmp_path / "run", print)
