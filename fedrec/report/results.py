"""What a finished run came to, read back from its directory."""

from __future__ import annotations

import io
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fedrec.errors import RunError
from fedrec.evaluation import BETWEEN_GROUPS, MIN_GROUP, SAMPLED, MetricName

_METRICS = {"arm": str, "seed": int, "split": str, "metric": str, "group": str, "value": float}
_HISTORY = {"arm": str, "seed": int, "round": int, "name": str, "value": float, "disclosure": str}


@dataclass(frozen=True, eq=False)
class Results:
    """A finished run.

    Attributes:
        path: of its directory.
        config: the effective configuration, as TOML has it.
        config_text: the same, as it was written.
        manifest: how the run came about.
        summary: its `summary.json`.
        metrics: columns arm, seed, split, metric, group, value.
        history: columns arm, seed, round, name, value, disclosure.
    """

    path: Path
    config: dict[str, Any]
    config_text: str
    manifest: dict[str, Any]
    summary: dict[str, Any]
    metrics: pd.DataFrame
    history: pd.DataFrame

    @property
    def name(self) -> str:
        """Of the experiment."""
        return str(self.config["name"])

    @property
    def arms(self) -> list[str]:
        """The arms in the order of the configuration, which is their order everywhere."""
        return [str(arm["name"]) for arm in self.config["arms"]]

    def arm(self, arm: str) -> dict[str, Any]:
        """What `summary.json` says of an arm."""
        found: dict[str, Any] = self.summary["arms"][arm]
        return found

    @property
    def headline(self) -> str:
        """The metric that arms are selected and compared by."""
        return str(self.summary["metric"])

    @property
    def length(self) -> str:
        """The length of the lists that the headline metric looks at, "@10"; other metrics are shown at it too."""
        return f"@{MetricName.of(self.headline).k}"

    def beside_headline(self, name: str) -> str:
        """The name of another accuracy metric at the same length, over the same candidates."""
        found = f"{name}{self.length}"
        return f"{found}-{SAMPLED}" if MetricName.of(self.headline).sampled else found

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Test metrics over all users: columns arm, metric, mean, low, high (NaN where there is no interval)."""
        rows = [
            (arm, metric, value["mean"], *(value["ci95"] or (None, None)))
            for arm in self.arms
            for metric, value in self.arm(arm)["metrics"].items()
        ]
        table = pd.DataFrame(rows, columns=["arm", "metric", "mean", "low", "high"])
        return table.astype({"mean": float, "low": float, "high": float})

    def seed_deviation(self, arm: str) -> float | None:
        """How far the headline metric deviates from seed to seed; None for one seed, or in an earlier version's run."""
        found: float | None = self.arm(arm)["metrics"][self.headline].get("seed_deviation")
        return found

    def user_groups(self, arm: str) -> dict[str, Any]:
        """What `summary.json` says of groups of users, by attribute; none if an earlier version wrote it."""
        found: dict[str, Any] = self.arm(arm).get("groups", {})
        return found

    @cached_property
    def groups(self) -> pd.DataFrame:
        """The headline metric of groups of users: columns arm, attribute, group, users, mean, low, high."""
        rows = [
            (arm, attribute, group, value["users"], value["mean"], *value["ci95"])
            for arm in self.arms
            for attribute, of_attribute in self.user_groups(arm).items()
            for group, value in of_attribute["groups"].items()
        ]
        return pd.DataFrame(rows, columns=["arm", "attribute", "group", "users", "mean", "low", "high"])

    @cached_property
    def between_groups(self) -> pd.DataFrame:
        """What lies between the groups of an attribute that are large enough: columns arm, attribute, summary, value.

        The summaries are gap, worst-group and ratio of the headline metric, all of the groups' means over seeds.
        """
        large = self.groups[self.groups["users"] >= MIN_GROUP]
        rows = [
            (arm, attribute, summary, of(torch.tensor(groups["mean"].to_numpy(copy=True))))
            for (arm, attribute), groups in large.groupby(["arm", "attribute"], sort=False)
            if len(groups) > 1
            for summary, of in BETWEEN_GROUPS.items()
        ]
        return pd.DataFrame(rows, columns=["arm", "attribute", "summary", "value"])

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The validation metric while training: columns arm, seed, round, value."""
        return self.history[self.history["name"] == "validation"][["arm", "seed", "round", "value"]]


def read_results(run: Path) -> Results:
    """Read the directory of a finished run.

    Raises:
        RunError: if it is no run directory, the run is not finished, or a file of it is missing or damaged.
    """
    if not (run / "config.toml").is_file() or not (run / "manifest.json").is_file():
        raise RunError(
            f"{run}: not a run directory (no config.toml and manifest.json); give one that 'fedrec run' wrote"
        )
    manifest = _json(run / "manifest.json")
    if manifest.get("finished") is not True:
        raise RunError(f"{run}: this run is not finished; finish it with: fedrec resume {run}")
    config_text = _text(run / "config.toml")
    results = Results(
        path=run,
        config=_toml(run / "config.toml", config_text),
        config_text=config_text,
        manifest=manifest,
        summary=_json(run / "summary.json"),
        metrics=_csv(run / "metrics.csv", _METRICS),
        history=_csv(run / "history.csv", _HISTORY),
    )
    known = results.summary.get("arms", {})
    for arm in results.arms:
        if arm not in known:
            raise _damaged(run / "summary.json", f"it has no arm '{arm}'")
    return results


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(f"{path}: {reason}; the file was changed or lost after the run: restore it, or run again")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _damaged(path, "missing") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); make it readable") from None
    except UnicodeDecodeError as error:
        raise _damaged(path, f"not text (byte {error.start})") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise _damaged(path, f"not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise _damaged(path, "not a JSON object")
    return content


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _damaged(path, f"not valid TOML ({error})") from None


def _csv(path: Path, columns: Mapping[str, type]) -> pd.DataFrame:
    text = _text(path)
    try:
        # An arm may be called "NA", and everyone is the group "": nothing is read as missing.
        table = pd.read_csv(io.StringIO(text), dtype=dict(columns), keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise _damaged(path, f"not a table ({error})") from None
    for name in columns:
        if name not in table.columns:
            raise _damaged(path, f"it has no column '{name}'")
    return table
