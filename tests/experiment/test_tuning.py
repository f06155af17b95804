"""Tuning: the trial log, the choice, what is refused, and death at any moment."""

from __future__ import annotations

import csv
import inspect
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w

from fedrec.data import load_split
from fedrec.errors import ConfigError, DataError, FedrecError, ModelError, RunError
from fedrec.evaluation import make_validator
from fedrec.experiment import ExperimentConfig, RunDirectory, Step, read_config, resume, run
from fedrec.experiment.tuning import tune
from fedrec.recommenders import Training
from tests.experiment.dying import Killed, killed_at_write
from tests.experiment.own import Hill, HillConfig
from tests.experiment.tiny import experiment, write_ratings

HILL: dict[str, Any] = {"name": "hill", "method": {"kind": "tests.experiment.own:Hill"}}
CENTRAL: dict[str, Any] = {
    "name": "central",
    "method": {"kind": "lightgcn", "dim": 4, "epochs": 6, "stopping": {"every": 1, "patience": 5}},
    "tune": {"trials": 5, "space": {"rate": {"log-uniform": [1e-4, 1.0]}, "dim": [2, 4]}},
}
PRIVATE: dict[str, Any] = {
    "name": "private",
    "method": {"kind": "spectral", "factors": 3},
    "privacy": {"epsilon": 8.0, "delta": 1e-3},
    "tune": {"space": {"factors": [2, 3]}},
}
POPULARITY: dict[str, Any] = {"name": "popularity", "method": {"kind": "popularity"}}


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(tmp_path_factory.mktemp("tuning") / "ratings.csv")


def config_of(ratings: Path, *arms: dict[str, Any], tune: dict[str, Any] | None, **changes: Any) -> ExperimentConfig:
    sections = {"arms": list(arms), "seeds": [3, 5]} | ({} if tune is None else {"tune": tune}) | changes
    return ExperimentConfig.read(experiment(ratings, **sections))


@pytest.fixture(scope="module")
def config(ratings: Path) -> ExperimentConfig:
    return config_of(ratings, HILL, POPULARITY, CENTRAL, tune={"sampler": "tpe", "trials": 6})


