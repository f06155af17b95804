"""Splits without a validation part: choose on a share of train, fit on all of it, test once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch

from fedrec.data import load_split
from fedrec.errors import ConfigError
from fedrec.experiment import ExperimentConfig, RunDirectory, resume, run
from fedrec.recommenders import LightGCN, Training
from tests.experiment.dying import Killed, killed_at_write

USERS, ITEMS = 20, 24

CENTRAL: dict[str, Any] = {
    "name": "central",
    "method": {"kind": "lightgcn", "dim": 4, "epochs": 9, "rate": 0.1, "stopping": {"every": 1, "patience": 2}},
}
FEDERATED: dict[str, Any] = {
    "name": "federated",
    "method": {"kind": "ego-lightgcn", "dim": 4, "rounds": 4, "stopping": {"every": 2, "patience": 2}},
}
PRIVATE: dict[str, Any] = {
    "name": "private",
    "method": {"kind": "spectral", "factors": 3},
    "privacy": {"epsilon": 8.0, "delta": 1e-3},
}


def write_published(folder: Path) -> Path:
    """A folder as LightGCN's authors publish them: each user's items on one line."""
    folder.mkdir()
    for name, first, count in (("train", 0, 10), ("test", 10, 3)):
        lines = [
            f"{user} " + " ".join(str((user + first + n) % ITEMS) for n in range(count)) + "\n" for user in range(USERS)
        ]
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


def experiment(folder: Path, *arms: dict[str, Any], **split: Any) -> ExperimentConfig:
    return ExperimentConfig.read(
        {
            "name": "published",
            "seeds": [1],
            "data": {"path": str(folder), "split": {"kind": "given", "valid_share": 0.2, **split}},
            "evaluation": {"k": [5], "metric": "ndcg@5", "bootstrap": 100},
            "arms": list(arms),
        }
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("refit") / "published")


@pytest.fixture(scope="module")
def config(published: Path) -> ExperimentConfig:
    return experiment(published, CENTRAL, FEDERATED, PRIVATE)


@pytest.fixture(scope="module")
def finished(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(config, tmp_path_factory.mktemp("refit") / "run")


def history_of(path: Path, arm: str) -> pd.DataFrame:
    history = pd.read_csv(path / "history.csv")
    return history[history["arm"] == arm]


def test_the_tested_model_has_learnt_from_the_whole_for_the_chosen_epochs(
    finished: Path, config: ExperimentConfig
) -> None:
    history = history_of(finished, "central")
    looks = history[history["name"] == "validation"]
    chosen = int(looks["round"].to_numpy()[looks["value"].argmax()])
    assert 1 <= chosen < 9  # early stopping had something to say
    assert history[history["name"] == "refit-loss"]["round"].tolist() == list(range(1, chosen + 1))

    split = load_split(config.data, 1).split
    assert split.whole is not None
    assert len(split.whole) == USERS * 10
    assert len(split.train) == USERS * 8
    alone = LightGCN(config.arms[0].method.settings)  # type: ignore[arg-type]
    alone.fit(split.whole, Training(seed=1, device="cpu", steps=chosen))
    written = safetensors.torch.load_file(finished / "arms" / "central" / "seed-1" / "model.safetensors")
    torch.testing.assert_close(written["items"], alone.tensors()["items"], rtol=0, atol=0)

    metrics = pd.read_csv(finished / "metrics.csv")
    of_central = metrics[(metrics["arm"] == "central") & (metrics["metric"] == "ndcg@5") & metrics["group"].isna()]
    assert of_central[of_central["split"] == "valid"]["value"].tolist() == [looks["value"].max()]
    lists = pd.read_parquet(finished / "arms" / "central" / "seed-1" / "topk.parquet")
    whole = set(
        zip(split.whole.users.decode(split.whole.user), split.whole.items.decode(split.whole.item), strict=True)
    )
    assert not whole & set(zip(lists["user"], lists["item"], strict=True))


def test_both_fits_are_paid_for(finished: Path) -> None:
    costs = json.loads((finished / "summary.json").read_text())["arms"]["federated"]["communication"]
    history = history_of(finished, "federated")
    rounds = history[history["name"].isin(["answered", "refit-answered"])]
    assert costs["rounds"] == len(rounds) > 4


def test_a_private_arm_is_fitted_once(finished: Path) -> None:
    metrics = pd.read_csv(finished / "metrics.csv")
    assert set(metrics[metrics["arm"] == "private"]["split"]) == {"test"}
    assert not (finished / "arms" / "private" / "seed-1" / "choosing").exists()
    guarantee = json.loads((finished / "summary.json").read_text())["arms"]["private"]["guarantee"]
    assert guarantee["releases"] == 1


def test_refitting_can_be_left_out(published: Path, tmp_path: Path) -> None:
    config = experiment(published, CENTRAL, refit=False)
    path = run(config, tmp_path / "run")
    assert not history_of(path, "central")["name"].str.startswith("refit").any()
    assert not (path / "arms" / "central" / "seed-1" / "chosen.json").exists()
    notes = json.loads((path / "manifest.json").read_text())["split"]["notes"]
    assert any("models learn from the rest" in note for note in notes)


def test_a_hybrid_whose_members_stop_early_is_refused(published: Path, tmp_path: Path) -> None:
    def hybrid(**settings: Any) -> dict[str, Any]:
        members = [{"kind": "popularity"}, {"kind": "ials", "dim": 2, **settings}]
        return {"name": "hybrid", "method": {"kind": "weighted", "members": members}}

    with pytest.raises(ConfigError, match=r"the members ials stop early.*patience = 0"):
        run(experiment(published, hybrid()), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(experiment(published, hybrid(rounds=1, stopping={"every": 1, "patience": 0})), tmp_path / "run")


def test_killed_while_choosing_or_refitting_it_ends_in_the_same_bytes(
    finished: Path, config: ExperimentConfig, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    with pytest.raises(Killed), killed_at_write(6):
        run(config, path)
    deaths, died_in = 0, set()
    for number in (2, 1, 3, 5, 2, 4, 6) * 6:
        try:
            with killed_at_write(number):
                resume(path)
        except Killed as death:
            deaths += 1
            died_in.add(str(death))
            continue
        break
    assert deaths > 5
    assert {"choosing", "chosen.json", "checkpoint.safetensors"} <= {
        part for name in died_in for part in name.split("/")
    }
    assert RunDirectory(path).finished
    for name in ("metrics.csv", "history.csv"):
        assert (path / name).read_bytes() == (finished / name).read_bytes()
