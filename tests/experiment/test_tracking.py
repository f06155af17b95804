"""Runs can be followed in TensorBoard and MLflow: what they show is what the run directory holds."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedrec.errors import ConfigError, RunError
from fedrec.experiment import ExperimentConfig, resume, run
from fedrec.experiment.tracking import TrackingConfig, tracking
from tests.experiment.dying import Killed, killed_at_write
from tests.experiment.tiny import experiment, write_ratings


def followed(tmp_path: Path, **section: Any) -> ExperimentConfig:
    """One federated arm and seed that is followed."""
    document = experiment(write_ratings(tmp_path / "ratings.csv"), seeds=[3], tracking=section)
    document["arms"] = [arm for arm in document["arms"] if arm["name"] == "federated"]
    return ExperimentConfig.read(document)


def recorded(folder: Path) -> dict[tuple[str, int], float]:
    """What the run directory says: history, and the test's overall values at the last round."""
    history = pd.read_csv(folder / "history.csv")
    columns = (history[name].tolist() for name in ("disclosure", "name", "round", "value"))
    rows = {(f"{how}/{name}", int(step)): float(value) for how, name, step, value in zip(*columns, strict=True)}
    metrics = pd.read_csv(folder / "metrics.csv", keep_default_na=False)
    tested = metrics[(metrics["split"] == "test") & (metrics["group"] == "")]
    last = int(history["round"].max())
    pairs = zip(tested["metric"].tolist(), tested["value"].tolist(), strict=True)
    return rows | {(f"test/{metric}", last): float(value) for metric, value in pairs}


def test_tensorboard_shows_history_and_test_of_a_run_that_was_killed(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config, out = followed(tmp_path, kind="tensorboard"), tmp_path / "run"
    with killed_at_write(6), pytest.raises(Killed):
        run(config, out)
    resume(out)
    events = EventAccumulator(str(out / "tensorboard" / "federated" / "seed-3"), {"scalars": 0})
    events.Reload()
    shown = {(tag, one.step): one.value for tag in events.Tags()["scalars"] for one in events.Scalars(tag)}
    assert len(shown) > 30
    assert shown == pytest.approx(recorded(out), rel=1e-6)  # it keeps single precision
    assert any(tag == "simulation/answered" for tag, _ in shown)


def test_mlflow_has_one_run_for_an_arm_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server or a database would be too much for a test
    uri = (tmp_path / "mlruns").as_uri()
    config, out = followed(tmp_path, kind="mlflow", uri=uri), tmp_path / "run"
    run(config, out)
    with tracking(config.tracking, out, "tiny", "federated", 3) as logged:  # as a session that goes on
        logged(9, "test/again@5", 1.0)
    client = MlflowClient(uri)
    known = client.get_experiment_by_name("tiny")
    assert known is not None
    (found,) = client.search_runs([known.experiment_id])
    assert found.data.tags["fedrec.arm"] == "federated"
    for (name, step), value in recorded(out).items():
        history = client.get_metric_history(found.info.run_id, name.replace("@", "-at-"))
        assert {one.step: one.value for one in history}[step] == value
    assert found.data.metrics["test/again-at-5"] == 1.0
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    closed = TrackingConfig(kind="mlflow", uri=(tmp_path / "other").as_uri())
    with pytest.raises(RunError, match=r"correct tracking\.uri"), tracking(closed, out, "tiny", "arm", 0):
        pass


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_what_is_not_installed_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    really = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == kind:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return really(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=rf"{kind} is not installed; pip install 'fedrec\[{kind}\]'"):
        run(followed(tmp_path, kind=kind), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_of_the_other_kind_are_refused() -> None:
    for wrong in ({"kind": "mlflow", "folder": "x"}, {"kind": "tensorboard", "uri": "x"}):
        with pytest.raises(ValueError, match="takes a"):
            TrackingConfig.model_validate(wrong)


def test_tensorboard_that_cannot_write_says_so(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    (tmp_path / "file").touch()
    config = TrackingConfig(kind="tensorboard", folder=str(tmp_path / "file"))
    said = r"cannot be written .*choose another tracking\.folder"
    with pytest.raises(RunError, match=said), tracking(config, tmp_path / "run", "tiny", "arm", 0):
        pass
