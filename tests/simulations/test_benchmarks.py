"""Benchmarks come to one sum by every way, and say what falls short."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from simulations import bench_round, contenders, scale


def test_the_contenders_come_to_the_same_sums(tmp_path: Path) -> None:
    contenders.Problem.of("synthetic").save(tmp_path)
    problem = contenders.Problem.load(tmp_path)
    assert (problem.query.items.shape[1], problem.query.negatives, problem.query.steps) == (64, 4, 1)
    for contender in ("local", "loop"):
        contenders.main([contender, str(tmp_path), "--rounds", "2", "--cores", "1"])
        assert len(json.loads((tmp_path / f"{contender}.json").read_text())["seconds"]) == 2
    assert bench_round.largest_difference(tmp_path, "loop") < 1e-5
    sums = torch.load(tmp_path / "loop.pt")["sums"]
    assert (sums[0] - sums[1]).abs().max() > 1e-3  # the users remember, and draw other negatives
    torch.save({"sums": sums * 1.01}, tmp_path / "loop.pt")
    assert bench_round.largest_difference(tmp_path, "loop") == pytest.approx(0.01, rel=1e-3)


def test_what_falls_short_of_a_bar_is_named(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"seconds": [0.1, 0.3, 11.0], "times local": [1.0, 3.0, 110.0], "difference": [0.0, 0.0, float("nan")]},
        index=["local", "loop", "flower"],
    )
    slow, apart = bench_round.verdict(rows)
    assert slow == "local is 3.0 times as fast as loop, and should be 4 times"
    assert apart.startswith("flower comes to another sum")
    rows["times local"], rows["difference"] = [1.0, 4.0, 100.0], 1e-5
    assert bench_round.verdict(rows) == []
    bench_round.draw(rows, "three bars", tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 1000


def test_a_size_is_measured_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--here", "--clients", "300", "--items", "200", "--dim", "4", "--cores", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clients"] == 300
    assert 15 * 300 < found["interactions"] < 25 * 300
    assert found["held MB"] == pytest.approx((8 * (300 + 301 + found["interactions"]) + 2 * 300 * 4 * 4) / 1e6)
    assert found["peak MB"] > 50
    scale.draw(pd.DataFrame([found, found | {"clients": 600}]), tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 1000
