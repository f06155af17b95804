from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedrec.errors import RunError
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
    assert found["metrics"]["coverage@5"] == {
        "mean": 0.25,
        "ci95": None,
        "seed_deviation": 0.0,
        "per_seed": [0.25, 0.25],
    }
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


GENDERS = pd.Categorical(["M"] * 30 + ["F"] * 30 + ["X"] * 3 + [None] * 2, categories=["X", "M", "F", "unused"])


def of_genders(women: float) -> tuple[Result, pd.DataFrame]:
    """What an arm came to that gives men .7 and .5 in turn, women that and more, and everyone else 1."""
    of_users = [0.6 + 0.1 * (-1) ** user + women * (user >= 30) for user in range(60)] + [1.0] * 5
    facts, _ = result([sum(of_users) / 65] * 8)
    users = [f"u{user}" for user in range(65)]
    return facts, pd.DataFrame({"user": users, "ndcg@5": of_users, "group:gender": GENDERS})


def test_groups_have_intervals_over_their_users_and_a_gap_beside_that_of_chance(config: ExperimentConfig) -> None:
    """Two seeds, in which women gain .2 and lose nothing: the gap is that of users' means, .1."""
    found = summarise({"arm": {3: of_genders(0.2), 5: of_genders(0.0)}}, config)["arms"]["arm"]
    assert list(found["metrics"]) == ["ndcg@5", "coverage@5"]  # a column of groups is no metric
    gender = found["groups"]["gender"]
    assert {label: group["users"] for label, group in gender["groups"].items()} == {"X": 3, "M": 30, "F": 30}
    assert [group["mean"] for group in gender["groups"].values()] == pytest.approx([1.0, 0.6, 0.7])
    low, high = gender["groups"]["F"]["ci95"]
    assert 0.65 < low < 0.69 < 0.71 < high < 0.75  # .1 / √30 = .018 is the standard error
    assert gender["groups"]["X"]["ci95"] == pytest.approx([1.0, 1.0])
    assert gender["gap"]["value"] == pytest.approx(0.1)  # X has too few users
    assert gender["gap"]["by_chance"] < 0.04
    assert gender["gap"]["p"] < 0.01


def test_a_gap_that_is_no_gap_says_so(config: ExperimentConfig) -> None:
    gap = summarise({"arm": {3: of_genders(0.0), 5: of_genders(0.0)}}, config)["arms"]["arm"]["groups"]["gender"]["gap"]
    assert gap["value"] == pytest.approx(0.0, abs=1e-9)
    assert gap["p"] == 1.0


def test_users_in_another_order_are_refused(config: ExperimentConfig) -> None:
    arms: dict[str, ArmResults] = {arm: {seed: result([0.1] * 8) for seed in (3, 5)} for arm in ("a", "b")}
    facts, table = arms["b"][5]
    arms["b"] = {**arms["b"], 5: (facts, table[::-1].reset_index(drop=True))}
    with pytest.raises(RunError, match=r"^arms\.b, seed 5: .* not those of arms\.a, seed 3, .* delete arms/b/seed-5"):
        summarise(arms, config)


def test_floats_read_back_exactly(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, -0.0, 943.0, 2 / 3]
    write_csv(tmp_path / "t.csv", ("name", "value"), [("a,b", value) for value in values])
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[:2] == ["name,value", '"a,b",0.30000000000000004']
    assert [repr(float(line.rsplit(",", 1)[1])) for line in lines[1:]] == [repr(value) for value in values]
