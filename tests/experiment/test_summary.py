from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedrec.evaluation import holm
from fedrec.experiment import ExperimentConfig, Result
from fedrec.experiment.summary import ArmResults, summarise, write_csv
from tests.experiment.tiny import experiment

USERS = [f"u{user}" for user in range(8)]


def result(of_users: list[float], **changes: Any) -> tuple[Result, pd.DataFrame]:
    """What an arm came to whose users had these values of ndcg@5."""
    facts: dict[str, Any] = {
        "metrics": [
            ("test", "ndcg@5", "", sum(of_users) / len(of_users)),
            ("test", "ndcg@5", "gender=F", 0.9),
            ("test", "coverage@5", "", 0.25),
            ("valid", "ndcg@5", "", 0.7),  # whatever the order of rows, this is not the test
        ],
        "history": [],
        "guarantee": None,
        "communication": None,
        "seconds": 1.0,
    }
    return Result(**facts | changes), pd.DataFrame({"user": USERS, "ndcg@5": of_users})


@pytest.fixture
def config() -> ExperimentConfig:
    """Seeds 3 and 5, of which the summary takes nothing but the seeds and the evaluation."""
    return ExperimentConfig.read(experiment(Path("ratings.csv")))


def test_an_arm_is_the_mean_of_its_seeds(config: ExperimentConfig) -> None:
    cost = {"mb_up_per_user": 1.0, "mb_down_per_user": 2.0}
    arm: ArmResults = {
        3: result([1.0] * 4 + [0.0] * 4, seconds=2.0, communication=cost | {"rounds": 10}),
        5: result([0.5] * 8, seconds=4.0, communication=cost | {"rounds": 20}),
    }
    summary = summarise({"arm": arm}, config)
    assert summary["metric"] == "ndcg@5"
    assert summary["tests"] == []
    found = summary["arms"]["arm"]
    assert found["seconds"] == 3.0
    assert found["communication"] == {"rounds": 15.0, "mb_up_per_user": 1.0, "mb_down_per_user": 2.0}
    assert found["metrics"]["coverage@5"] == {"mean": 0.25, "ci95": None, "per_seed": [0.25, 0.25]}
    ndcg = found["metrics"]["ndcg@5"]
    assert (ndcg["mean"], ndcg["per_seed"]) == (0.5, [0.5, 0.5])
    low, high = ndcg["ci95"]
    assert 0.25 <= low < 0.5 < high <= 0.75  # a user's values are averaged over seeds first: .75 or .25


def test_p_values_are_corrected_for_the_number_of_pairs(config: ExperimentConfig) -> None:
    values = {"a": 0.9, "b": 0.8, "c": 0.1}
    arms = {
        arm: {seed: result([value + 0.01 * user * (arm == "b") for user in range(8)]) for seed in (3, 5)}
        for arm, value in values.items()
    }
    tests = summarise(arms, config)["tests"]
    assert [(test["a"], test["b"]) for test in tests] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [test["difference"] for test in tests] == pytest.approx([0.9 - 0.835, 0.8, 0.735])
    assert [test["users"] for test in tests] == [8, 8, 8]  # two seeds are no further users
    for p in ("p_bootstrap", "p_wilcoxon"):
        corrected = [test[f"{p}_holm"] for test in tests]
        assert corrected == holm([test[p] for test in tests])
        assert corrected != [test[p] for test in tests]


def test_floats_read_back_exactly(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, -0.0, 943.0, 2 / 3]
    write_csv(tmp_path / "t.csv", ("name", "value"), [("a,b", value) for value in values])
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[:2] == ["name,value", '"a,b",0.30000000000000004']
    assert [repr(float(line.rsplit(",", 1)[1])) for line in lines[1:]] == [repr(value) for value in values]
