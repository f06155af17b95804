"""How a run came about: software, machine, data, seeds and randomness."""

from __future__ import annotations

import logging
import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import fedrec
from fedrec.data import Interactions, LoadedData, Split
from fedrec.errors import RunError
from fedrec.experiment.config import ExperimentConfig

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "torch-geometric", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "flwr", "opacus")


def beginning(config: ExperimentConfig) -> dict[str, Any]:
    """What is known of a run that begins now, wherever its data are."""
    return {
        "experiment": config.name,
        "finished": False,
        "started_at": now(),
        "resumed_at": [],
        "finished_at": None,
        "versions": versions(),
        "git": git_revision(),
        "machine": machine(),
        "config_sha256": digest_of(config.to_toml()),
        "seeds": list(config.seeds),
        "randomness": config.engine.randomness,
    }


def end(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a run that is finished now."""
    return manifest | {"finished": True, "finished_at": now(), "peak_memory_mb": peak_memory_mb()}


def digest_of(config_text: str) -> str:
    """SHA-256 of a configuration as it is written."""
    return sha256(config_text.encode()).hexdigest()


def first_manifest(config: ExperimentConfig, data: LoadedData) -> dict[str, Any]:
    """The manifest of a run that begins now, on data that are here."""
    parts = _parts(data.split)
    return beginning(config) | {
        "data": {
            "source": data.source,
            "fingerprint": data.fingerprint,
            "users": data.split.train.n_users,
            "items": data.split.train.n_items,
            "interactions": {name: len(part) for name, part in parts.items()},
            "cleaning": [str(step) for step in data.report.steps],
        },
        # A random split is drawn from one seed for all, so that arms and seeds meet the same users and items.
        "split": {
            "seed": data.seed,
            "notes": list(data.split.notes),
            "fingerprint": fingerprint(data.split),
            "attributes_fingerprint": attributes_fingerprint(data.split),
        },
    }


def require_unchanged(manifest: dict[str, Any], folder: Path, config_text: str, data: LoadedData) -> None:
    """Make sure that what is resumed is what began; other versions of the software are a warning.

    Raises:
        RunError: if the configuration or the data changed in between.
    """
    if manifest["config_sha256"] != digest_of(config_text):
        raise RunError(f"{folder / 'config.toml'}: changed since the run began; undo that, or start a new run")
    for what, key, found in (
        ("data", "fingerprint", fingerprint(data.split)),
        ("attributes of users or items", "attributes_fingerprint", attributes_fingerprint(data.split)),
    ):
        began = manifest["split"][key]
        if began != found:
            raise RunError(
                f"{folder}: the {what} changed since the run began (fingerprint {began[:12]}, now {found[:12]}); "
                "put the old ones back, or start a new run"
            )
    for package, version in versions().items():
        if manifest["versions"].get(package) != version:
            log.warning(
                "%s is %s now and was %s when the run began: floats may round differently",
                package,
                version,
                manifest["versions"].get(package),
            )


def fingerprint(split: Split) -> str:
    """SHA-256 of the interactions of all three parts and of the catalogue, by original ids.

    Equal ones mean that accuracies can be compared; attributes have a fingerprint of their own, so that adding a table
    of them does not make a run incomparable.
    """
    digest = sha256()
    for part in _parts(split).values():
        digest.update(part.fingerprint.encode())
    for vocabulary in (split.train.users, split.train.items):
        digest.update("\n".join(vocabulary.ids).encode())
    return digest.hexdigest()


def attributes_fingerprint(split: Split) -> str:
    """SHA-256 of what is known of users and items beside their interactions, in code order."""
    digest = sha256()
    for table in (split.train.user_attributes, split.train.item_attributes):
        digest.update(table.to_csv(index=False).encode())
    return digest.hexdigest()


def _parts(split: Split) -> dict[str, Interactions]:
    return {"train": split.train, "valid": split.valid, "test": split.test}


def now() -> str:
    """The present time, in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of fedrec, of Python, and of what the numbers depend on."""
    found = {"fedrec": fedrec.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # flwr and opacus are not needed by every arm
            found[package] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """What the run was computed on; sums of floats may round differently elsewhere."""
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def git_revision() -> dict[str, Any] | None:
    """The revision of the repository around the working directory, and whether files differ from it; or None."""
    try:
        revision = _git("rev-parse", "HEAD")
        changed = bool(_git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"revision": revision, "changed": changed}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def peak_memory_mb() -> float:
    """The most memory that this process has held, in megabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)  # macOS counts bytes, Linux kilobytes
