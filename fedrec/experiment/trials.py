"""The trial log of one arm: what was tried, what came of it, and where an interrupted trial goes on."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedrec.errors import RunError
from fedrec.experiment.search import Trial
from fedrec.experiment.store import FileCheckpoints, write_atomically, write_json
from fedrec.spaces import Value, as_value


@dataclass(frozen=True)
class TrialLog:
    """The folder of an arm: `trials/<number>.json` for each trial that is over, and `trials.csv` for them all.

    Attributes:
        path: of the folder.
    """

    path: Path

    def read(self) -> list[Trial]:
        """The trials that are over, in order.

        Raises:
            RunError: if a file is damaged.
        """
        trials: list[Trial] = []
        while (file := self._file(len(trials))).exists():
            trials.append(_read(file))
        return trials

    def add(self, trial: Trial) -> None:
        """Keep a trial that is over, and forget how it got there."""
        write_json(self._file(trial.number), asdict(trial))
        shutil.rmtree(self._working(trial.number), ignore_errors=True)

    def checkpoints(self, number: int, seed: int) -> FileCheckpoints:
        """Where the fit of a trial with a seed goes on."""
        return FileCheckpoints(self._working(number) / f"seed-{seed}" / "checkpoint.safetensors")

    def write_table(self, trials: Sequence[Trial]) -> None:
        """Write trials.csv: the same bytes for the same search, whenever and however often it was interrupted."""
        write_atomically(self.path / "trials.csv", as_csv(trials))

    def _file(self, number: int) -> Path:
        return self.path / "trials" / f"{number:04}.json"

    def _working(self, number: int) -> Path:
        return self.path / "trials" / f"{number:04}"


def _read(file: Path) -> Trial:
    try:
        content = json.loads(file.read_text())
        content["settings"] = {key: as_value(value) for key, value in content["settings"].items()}
        content["best_steps"] = tuple(content["best_steps"])
        content["looks"] = tuple((int(step), float(value)) for step, value in content["looks"])
        return Trial(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file}: damaged trial ({error}); delete it and those after it, then resume") from error


def as_csv(trials: Sequence[Trial]) -> str:
    """One row a trial: number, state, value, best_step (one a seed), each setting as "method.<key>", note."""
    keys = list(trials[0].settings)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["number", "state", "value", "best_step", *(f"method.{key}" for key in keys), "note"])
    for trial in trials:
        value = "" if trial.value is None else repr(trial.value)
        settings = [_said(trial.settings[key]) for key in keys]
        steps = " ".join(map(str, trial.best_steps))
        writer.writerow([trial.number, trial.state, value, steps, *settings, trial.note])
    return buffer.getvalue()


def _said(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)
