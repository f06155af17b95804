"""The traffic simulation runs, and its megabytes are those that the queries' shapes say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrec.errors import ConfigError
from fedrec.experiment import RunDirectory
from simulations import traffic


def test_traffic_prints_a_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "synthetic", "--rounds", "2", "--refresh", "1", "2", "--steps", "1", "--shares", ".5"]
    arguments += ["--out", str(tmp_path)]
    traffic.main(arguments)
    assert "refresh-2" in capsys.readouterr().out
    directory = RunDirectory(tmp_path)
    looks = traffic.curves(directory)
    rows = traffic.table(directory, looks)
    assert list(rows.index) == ["refresh-1", "refresh-2", "steps-1", "share-50"]
    assert len(looks) == 8
    down = rows["kB down a round"]
    table = down["steps-1"] / 2  # of width 64: one to train on, and one to validate
    assert down["refresh-1"] == pytest.approx(6 * table, rel=1e-3)  # L = 2: 2L + 1, and one more to validate
    assert down["refresh-2"] == pytest.approx(4 * table, rel=1e-3)  # five and then one
    assert 1.3 * table < down["share-50"] < 1.7 * table  # 400 draws at one half: wrong once in 10^15 seeds
    assert (tmp_path / "traffic.png").stat().st_size > 1000
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        traffic.main([*arguments, "--seeds", "1"])
