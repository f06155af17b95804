"""Simulations run, say what they found, and go on where they were interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrec.errors import ConfigError
from fedrec.experiment import RunDirectory
from simulations import audit_power, dropouts, silos


def test_dropouts_prints_a_table_and_draws_and_does_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", "synthetic", "--rounds", "3", "--rates", "0.5", "--delay", "1", "--out", str(tmp_path)]
    dropouts.main(arguments)
    printed = capsys.readouterr().out
    assert "late-folded-50" in printed
    rows = dropouts.table(RunDirectory(tmp_path))
    assert rows.loc["nobody-fails", "answered"] == 200
    # 3 rounds of 200 clients at one half: deviation 4.1 of a mean; five of them are wrong once in 1.7 million seeds.
    assert ((rows.loc[rows.index != "nobody-fails", "answered"] - 100).abs() < 5 * 4.1).all()
    assert list(rows.index[rows["late"] > 0]) == ["late-folded-50"]
    assert (tmp_path / "dropouts.png").stat().st_size > 1000
    dropouts.main(arguments)
    assert capsys.readouterr().out == printed
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        dropouts.main([*arguments, "--seeds", "1"])


def test_silos_change_nothing_with_one_local_step_and_cost_less(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silos.main(["--data", "synthetic", "--rounds", "2", "--steps", "1", "--silos", "2", "--out", str(tmp_path)])
    assert "louvain-2-E1" in capsys.readouterr().out
    rows = silos.table(RunDirectory(tmp_path))
    assert len(rows) == 5
    assert rows["NDCG@10"].max() - rows["NDCG@10"].min() < 0.02  # the same sum, but for rounding and Adam's epsilon
    assert rows["drift"].between(0, 1).all()
    few, many = rows[rows["clients"] == 2], rows[rows["clients"] == 200]
    assert few["drift"].max() < many["drift"].min()
    assert few["MB down"].max() < many["MB down"].min() / 50
    assert (tmp_path / "silos.png").stat().st_size > 1000


def test_an_audit_notices_a_tenth_of_the_noise_and_nothing_where_none_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    audit_power.main(["--left", "0.1", "1", "--canaries", "500", "--runs", "500", "--audits", "5"])
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| noise left | ε | one run of 500 | 500 runs |"
    assert table[2].endswith("| 100%, 100% | 100%, 100% |")
    # μ / .1 = 2.68, of which ε at δ = 1e-5 is 14.4.
    assert table[2].startswith("| 0.10 | 14.4")
    # Each bound is wrong in 5% of audits at most, and by far less where so few guesses count.
    assert table[3] == "| 1.00 | 1.00 | 0%, 0% | 0%, 0% |"
