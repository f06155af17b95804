"""Named data sets: fetched once, checked, and kept in the user's cache folder.

A data set's folder in the cache holds its tables as Parquet and a checksum file as `sha256sum` writes it. The folder
appears under its name in one step, when it is complete: a killed download never looks finished. What is fetched must
have the fingerprint that stands here, whichever place it came from.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import platformdirs

from fedrec.data import movielens
from fedrec.data.cleaning import CleaningConfig, clean
from fedrec.data.readers import RawInteractions
from fedrec.errors import ConfigError, DataError, did_you_mean

_LAYOUT = "v1"  # of the cache; another one starts afresh
_TABLES = ("rows", "users", "items")
_SUMS = "SHA256SUMS"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """A data set of the catalogue.

    Attributes:
        description: one line for people.
        terms: what its owners ask of those who use it.
        users, items, interactions: how many.
        fingerprint: of its interactions (`Interactions.fingerprint`).
        sources: where it comes from, tried in order; each is given an empty folder to work in, raises an OSError where
            it cannot be reached, and a DataError where what arrives is damaged.
    """

    description: str
    terms: str
    users: int
    items: int
    interactions: int
    fingerprint: str
    sources: tuple[Callable[[Path], RawInteractions], ...]


DATASETS = {
    "ml-100k": Dataset(
        description="MovieLens-100K: film ratings of 1997-98, with age, gender and occupation, title, year and genres",
        terms="GroupLens: research use, cite Harper and Konstan 2015, not to be redistributed without permission",
        users=943,
        items=1682,
        interactions=100_000,
        fingerprint="3cbf40f77621720eb66088db39027a00249c41c5e45c6dc684301e393e81c056",
        sources=(movielens.from_grouplens, movielens.from_recbole_wheel),
    ),
}


def cache_folder() -> Path:
    """Where data sets are kept: `FEDREC_DATA` if it is set, else the user's cache folder."""
    return Path(os.environ.get("FEDREC_DATA") or platformdirs.user_cache_path("fedrec"))


def load(name: str) -> RawInteractions:
    """A data set of the catalogue, from the cache; it is fetched if it is not there or damaged.

    Raises:
        ConfigError: if the catalogue has no such data set.
        DataError: if it cannot be fetched, or the cache cannot be written.
    """
    folder = fetch(name)
    rows, users, items = (pd.read_parquet(folder / f"{table}.parquet") for table in _TABLES)
    return RawInteractions(name, rows, users, items)


def fetch(name: str) -> Path:
    """The folder of a data set in the cache, intact; it is downloaded if need be.

    Raises:
        ConfigError: if the catalogue has no such data set.
        DataError: if it cannot be fetched, or the cache cannot be written.
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown dataset '{name}'; {did_you_mean(name, DATASETS)}")
    folder = cache_folder() / _LAYOUT / name
    if is_intact(folder):
        return folder
    if folder.exists():
        log.warning("%s is damaged and is fetched again", folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
            ready = Path(scratch) / "ready"
            _write(_obtain(name, DATASETS[name]), ready)
            _publish(ready, folder)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); set FEDREC_DATA to a folder that can"
        ) from None
    return folder


def is_intact(folder: Path) -> bool:
    """Whether a folder of the cache is complete and every file in it has its checksum."""
    try:
        sums = [line.split("  ", 1) for line in (folder / _SUMS).read_text().splitlines()]
        return len(sums) == len(_TABLES) and all(_sha256(folder / name) == digest for digest, name in sums)
    except (OSError, ValueError):
        return False


def _obtain(name: str, dataset: Dataset) -> RawInteractions:
    """The data set from the first source that has it, checked against its fingerprint."""
    failures = []
    for source in dataset.sources:
        for _ in range(2):  # what arrives damaged is fetched once more; what is out of reach is not
            try:
                with tempfile.TemporaryDirectory(prefix=f"fedrec-{name}-") as scratch:
                    raw = source(Path(scratch))
                _require_same(raw, dataset, source.__name__)
                return raw
            except DataError as error:
                failures.append(str(error))
            except OSError as error:
                failures.append(str(error))
                break
            log.warning("%s: %s", name, failures[-1])
    raise DataError(
        f"{name} is not in {cache_folder()} and cannot be fetched ({'; '.join(failures)}); "
        "connect to the network once, or set FEDREC_DATA to a folder that has it"
    )


def _require_same(raw: RawInteractions, dataset: Dataset, source: str) -> None:
    """Check that what was fetched is the data set.

    Attributes are only counted: a new spelling of a film's title would not make the data another data set.
    """
    interactions, _ = clean(raw, CleaningConfig(duplicates="error"))
    if interactions.fingerprint != dataset.fingerprint:
        raise DataError(f"{source}: its fingerprint is {interactions.fingerprint}, not {dataset.fingerprint}")
    if (len(raw.users), len(raw.items)) != (dataset.users, dataset.items):
        raise DataError(f"{source}: it has attributes of {len(raw.users)} users and {len(raw.items)} items")


def _write(raw: RawInteractions, folder: Path) -> None:
    folder.mkdir()
    for name in _TABLES:
        getattr(raw, name).to_parquet(folder / f"{name}.parquet")
    files = sorted(folder.iterdir())
    (folder / _SUMS).write_text("".join(f"{_sha256(file)}  {file.name}\n" for file in files))


def _publish(ready: Path, folder: Path) -> None:
    """Give a complete folder its name. Another process may have been faster: then its copy stays."""
    if folder.exists() and not is_intact(folder):
        folder.replace(ready.with_name("damaged"))
    try:
        ready.replace(folder)
    except OSError:
        if not is_intact(folder):
            raise


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
