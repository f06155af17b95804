from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedrec.data import load_split
from fedrec.errors import FedrecError, ModelError, RunError
from fedrec.experiment import ExperimentConfig, RunDirectory, Step, build_arm, read_config, resume, run
from fedrec.experiment.manifest import attributes_fingerprint, fingerprint
from fedrec.federated import FederatedRecommender
from tests.experiment.dying import Killed, killed_at_write
from tests.experiment.tiny import EACH, ITEMS, USERS, experiment, write_experiment, write_ratings

TABLES = ("metrics.csv", "history.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the configuration and the data."""
    path = tmp_path_factory.mktemp("tiny")
    write_experiment(path)
    return path


@pytest.fixture(scope="module")
def config(folder: Path) -> ExperimentConfig:
    return read_config(folder / "tiny.toml")


@pytest.fixture(scope="module")
def finished(folder: Path, config: ExperimentConfig) -> Path:
    """The folder of an uninterrupted run."""
    return run(config, folder / "run")


def own(kind: str, **settings: Any) -> dict[str, Any]:
    return {"name": kind.lower(), "method": {"kind": f"tests.experiment.own:{kind}", **settings}}


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_the_directory_holds_what_it_should(finished: Path, config: ExperimentConfig) -> None:
    assert read_config(finished / "config.toml") == config
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["finished"] is True
    assert manifest["data"]["interactions"] == {"train": USERS * (EACH - 2), "valid": USERS, "test": USERS}
    assert manifest["seeds"] == [3, 5]
    assert any("file order" in note for note in manifest["split"]["notes"])
    for name in ("train", "valid", "test"):
        part = pd.read_parquet(finished / "split" / f"{name}.parquet")
        assert list(part.columns) == ["user", "item", "rating", "time"]
        assert part["user"].str.startswith("u").all()
        assert part["item"].str.startswith("m").all()
    for arm in config.arms:
        for seed in config.seeds:
            assert (finished / "arms" / arm.name / f"seed-{seed}" / "model.safetensors").exists()
    assert not list(finished.rglob("*.part"))


def test_lists_are_ranked_leave_out_what_is_known_and_give_the_metrics(finished: Path) -> None:
    """Recall@5 of every arm and seed, once more from the files alone."""
    metrics = pd.read_csv(finished / "metrics.csv", keep_default_na=False)
    train, valid, test = (
        pd.read_parquet(finished / "split" / f"{name}.parquet") for name in ("train", "valid", "test")
    )
    known = set(zip(train["user"], train["item"], strict=True)) | set(zip(valid["user"], valid["item"], strict=True))
    relevant = set(zip(test["user"], test["item"], strict=True))
    rows = metrics[(metrics["metric"] == "recall@5") & (metrics["group"] == "") & (metrics["split"] == "test")]
    assert len(rows) == 4 * 2
    for row in rows.itertuples():
        lists = pd.read_parquet(finished / "arms" / str(row.arm) / f"seed-{row.seed}" / "topk.parquet")
        assert list(lists.columns) == ["user", "rank", "item", "score"]
        assert (lists.groupby("user")["rank"].agg(list).map(lambda ranks: ranks == [1, 2, 3, 4, 5])).all()
        assert (lists.groupby("user")["score"].diff().dropna() <= 0).all()
        shown = set(zip(lists["user"], lists["item"], strict=True))
        assert not shown & known
        assert len(shown & relevant) / USERS == pytest.approx(row.value)


def test_the_summary_is_that_of_the_tables(finished: Path, config: ExperimentConfig) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    metrics = pd.read_csv(finished / "metrics.csv", keep_default_na=False)
    assert list(summary["arms"]) == ["popularity", "central", "federated", "private"]
    for arm, content in summary["arms"].items():
        ndcg = content["metrics"]["ndcg@5"]
        rows = metrics[(metrics["arm"] == arm) & (metrics["metric"] == "ndcg@5") & (metrics["group"] == "")]
        of_test = rows[rows["split"] == "test"]["value"].tolist()
        assert ndcg["per_seed"] == of_test
        assert ndcg["mean"] == pytest.approx(sum(of_test) / 2)
        assert ndcg["ci95"][0] <= ndcg["mean"] <= ndcg["ci95"][1]
        assert content["metrics"]["coverage@5"]["ci95"] is None  # not a mean over users
        assert content["seconds"] > 0
    assert summary["arms"]["central"]["communication"] is None
    assert summary["arms"]["federated"]["communication"]["rounds"] == 6
    assert summary["arms"]["federated"]["guarantee"] is None
    assert 0 < summary["arms"]["private"]["guarantee"]["epsilon"] <= 8.0
    assert "one user" in summary["arms"]["private"]["guarantee"]["words"]


def test_errors_of_ratings_are_measured_of_models_that_predict_them(tmp_path: Path) -> None:
    arms = [own("Constant"), own("ConstantRating", value=3.0)]
    ran = run(read_config(write_experiment(tmp_path, seeds=[3], arms=arms)), tmp_path / "run")
    metrics = pd.read_csv(ran / "metrics.csv", keep_default_na=False)
    found = metrics[metrics["metric"].isin(["rmse", "mae"])].set_index("metric")
    assert set(found["arm"]) == {"constantrating"}
    errors = pd.read_parquet(ran / "split" / "test.parquet")["rating"] - 3.0
    assert found.loc["mae", "value"] == pytest.approx(errors.abs().mean())
    assert found.loc["rmse", "value"] == pytest.approx((errors**2).mean() ** 0.5)


def test_each_tested_user_has_metrics_and_groups(folder: Path, tmp_path: Path) -> None:
    users = tmp_path / "users.csv"
    genders = ["M", "F", ""] * (USERS // 3)
    users.write_text("uid,gender\n" + "".join(f"u{user},{gender}\n" for user, gender in enumerate(genders)))
    data = experiment(folder / "ratings.csv")["data"] | {"users": str(users)}
    config = ExperimentConfig.read(experiment(folder / "ratings.csv", data=data, arms=[own("Constant")], seeds=[0]))
    path = run(config, tmp_path / "run")
    table = pd.read_parquet(path / "arms" / "constant" / "seed-0" / "per_user.parquet").set_index("user")
    assert table["group:gender"].astype("object").where(table["group:gender"].notna(), "").to_dict() == {
        f"u{user}": gender for user, gender in enumerate(genders)
    }
    assert list(table["group:activity"].cat.categories) == ["low", "middle", "high"]
    (groups,) = (arm["groups"] for arm in json.loads((path / "summary.json").read_text())["arms"].values())
    assert {label: group["users"] for label, group in groups["gender"]["groups"].items()} == {"F": 8, "M": 8}
    assert groups["gender"]["gap"] is None  # of fewer than 20 users each
    assert groups["gender"]["groups"]["F"]["mean"] == table.loc[table["group:gender"] == "F", "ndcg@5"].mean()


def test_users_in_another_order_are_found_and_the_remedy_works(
    finished: Path, config: ExperimentConfig, tmp_path: Path
) -> None:
    path = shutil.copytree(finished, tmp_path / "run")
    facts = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(facts | {"finished": False}))
    of_users = path / "arms" / "central" / "seed-5" / "per_user.parquet"
    pd.read_parquet(of_users).sample(frac=1, random_state=0).to_parquet(of_users, index=False)
    with pytest.raises(RunError, match=r"arms\.central, seed 5: .* delete arms/central/seed-5 and resume"):
        resume(path)
    shutil.rmtree(of_users.parent)
    resume(path)
    for name in TABLES:
        assert (path / name).read_bytes() == (finished / name).read_bytes()


def test_every_pair_of_arms_is_tested_once(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    pairs = {(test["a"], test["b"]) for test in summary["tests"]}
    assert len(summary["tests"]) == len(pairs) == 6
    for test in summary["tests"]:
        means = [summary["arms"][test[side]]["metrics"]["ndcg@5"]["mean"] for side in ("a", "b")]
        assert test["difference"] == pytest.approx(means[0] - means[1], abs=1e-12)
        assert test["users"] == USERS  # seeds are averaged first: they are no further users


def test_history_is_in_order_and_says_what_a_deployment_never_sees(finished: Path) -> None:
    history = pd.read_csv(finished / "history.csv")
    federated = history[(history["arm"] == "federated") & (history["seed"] == 3)]
    assert federated["round"].is_monotonic_increasing
    assert federated["round"].max() == 6
    assert set(federated[federated["name"] == "validation"]["round"]) == {2, 4, 6}
    assert set(history["disclosure"]) <= {"released", "simulation"}


def test_seeds_and_sections_reach_the_arms(finished: Path, config: ExperimentConfig) -> None:
    for arm in ("central", "federated", "private"):
        models = [(finished / "arms" / arm / f"seed-{seed}" / "model.safetensors").read_bytes() for seed in (3, 5)]
        assert models[0] != models[1]
    history = pd.read_csv(finished / "history.csv")
    answered = history[(history["arm"] == "federated") & (history["name"] == "answered")]["value"]
    assert answered.min() < USERS  # at a rate of .8
    precise = config.model_copy(update={"engine": config.engine.model_copy(update={"precision": "float64"})})
    private = build_arm(precise.arms[3], precise.engine)
    assert isinstance(private, FederatedRecommender)
    assert (private.engine.precision, private.privacy) == ("float64", config.arms[3].privacy)


def test_ties_are_ordered_by_the_seed(folder: Path, tmp_path: Path) -> None:
    config = ExperimentConfig.read(experiment(folder / "ratings.csv", arms=[own("Constant")], seeds=[0, 1]))
    path = run(config, tmp_path / "run") / "arms" / "constant"
    lists = [pd.read_parquet(path / f"seed-{seed}" / "topk.parquet") for seed in (0, 1)]
    assert not lists[0]["item"].equals(lists[1]["item"])


def test_a_random_split_is_that_of_the_first_seed_for_all(folder: Path, tmp_path: Path) -> None:
    data = experiment(folder / "ratings.csv")["data"] | {"split": {"kind": "leave-one-out", "order": "random"}}
    config = ExperimentConfig.read(experiment(folder / "ratings.csv", data=data, arms=[own("Constant")]))
    path = run(config, tmp_path / "run")
    first, second = (load_split(config.data, seed).split.test for seed in (3, 5))
    written = pd.read_parquet(path / "split" / "test.parquet")["item"].tolist()
    assert written == first.items.decode(first.item).tolist()
    assert written != second.items.decode(second.item).tolist()
    assert json.loads((path / "manifest.json").read_text())["split"]["seed"] == 3


def test_attributes_have_a_fingerprint_of_their_own(config: ExperimentConfig) -> None:
    split = load_split(config.data, 3).split
    gender = pd.DataFrame({"gender": ["F", "M"] * (USERS // 2)})
    others = [replace(split, train=replace(split.train, user_attributes=table)) for table in (gender, gender[::-1])]
    assert len({attributes_fingerprint(each) for each in (split, *others)}) == 3
    assert len({fingerprint(each) for each in (split, *others)}) == 1
    assert fingerprint(split) == fingerprint(load_split(config.data, 5).split)
    fewer = replace(split, test=split.test.take(split.test.user > 0))
    assert fingerprint(fewer) != fingerprint(split)


def test_the_same_configuration_gives_the_same_bytes(finished: Path, config: ExperimentConfig, tmp_path: Path) -> None:
    again = run(config, tmp_path / "again")
    for name in TABLES:
        assert (again / name).read_bytes() == (finished / name).read_bytes()


def test_other_seeds_give_other_numbers_on_the_same_split(
    finished: Path, config: ExperimentConfig, tmp_path: Path
) -> None:
    other = run(config.model_copy(update={"seeds": (4,), "arms": config.arms[2:3]}), tmp_path / "other")
    assert (other / "metrics.csv").read_text().splitlines()[1:] != (finished / "metrics.csv").read_text().splitlines()[
        1:
    ]
    for name in ("train", "valid", "test"):
        assert (other / "split" / f"{name}.parquet").read_bytes() == (
            finished / "split" / f"{name}.parquet"
        ).read_bytes()


def test_a_run_killed_again_and_again_is_finished_with_the_same_bytes(
    finished: Path, config: ExperimentConfig, tmp_path: Path
) -> None:
    """Killed while beginning an arm, within one, between its files, while the tables are written."""
    path = tmp_path / "run"
    with pytest.raises(Killed), killed_at_write(6):
        run(config, path)
    assert RunDirectory(path).begun
    with pytest.raises(RunError, match="unfinished run; finish it with: fedrec resume"):
        run(config, path)
    deaths = 0
    for number in (7, 1, 4, 9, 2, 6, 3) * 6:
        assert not RunDirectory(path).finished
        try:
            with killed_at_write(number):
                resume(path)
        except Killed:
            deaths += 1
            continue
        break
    assert deaths > 10
    assert RunDirectory(path).finished
    for name in TABLES:
        assert (path / name).read_bytes() == (finished / name).read_bytes()
    summaries = [json.loads((of / "summary.json").read_text()) for of in (path, finished)]
    for summary in summaries:
        for arm in summary["arms"].values():
            del arm["seconds"]
    assert summaries[0] == summaries[1]
    assert not list(path.rglob("*.part"))


@pytest.mark.parametrize("number", [1, 4, 5])
def test_a_run_killed_while_beginning_leaves_a_folder_that_can_be_taken(
    config: ExperimentConfig, tmp_path: Path, number: int
) -> None:
    small = config.model_copy(update={"arms": config.arms[:1], "seeds": (3,)})
    with pytest.raises(Killed), killed_at_write(number):
        run(small, tmp_path / "run")
    assert not RunDirectory(tmp_path / "run").begun
    run(small, tmp_path / "run")


def test_sigkill(finished: Path, folder: Path, tmp_path: Path) -> None:
    """A process that is killed for good in the middle of training, after its checkpoint."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from fedrec.experiment import FileCheckpoints, read_config, run\n"
        "save = FileCheckpoints.save\n"
        "def save_and_die(self, tensors, facts):\n"
        "    save(self, tensors, facts)\n"
        "    if 'federated' in self.path.parts:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "FileCheckpoints.save = save_and_die\n"
        "run(read_config(Path(sys.argv[1])), Path(sys.argv[2]))\n"
    )
    path = tmp_path / "run"
    died = subprocess.run([sys.executable, "-c", script, str(folder / "tiny.toml"), str(path)], check=False)
    assert died.returncode == -9
    assert (path / "arms" / "federated" / "seed-3" / "checkpoint.safetensors").exists()
    assert not (path / "arms" / "federated" / "seed-3" / "result.json").exists()
    resume(path)
    for name in TABLES:
        assert (path / name).read_bytes() == (finished / name).read_bytes()


def test_a_finished_run_is_refused_and_left_alone(finished: Path, config: ExperimentConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="holds a finished run; choose another --out"):
        run(config, finished)
    with pytest.raises(RunError, match="finished run"):  # somebody was faster
        RunDirectory(finished).begin(config, {}, load_split(config.data, 0).split)
    assert resume(finished) == finished
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: write_ratings(path / "ratings.csv", extra=(("u1", "m1", 5, 99),)), "the data changed"),
        (lambda path: append(path / "run" / "config.toml", "# note\n"), "config.toml: changed since"),
    ],
)
def test_what_changed_since_it_began_is_not_resumed(tmp_path: Path, change: Any, said: str) -> None:
    config = read_config(write_experiment(tmp_path, seeds=[1]))
    with pytest.raises(Killed), killed_at_write(7):
        run(config, tmp_path / "run")
    change(tmp_path)
    with pytest.raises(RunError, match=said):
        resume(tmp_path / "run")


def test_resuming_with_other_software_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = read_config(write_experiment(tmp_path, seeds=[1]))
    path = tmp_path / "run"
    with pytest.raises(Killed), killed_at_write(7):
        run(config.model_copy(update={"arms": config.arms[:1]}), path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    (path / "manifest.json").write_text(json.dumps(manifest))
    resume(path)
    (line,) = caplog.messages
    assert line.startswith("torch is ")
    assert "was 1.0 when the run began" in line


def test_a_method_of_ones_own_runs_from_its_module(folder: Path, tmp_path: Path) -> None:
    config = ExperimentConfig.read(experiment(folder / "ratings.csv", arms=[own("Constant", value=2.5)], seeds=[0]))
    steps: list[Step] = []
    path = run(config, tmp_path / "run", steps.append)
    assert read_config(path / "config.toml") == config
    assert [(step.done, step.planned, step.job, step.jobs) for step in steps] == [(0, 0, 1, 1), (1, 1, 1, 1)]
    lists = pd.read_parquet(path / "arms" / "constant" / "seed-0" / "topk.parquet")
    assert (lists["score"] == 2.5).all()
    assert "constant,0,1,value,2.5,simulation" in (path / "history.csv").read_text()


def test_a_diverged_arm_raises_and_keeps_what_was_finished_before(folder: Path, tmp_path: Path) -> None:
    arms = [own("Constant"), own("Diverged")]
    config = ExperimentConfig.read(experiment(folder / "ratings.csv", arms=arms, seeds=[0]))
    with pytest.raises(ModelError, match=r"arms\.diverged, seed 0: .* NaN or infinite"):
        run(config, tmp_path / "run")
    assert RunDirectory(tmp_path / "run").arm("constant", 0).finished
    assert not RunDirectory(tmp_path / "run").arm("diverged", 0).finished
    assert not (tmp_path / "run" / "metrics.csv").exists()
    with pytest.raises(ModelError):
        resume(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": [ITEMS + 1], "metric": f"ndcg@{ITEMS + 1}"}, "exceeds the catalogue"),
        ({"k": [3], "metric": "ndcg@3", "groups": ["shoe_size"]}, "shoe_size"),
        ({"k": [3], "metric": "ndcg@3", "categories": "colour"}, "colour"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_anything_is_written(
    folder: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    config = ExperimentConfig.read(experiment(folder / "ratings.csv", evaluation=changes))
    with pytest.raises(FedrecError, match=said):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_validation_part_an_arm_trains_to_the_end(folder: Path, tmp_path: Path) -> None:
    data = experiment(folder / "ratings.csv")["data"] | {"split": {"kind": "ratio", "valid": 0.0, "test": 0.3}}
    config = ExperimentConfig.read(experiment(folder / "ratings.csv", data=data, seeds=[0]))
    path = run(config.model_copy(update={"arms": config.arms[2:3]}), tmp_path / "run")
    metrics = pd.read_csv(path / "metrics.csv")
    assert set(metrics["split"]) == {"test"}
