"""The run directory: everything a run leaves behind, and how it survives being killed.

Each file is written beside its place and moved there, so that it is either whole or absent. What an arm did with a seed
is kept in its own folder, `result.json` last: a folder without it is work to be done again from its checkpoint. The
tables of the whole run are made from those folders alone, so an interrupted run ends in the same bytes.
"""

from __future__ import annotations

import fcntl
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
from torch import Tensor

from fedrec.data import Interactions, Split
from fedrec.errors import RunError
from fedrec.experiment.config import ExperimentConfig, read_config
from fedrec.files import replace_file
from fedrec.recommenders.recommender import Disclosure, Tensors


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that, whatever happens, the path holds all of the new content or what it held before.

    Raises:
        RunError: if it cannot be written: no permission, no room.
    """
    try:
        replace_file(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror}); make its folder writable and try again"
        ) from error


def write_json(path: Path, content: object) -> None:
    """`write_atomically` for JSON that a person may read."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """`write_atomically` for a table."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())


def write_tensors(path: Path, tensors: Tensors, facts: Mapping[str, str] | None = None) -> None:
    """`write_atomically` for tensors in the safetensors format, with facts in its header."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # it refuses views
    write_atomically(path, safetensors.torch.save(own, dict(facts or {})))


class FileCheckpoints:
    """Checkpoints of one arm and seed in a file, with the seconds that went into them.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = 0.0  # seconds of the sessions before this one
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent so far, in this session and in those that led to its checkpoint."""
        return self._before + time.monotonic() - self._start

    def load(self) -> tuple[dict[str, Tensor], Mapping[str, object]] | None:
        """The last saved tensors and facts, or None.

        Raises:
            RunError: if the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                header = json.loads(file.metadata()["checkpoint"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
        except (safetensors.SafetensorError, TypeError, KeyError, ValueError) as error:
            raise RunError(f"{self.path}: damaged checkpoint ({error}); delete the file, then resume") from error
        self._before = header["seconds"]
        return tensors, header["facts"]

    def save(self, tensors: Tensors, facts: Mapping[str, object]) -> None:
        """Replace the checkpoint, atomically."""
        header = json.dumps({"seconds": self.seconds, "facts": dict(facts)}, allow_nan=False)
        write_tensors(self.path, tensors, {"checkpoint": header})


class FileJournal:
    """The releases of the round that is under way, in a file; in another what was withheld when they were made.

    Args:
        path: of the file of releases.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.withheld = path.with_name("withheld.safetensors")

    def load(self, round: int, phase: int, query: str) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
        """What was released at a moment and what was withheld, or None.

        Raises:
            RunError: if a file is damaged.
        """
        prefix = f"{round}/{phase}/{query}/"
        sums, withheld = (_under(prefix, _read_tensors(path)) for path in (self.path, self.withheld))
        return (sums, withheld) if sums else None

    def save(self, round: int, phase: int, query: str, sums: Tensors, withheld: Tensors) -> None:
        """Keep it, beside the others of its round; the release last, since without it the rest is not looked at."""
        for path, tensors in ((self.withheld, withheld), (self.path, sums)):
            if tensors:
                held = {name: tensor for name, tensor in _read_tensors(path).items() if name.startswith(f"{round}/")}
                write_tensors(path, held | {f"{round}/{phase}/{query}/{name}": t for name, t in tensors.items()})


def _under(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        return {}
    try:
        return dict(safetensors.torch.load_file(path))
    except safetensors.SafetensorError as error:
        raise RunError(
            f"{path}: damaged ({error}); the releases in it cannot be made again: start a new run"
        ) from error


History = list[tuple[int, str, float, Disclosure]]
"""Rows (epoch or round, name, value, disclosure) in the order that they were logged."""


@dataclass(frozen=True)
class Chosen:
    """What a fit on train, and its validation, chose for the fit on train and validation together.

    Attributes:
        value: of the validation metric; None if nothing was held out.
        steps: epochs or rounds; None if the method never looked at validation.
        history, communication, seconds: as in `Result`, of that first fit.
    """

    value: float | None
    steps: int | None
    history: History
    communication: Mapping[str, float] | None
    seconds: float


@dataclass(frozen=True)
class Result:
    """What one arm with one seed came to, beside its model, its lists and its per-user metrics.

    Attributes:
        metrics: rows (split, metric, group, value).
        history: rows (round, name, value, disclosure).
        guarantee: of differential privacy, or None.
        communication: rounds and megabytes a user, or None for a central method.
        seconds: of fitting, over all sessions.
    """

    metrics: Sequence[tuple[str, str, str, float]]
    history: History
    guarantee: Mapping[str, Any] | None
    communication: Mapping[str, float] | None
    seconds: float


@dataclass(frozen=True)
class ArmDirectory:
    """The folder of one arm and seed."""

    path: Path

    @property
    def finished(self) -> bool:
        """Whether its result is there; it is written last."""
        return (self.path / "result.json").exists()

    def checkpoints(self, part: str = "") -> FileCheckpoints:
        """Where training, or a part of it that has a folder of its own, continues from."""
        return FileCheckpoints(self.path / part / "checkpoint.safetensors")

    @property
    def journal(self) -> FileJournal:
        """Where releases are written before anything that follows from them is sent."""
        return FileJournal(self.path / "released.safetensors")

    def chosen(self) -> Chosen | None:
        """What was chosen for the fit on the whole, if that is known."""
        path = self.path / "chosen.json"
        if not path.exists():
            return None
        content = json.loads(path.read_text())
        return Chosen(**content | {"history": [tuple(row) for row in content["history"]]})

    def write_chosen(self, chosen: Chosen) -> None:
        """Keep what was chosen."""
        write_json(self.path / "chosen.json", asdict(chosen))

    def write(self, result: Result, *, model: Tensors, topk: pd.DataFrame, per_user: pd.DataFrame) -> None:
        """Keep what the arm came to.

        Args:
            result: its numbers.
            model: its fitted tensors.
            topk: columns user, rank (from 1), item, score; original ids.
            per_user: column user (original ids), one column a metric, and one "group:<attribute>" a grouping of users.
        """
        write_tensors(self.path / "model.safetensors", model)
        write_parquet(self.path / "topk.parquet", topk)
        write_parquet(self.path / "per_user.parquet", per_user)
        write_json(self.path / "result.json", asdict(result))

    def write_resampled(self, result: Result, *, model: Tensors, resampled: pd.DataFrame) -> None:
        """Keep what an arm came to whose users' lists and values stayed with them.

        Args:
            result: its numbers.
            model: the server's tensors.
            resampled: by resample, means over users, as `fedrec.evaluation.resampled_means` names them, and how many
                users they are of, `fedrec.experiment.resampled.COUNTED`.
        """
        write_tensors(self.path / "model.safetensors", model)
        write_parquet(self.path / "resamples.parquet", resampled)
        write_json(self.path / "result.json", asdict(result))

    def read_resampled(self) -> tuple[Result, pd.DataFrame]:
        """The counterpart of `write_resampled`."""
        return self.read_result(), pd.read_parquet(self.path / "resamples.parquet")

    def read(self) -> tuple[Result, pd.DataFrame]:
        """The result and the per-user metrics."""
        return self.read_result(), pd.read_parquet(self.path / "per_user.parquet")

    def read_result(self) -> Result:
        """The result."""
        content = json.loads((self.path / "result.json").read_text())
        content["metrics"] = [tuple(row) for row in content["metrics"]]
        content["history"] = [tuple(row) for row in content["history"]]
        return Result(**content)


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def begun(self) -> bool:
        """Whether the folder holds a run; its configuration is what is written last when a run begins."""
        return (self.path / "config.toml").exists()

    @property
    def finished(self) -> bool:
        """Whether the folder holds a run that was finished."""
        return self.begun and bool(self.manifest["finished"])

    @property
    def config(self) -> ExperimentConfig:
        """The effective configuration.

        Raises:
            RunError: if the folder holds no run.
        """
        if not self.begun:
            raise RunError(
                f"{self.path}: not a run directory (no config.toml); give the folder that 'fedrec run' wrote"
            )
        return read_config(self.path / "config.toml")

    @property
    def manifest(self) -> dict[str, Any]:
        """How the run came about."""
        return self._json("manifest.json")

    @property
    def summary(self) -> dict[str, Any]:
        """What a finished run came to."""
        return self._json("summary.json")

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name}: cannot be read ({error}); restore the file, or run again") from None
        return content

    def arm(self, arm: str, seed: int) -> ArmDirectory:
        """The folder of an arm and seed."""
        return ArmDirectory(self.path / "arms" / arm / f"seed-{seed}")

    def attack(self, attack: str, arm: str, seed: int) -> Path:
        """The file that an attack on an arm leaves its findings in."""
        return self.path / "attacks" / attack / arm / f"seed-{seed}.json"

    def trials(self, arm: str) -> Path:
        """The folder that an arm's trial log is kept in."""
        return self.path / "arms" / arm

    def require_free(self) -> None:
        """Make sure that a new run may be written here.

        Raises:
            RunError: if there is a run already, or something else.
        """
        if self.finished:
            raise RunError(f"{self.path}: holds a finished run; choose another --out, or delete the folder")
        if self.begun:
            raise RunError(f"{self.path}: holds an unfinished run; finish it with: fedrec resume {self.path}")
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path}: a file; choose a folder that is new or empty for --out")
        ours = {".lock", "manifest.json", ".manifest.json.part", "split", ".config.toml.part"}
        if self.path.exists() and not {entry.name for entry in self.path.iterdir()} <= ours:
            raise RunError(f"{self.path}: not empty, and not a run; choose a folder that is new or empty for --out")

    def begin(self, config: ExperimentConfig, manifest: Mapping[str, Any], split: Split) -> None:
        """Write what is known before the first arm is fitted; call it with the folder locked.

        Raises:
            RunError: as `require_free`.
        """
        self.require_free()
        for name in ("train", "valid", "test"):
            write_parquet(self.path / "split" / f"{name}.parquet", _as_table(getattr(split, name)))
        write_json(self.path / "manifest.json", manifest)
        write_atomically(self.path / "config.toml", config.to_toml())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing this run; the lock of a killed process is gone with it.

        Raises:
            RunError: if another process holds the lock, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot be written ({error.strerror}); make it writable, or choose another --out"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{self.path}: another process is writing this run; wait for it, or stop it") from None
            yield


def _as_table(part: Interactions) -> pd.DataFrame:
    """A part of the split with original ids, in file order."""
    columns: dict[str, Any] = {"user": part.users.decode(part.user), "item": part.items.decode(part.item)}
    columns |= {name: getattr(part, name) for name in ("rating", "time") if getattr(part, name) is not None}
    return pd.DataFrame(columns)
