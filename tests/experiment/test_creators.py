"""The script that says who pays among creators: its values are those of the run's metrics, with intervals."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch

from fedrec.errors import RunError
from fedrec.experiment import read_config, run
from tests.evaluation.small import split_of
from tests.scripts import imported

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
USERS, ITEMS, EACH = 60, 48, 10
MEASURES = ("provider-recall@10", "exposure-lift@10", "ndcg-contribution@10")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported(monkeypatch, EXPERIMENTS, "creators", "against_epsilon")


def a_run(folder: Path, authors: list[str]) -> Path:
    """Popularity and iALS, bare and private, two seeds; the first videos are watched most."""
    draw = np.random.default_rng(0)
    weight = 1.0 / (3.0 + np.arange(ITEMS))
    watched = [draw.choice(ITEMS, EACH, replace=False, p=weight / weight.sum()) for _ in range(USERS)]
    pairs = [(f"u{user}", f"v{item}", time) for user in range(USERS) for time, item in enumerate(watched[user])]
    pd.DataFrame(pairs, columns=["user", "item", "time"]).to_csv(folder / "watched.csv", index=False)
    videos = pd.DataFrame({"item": [f"v{item}" for item in range(ITEMS)], "author": authors})
    videos.to_csv(folder / "videos.csv", index=False)
    methods = {
        "popularity": {"kind": "popularity"},
        "ials": {"kind": "ials", "rounds": 2, "dim": 4, "stopping": {"patience": 0}},
    }
    bare = [{"name": name, "method": method} for name, method in methods.items()]
    private = [
        {**arm, "name": f"private-{arm['name']}", "privacy": {"epsilon": [8.0, 1.0], "delta": 1e-3}} for arm in bare
    ]
    config = {
        "name": "tiny",
        "seeds": [0, 1],
        "data": {
            "path": str(folder / "watched.csv"),
            "columns": {"user": "user", "item": "item", "time": "time"},
            "items": "videos.csv",
            "split": {"kind": "leave-one-out"},
        },
        "evaluation": {"k": [10], "metric": "ndcg@10", "bootstrap": 100, "item_groups": ["author-size"]},
        "arms": [*bare, *private],
    }
    (folder / "tiny.toml").write_text(tomli_w.dumps(config))
    return run(read_config(folder / "tiny.toml"), folder / "run")


def call(script: ModuleType, patch: pytest.MonkeyPatch, *arguments: str) -> None:
    patch.setattr(sys, "argv", ["creators.py", *arguments])
    script.main()


def test_values_are_those_of_the_metrics_and_lie_in_their_intervals(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two videos are of two authors of unlike size."""
    authors = ["big"] * 5 + [f"mid{item % 6}" for item in range(5, 30)] + [f"one{item}" for item in range(30, ITEMS)]
    authors[3], authors[20] = "big|mid1", "mid2|one47"
    finished = a_run(tmp_path, authors)
    capsys.readouterr()
    call(script, monkeypatch, str(finished), str(tmp_path / "out"), "--column", "author")
    found = pd.read_csv(tmp_path / "out" / "creators.csv")
    assert len(found) == 2 * 3 * 3 * 3  # methods, guarantees, groups, measures
    assert set(found["group"]) == {"small", "middle", "large"}

    metrics = pd.read_csv(finished / "metrics.csv", keep_default_na=False)
    metrics = metrics[(metrics["split"] == "test") & metrics["metric"].isin(MEASURES)]
    wanted = metrics.groupby(["arm", "group", "metric"])["value"].mean()
    for row in found.to_dict("records"):
        arm = row["method"] if math.isinf(row["epsilon"]) else f"private-{row['method']}-eps{row['epsilon']:g}"
        assert row["mean"] == pytest.approx(wanted[arm, f"author-size={row['group']}", row["measure"]], abs=1e-6)
        assert row["low"] <= row["mean"] <= row["high"]
    assert (found["low"] < found["high"]).mean() > 0.5

    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("|  | ε | recall@10, small |")
    assert [row.split(" | ")[:2] for row in rows] == [
        [f"| `{method}`", epsilon] for method in ("popularity", "ials") for epsilon in ("∞", "8", "1")
    ]
    assert "%" not in rows[0]  # of what there is without a guarantee nothing is kept or lost
    assert "% [" in rows[1]
    picture = (tmp_path / "out" / "creators.svg").read_text()
    assert all(f"{size} creators" in picture for size in ("small", "middle", "large"))

    (tmp_path / "videos.csv").write_text((tmp_path / "videos.csv").read_text().replace("one47", "big"))
    with pytest.raises(RunError, match="the attributes of users or items changed since the run began"):
        call(script, monkeypatch, str(finished), str(tmp_path / "out"), "--column", "author")


def test_a_size_that_nobody_has_is_left_blank(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One author has nearly all that was watched, so that nobody is in the middle."""
    finished = a_run(tmp_path, ["big"] * 40 + [f"one{item}" for item in range(40, ITEMS)])
    capsys.readouterr()
    call(script, monkeypatch, str(finished), str(tmp_path / "out"), "--column", "author")
    found = pd.read_csv(tmp_path / "out" / "creators.csv")
    assert found.notna().all().all()
    assert set(found.loc[found["group"] == "middle", "measure"]) == {"ndcg-contribution@10"}
    assert set(found.loc[found["group"] == "large", "measure"]) == set(MEASURES)
    for row in capsys.readouterr().out.splitlines()[2:]:
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert [cells[place] for place in (3, 6, 9)] == ["", "", ""]  # recall, kept and lift of the middle
        assert "nan" not in row


def test_what_nobody_trained_on_has_no_lift(script: ModuleType) -> None:
    """a is large and b in the middle; c is small, and shown all the same."""
    pairs: tuple[list[tuple[int, int]], ...] = ([(0, 0), (1, 0), (2, 1)], [], [(0, 1), (1, 2), (2, 0)])
    test = script.Test.of(split_of(3, 3, *pairs, items={"author": ["a", "b", "c"]}), "author")
    found = test.estimates(torch.ones(3, 4, 3, dtype=torch.float64))
    lift = found["exposure-lift"]
    assert lift[:, 0].isnan().all()
    assert lift[:, 1:].tolist() == [pytest.approx([1.0, 0.5])] * (1 + script.RESAMPLES)  # 1/3 over 1/3, and over 2/3
    assert not found["provider-recall"].isnan().any()


def test_resamples_in_which_nobody_wants_a_group_are_left_out(script: ModuleType) -> None:
    values = torch.cat([torch.tensor([7.0, math.nan, math.nan]), torch.arange(41.0)]).double()
    assert script.interval(values) == pytest.approx((7.0, 1.0, 39.0))
