"""Runtimes come to one sum, and one that does not is named."""

from __future__ import annotations

import pytest

from simulations import bench_runtimes


def test_one_user_a_node_is_measured_beside_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_runtimes.main(["--data", "synthetic", "--rounds", "1", "--runtimes", "one-user"]) == 0
    said = capsys.readouterr().out
    assert "200 users" in said
    assert "the same sums everywhere" in said


def test_another_sum_is_named() -> None:
    rows = bench_runtimes.measure(bench_runtimes.config_of("synthetic", []), 1, ["one-user"])
    assert rows.loc["one-user", "nodes"] == 200
    assert bench_runtimes.verdict(rows) == []
    rows.loc["one-user", "difference"] = 1e-3
    assert bench_runtimes.verdict(rows) == ["one-user comes to another sum: 1.0e-03 of the largest entry apart"]