@pytest.fixture(scope="module")
def finished(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(config, tmp_path_factory.mktemp("tuning") / "run")


def log_of(path: Path, arm: str) -> list[dict[str, str]]:
    with (path / "arms" / arm / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_log_has_every_trial_and_its_value_is_that_of_validation(finished: Path, config: ExperimentConfig) -> None:
    log = log_of(finished, "hill")
    assert list(log[0]) == ["number", "state", "value", "best_step", "method.x", "note"]
    assert [row["number"] for row in log] == [str(number) for number in range(6)]
    assert float(log[0]["method.x"]) == 0.0  # its own settings first
    split = load_split(config.data, 3).split
    validator = make_validator(split, config.evaluation, 3)
    assert validator is not None
    for row in log:
        model = Hill(HillConfig(x=float(row["method.x"])))
        model.fit(split.train, Training())
        assert float(row["value"]) == validator(model.score)


def test_the_best_by_validation_is_fitted_with_every_seed(finished: Path, config: ExperimentConfig) -> None:
    summary = json.loads((finished / "summary.json").read_text())["arms"]
    assert summary["popularity"]["tuning"] is None
    tuned = read_config(finished / "tuned.toml")
    assert tuned.tune is None
    assert [arm.tune for arm in tuned.arms] == [None] * 3
    metrics = pd.read_csv(finished / "metrics.csv")
    for arm in ("hill", "central"):
        values = [float(row["value"] or "nan") for row in log_of(finished, arm)]
        best = max(range(len(values)), key=lambda number: (values[number] == values[number], values[number], -number))
        found = summary[arm]["tuning"]
        assert (found["chosen"], found["value"], found["metric"]) == (best, values[best], "ndcg@5")
        row = log_of(finished, arm)[best]
        (of_arm,) = (one for one in tuned.arms if one.name == arm)
        for key, value in found["settings"].items():
            assert getattr(of_arm.method.settings, key) == value == float(row[f"method.{key}"])
        valid = metrics[(metrics["arm"] == arm) & (metrics["split"] == "valid")].set_index("seed")["value"]
        assert valid[3] == values[best]  # the seed of the trials gives the trial again
    assert tuned.arms[1] == config.arms[1]


def test_the_tuned_experiment_gives_the_same_numbers_without_tuning(finished: Path, tmp_path: Path) -> None:
    again = run(read_config(finished / "tuned.toml"), tmp_path / "again")
    for name in ("metrics.csv", "history.csv"):
        assert (again / name).read_bytes() == (finished / name).read_bytes()


def test_a_trial_is_stopped_early_and_some_are_given_up(finished: Path) -> None:
    log = log_of(finished, "central")
    assert len(log) == 5  # the arm's own number
    assert {row["state"] for row in log} == {"finished", "pruned"}
    for row in log:
        assert (row["value"] == "") == (row["state"] == "pruned")
        assert row["state"] == "pruned" or 1 <= int(row["best_step"]) <= 6
    assert not list((finished / "arms" / "central" / "trials").glob("*/"))  # no checkpoint is left


def test_no_trial_can_see_the_test_part(ratings: Path, tmp_path: Path) -> None:
    """Structure: `tune` takes no split. And with all test items exchanged, the log is the same bytes."""
    assert "split" not in inspect.signature(tune).parameters
    lines = ratings.read_text().splitlines()
    # Each user's last line is the test item.
    last = {line.split(",")[0]: number for number, line in enumerate(lines)}
    exchanged = list(lines)
    for user, number in last.items():
        if user != "uid":
            own = {line.split(",")[1] for line in lines if line.split(",")[0] == user}
            parts = lines[number].split(",")
            parts[1] = next(item for item in (f"m{n}" for n in range(16)) if item not in own)
            exchanged[number] = ",".join(parts)
    other = tmp_path / "other.csv"
    other.write_text("\n".join(exchanged) + "\n")
    logs = []
    for data in (ratings, other):
        config = config_of(data, HILL, CENTRAL, tune={"sampler": "random", "trials": 4}, seeds=[3])
        path = run(config, tmp_path / data.stem)
        logs.append([(path / "arms" / arm / "trials.csv").read_bytes() for arm in ("hill", "central")])
        assert len(pd.read_parquet(path / "split" / "test.parquet")) == 24
    tests = [
        pd.read_parquet(tmp_path / stem / "split" / "test.parquet")["item"].tolist() for stem in ("ratings", "other")
    ]
    assert tests[0] != tests[1]
    assert logs[0] == logs[1]


def test_settings_that_were_tried_are_not_tried_again(ratings: Path, tmp_path: Path) -> None:
    hill = HILL | {"tune": {"space": {"x": [0.0, 0.5]}}}
    path = run(config_of(ratings, hill, tune={"sampler": "random", "trials": 5}, seeds=[0]), tmp_path / "run")
    log = log_of(path, "hill")
    assert sum(row["note"] == "" for row in log) == 2
    assert {row["note"] for row in log} <= {"", "as trial 0", "as trial 1", "as trial 2", "as trial 3"}
    assert len({(row["method.x"], row["value"]) for row in log}) == 2


def test_the_value_is_the_mean_over_tuning_seeds(ratings: Path, tmp_path: Path) -> None:
    values = []
    for number, (of_all, of_arm) in enumerate([([3], None), ([5], None), ([3, 5], None), ([7], [3, 5])]):
        tune = {"space": {"value": [1.0]}} | ({} if of_arm is None else {"seeds": of_arm})
        # All its scores are equal, and the seed orders ties.
        tied = {"name": "tied", "method": {"kind": "tests.experiment.own:Constant"}, "tune": tune}
        config = config_of(ratings, tied, tune={"trials": 1, "seeds": of_all}, seeds=[0])
        path = run(config, tmp_path / str(number))
        values.append(float(log_of(path, "tied")[0]["value"]))
        summary = json.loads((path / "summary.json").read_text())["arms"]["tied"]["tuning"]
        assert summary["seeds"] == (of_arm or of_all)
    assert values[0] != values[1]
    assert values[2] == values[3] == pytest.approx((values[0] + values[1]) / 2)


def test_a_trial_that_diverges_fails_and_the_search_goes_on(ratings: Path, tmp_path: Path) -> None:
    hill = HILL | {"method": HILL["method"] | {"cliff": 0.5}, "tune": {"space": {"x": [0.9, 0.1, 0.7]}}}
    path = run(config_of(ratings, hill, tune={"sampler": "grid"}, seeds=[0]), tmp_path / "run")
    log = log_of(path, "hill")
    assert [row["state"] for row in log] == ["failed", "finished", "failed"]
    assert log[0]["note"] == "the hill ends here; go back"
    found = json.loads((path / "summary.json").read_text())["arms"]["hill"]["tuning"]
    assert (found["chosen"], found["finished"], found["failed"]) == (1, 1, 2)
    nowhere = hill | {"tune": {"space": {"x": [0.9, 0.7]}}}
    with pytest.raises(
        ModelError, match=r"arms\.hill, tuning: none of 2 trials was finished \(the first: the hill ends"
    ):
        run(config_of(ratings, nowhere, tune={"sampler": "grid"}, seeds=[0]), tmp_path / "nowhere")
    assert len(log_of(tmp_path / "nowhere", "hill")) == 2


def test_settings_that_the_data_do_not_allow_end_the_run_and_are_named(
    ratings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DataError("too few users; lower x")

    monkeypatch.setattr(Hill, "fit", refuse)
    with pytest.raises(DataError, match=r"arms\.hill, tuning: trial 0, x = 0\.0: too few users; lower x"):
        run(config_of(ratings, HILL, tune={"trials": 2}), tmp_path / "run")


def test_progress_counts_trials_then_fits(ratings: Path, tmp_path: Path) -> None:
    steps: list[Step] = []
    run(config_of(ratings, HILL, POPULARITY, tune={"trials": 3}, seeds=[0]), tmp_path / "run", steps.append)
    begun = [(step.arm, step.trial, step.job, step.jobs) for step in steps if step.done == 0]
    assert begun == [
        ("hill", 0, 1, 5),
        ("hill", 1, 2, 5),
        ("hill", 2, 3, 5),
        ("hill", None, 4, 5),
        ("popularity", None, 5, 5),
    ]


def test_a_search_killed_again_and_again_ends_in_the_same_bytes(
    finished: Path, config: ExperimentConfig, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    with pytest.raises(Killed), killed_at_write(6):
        run(config, path)
    deaths, died_at = 0, set()
    for number in (4, 2, 13, 3, 8, 11, 1) * 20:
        try:
            with killed_at_write(number):
                resume(path)
        except Killed as death:
            deaths += 1
            died_at.add(Path(str(death)).name)
            continue
        break
    assert deaths > 10
    assert "checkpoint.safetensors" in died_at
    assert any(name.startswith("00") for name in died_at)  # between a trial and its log
    assert RunDirectory(path).finished
    for name in ("metrics.csv", "history.csv", "tuned.toml", "arms/hill/trials.csv", "arms/central/trials.csv"):
        assert (path / name).read_bytes() == (finished / name).read_bytes()


def test_a_damaged_trial_is_said_in_one_line(ratings: Path, tmp_path: Path) -> None:
    config = config_of(ratings, HILL, tune={"trials": 3}, seeds=[0])
    with pytest.raises(Killed), killed_at_write(8):
        run(config, tmp_path / "run")
    (tmp_path / "run" / "arms" / "hill" / "trials" / "0001.json").write_text('{"number": 1}')
    with pytest.raises(RunError, match=r"0001\.json: damaged trial .*; delete it and those after it, then resume"):
        resume(tmp_path / "run")


def test_a_private_arm_is_tuned_only_on_demand_and_says_so(ratings: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"arms\.private: tuning looks at .* say tune\.unpaid = true"):
        config_of(ratings, PRIVATE, tune={})
    assert config_of(ratings, HILL, PRIVATE, tune={"arms": ["hill"]}).searches().keys() == {"hill"}
    config = config_of(ratings, PRIVATE, tune={"unpaid": True, "trials": 2, "sampler": "grid"}, seeds=[0])
    path = run(config, tmp_path / "run")
    guarantee = json.loads((path / "summary.json").read_text())["arms"]["private"]["guarantee"]
    assert guarantee["notes"]["tuning"].startswith("Not paid for: the settings were chosen by 2 trials")
    assert guarantee["words"].endswith(guarantee["notes"]["tuning"])


@pytest.mark.parametrize(
    ("arms", "tune", "said"),
    [
        ([HILL], {"sampelr": "tpe"}, r"tune\.sampelr: unknown key 'sampelr'; did you mean 'sampler'"),
        ([HILL], {"trials": 0}, r"tune\.trials = 0: "),
        ([HILL], {"seeds": []}, r"tune\.seeds = .*: give at least one"),
        ([HILL], {"arms": ["hil"]}, r"tune\.arms: there is no arm 'hil'; did you mean 'hill'"),
        (
            [HILL, POPULARITY],
            {"arms": ["popularity"]},
            r"tune\.arms: arm 'popularity' has no search space; give it one",
        ),
        ([POPULARITY], {}, r"tune: no arm has a search space; give one"),
        ([CENTRAL], None, r"arms\.central\.tune: the experiment has no \[tune\] section; add one, or remove this"),
        (
            [HILL | {"tune": {"trails": 3}}],
            {},
            r"arms\.hill\.tune\.trails: unknown key 'trails'; did you mean 'trials'",
        ),
        ([HILL | {"tune": {"space": {"y": [1.0]}}}], {}, r"arms\.hill\.method: no setting 'y'; valid: cliff, x"),
        ([HILL | {"tune": {"space": {"x": ["far"]}}}], {}, r"arms\.hill\.method\.x = 'far': "),
        ([HILL | {"tune": {"space": {"x": []}}}], {}, r"arms\.hill\.tune\.space\.x: .*something to choose from"),
        ([HILL | {"tune": {"space": "x"}}], {}, r"arms\.hill\.tune\.space = 'x': must be a table"),
        ([CENTRAL], {"sampler": "grid"}, r"arms\.central\.tune: .*raise tune\.trials"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line(
    ratings: Path, arms: list[dict[str, Any]], tune: dict[str, Any] | None, said: str
) -> None:
    if tune == {"sampler": "grid"}:
        arms = [CENTRAL | {"tune": CENTRAL["tune"] | {"trials": 2}}]
    with pytest.raises(FedrecError, match=said) as raised:
        config_of(ratings, *arms, tune=tune)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"split": {"kind": "ratio", "valid": 0.0, "test": 0.3}}}, "tune: the split has no validation part"),
        (
            {"arms": [PRIVATE | {"privacy": None, "tune": {"space": {"factors": [3, 99]}}}]},
            r"factors, at 99: .*lower it",
        ),
    ],
)
def test_what_the_data_do_not_allow_is_said_before_anything_is_written(
    ratings: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    sections = {key: value for key, value in changes.items() if key != "data"}
    arms = [{key: value for key, value in arm.items() if value is not None} for arm in sections.get("arms", [HILL])]
    content = experiment(ratings, arms=arms, tune={"trials": 2})
    content["data"] |= changes.get("data", {})
    with pytest.raises(ConfigError, match=said):
        run(ExperimentConfig.read(content), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_toml_says_it_all(config: ExperimentConfig, tmp_path: Path) -> None:
    path = tmp_path / "experiment.toml"
    path.write_text(config.to_toml())
    assert read_config(path) == config
    nested = {"name": "ego", "method": {"kind": "ego-lightgcn"}, "tune": {"space": {"server": {"rate": [0.1, 0.2]}}}}
    path.write_text(tomli_w.dumps(experiment(tmp_path / "ratings.csv", arms=[nested], tune={})))
    (search,) = read_config(path).searches().values()
    assert search.own == {"server.rate": 0.01}
    path.write_text(read_config(path).to_toml())
    assert list(read_config(path).searches().values()) == [search]
