"""Following a run in TensorBoard or MLflow, beside its run directory, which holds all of it anyway.

Each arm and seed is a run of its own there. A value is named by what it discloses ("released/validation",
"simulation/answered"), as in history.csv, so that nobody takes what only a simulation can see for something that a
deployment would show. A resumed run tells again what was told before the checkpoint: the same values at the same steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from pydantic import model_validator

from fedrec.components import Config
from fedrec.errors import ConfigError, RunError

Logged = Callable[[int, str, float], None]
"""(epoch or round, name, value)."""


class TrackingConfig(Config):
    """Where a run can be followed.

    Attributes:
        kind: "tensorboard", which writes event files, or "mlflow".
        folder: of the event files; None is `tensorboard` in the run directory.
        uri: of the MLflow tracking server; None is what MLflow itself is configured for (`MLFLOW_TRACKING_URI`).
    """

    kind: Literal["tensorboard", "mlflow"]
    folder: str | None = None
    uri: str | None = None

    @model_validator(mode="after")
    def _own_settings(self) -> TrackingConfig:
        if self.kind == "mlflow" and self.folder is not None:
            raise ValueError("folder is TensorBoard's; MLflow takes a uri")
        if self.kind == "tensorboard" and self.uri is not None:
            raise ValueError("uri is MLflow's; TensorBoard takes a folder")
        return self


class Tracker(Protocol):
    """What follows one arm and seed."""

    def log(self, step: int, name: str, value: float) -> None:
        """A value of an epoch or round."""

    def close(self) -> None:
        """No more will come."""


def require_tracking(config: TrackingConfig | None) -> None:
    """Whether what a run is to be followed with is installed; worth asking before training.

    Raises:
        ConfigError: if it is not.
    """
    try:
        if config is not None and config.kind == "tensorboard":
            import tensorboard  # noqa: F401
        elif config is not None:
            import mlflow  # noqa: F401
    except ImportError as error:
        assert config is not None
        raise ConfigError(
            f"tracking.kind = '{config.kind}': {error.name} is not installed; pip install 'fedrec[{config.kind}]', or "
            "remove [tracking]"
        ) from error


@contextmanager
def tracking(config: TrackingConfig | None, run: Path, experiment: str, arm: str, seed: int) -> Iterator[Logged]:
    """What to tell the values of one arm and seed.

    Args:
        config: None follows nothing.
        run: the run directory.
        experiment, arm, seed: their names there.

    Raises:
        ConfigError: if what it takes is not installed.
        RunError: if it cannot be written or reached.
    """
    if config is None:
        yield nobody
        return
    require_tracking(config)
    if config.kind == "tensorboard":
        folder = run / "tensorboard" if config.folder is None else Path(config.folder) / run.name
        tracker: Tracker = _TensorBoard(folder / arm / f"seed-{seed}")
    else:
        tracker = _MLflow(config.uri, experiment, run, {"arm": arm, "seed": str(seed)})
    try:
        yield tracker.log
    finally:
        tracker.close()


def nobody(step: int, name: str, value: float) -> None:
    """Follows nothing."""


class _TensorBoard:
    """Event files of one folder."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            raise RunError(f"{folder}: cannot be written ({error.strerror}); choose another tracking.folder") from error

    def log(self, step: int, name: str, value: float) -> None:
        """One scalar."""
        self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class _MLflow:
    """One run of an MLflow server; it is found again by its tags when the run is resumed."""

    def __init__(self, uri: str | None, experiment: str, run: Path, names: Mapping[str, str]) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._failure = MlflowException
        self._where = uri or os.environ.get("MLFLOW_TRACKING_URI", "MLflow's default store")
        tags = {"fedrec.run": str(run.resolve())} | {f"fedrec.{name}": value for name, value in names.items()}
        with self._named():
            self._client = MlflowClient(uri)
            known = self._client.get_experiment_by_name(experiment)
            place = self._client.create_experiment(experiment) if known is None else known.experiment_id
            sought = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
            found = self._client.search_runs([place], sought)
            title = "-".join(names.values())
            self._run = (found or [self._client.create_run(place, run_name=title, tags=tags)])[0].info.run_id

    def log(self, step: int, name: str, value: float) -> None:
        """One metric; MLflow has no "@" in its names."""
        with self._named():
            self._client.log_metric(self._run, name.replace("@", "-at-"), value, step=step)

    def close(self) -> None:
        """The run is over, as far as this session is concerned."""
        with self._named():
            self._client.set_terminated(self._run)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except self._failure as error:
            reason = str(error).partition("\n")[0]
            raise RunError(f"tracking: {self._where}: {reason}; correct tracking.uri, or remove [tracking]") from error
