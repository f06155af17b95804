"""The [data] section of an experiment: from a name or a path to a split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from fedrec.components import Config, build_config
from fedrec.data import catalog
from fedrec.data.cleaning import CleaningConfig, CleaningReport, clean, clean_encoded, clean_parts
from fedrec.data.interactions import Interactions, Split
from fedrec.data.readers import ColumnsConfig, RawInteractions, is_adjacency_folder, read_interactions
from fedrec.data.splitting import SPLITS, Given, GlobalTime, LeaveOneOut, SplitConfig, split, split_given
from fedrec.data.synthetic import SyntheticConfig, generate
from fedrec.errors import ConfigError, DataError, did_you_mean
from fedrec.streams import Streams

_REPEATED = (
    "{:,} interactions were left out because the same pair occurs later, perhaps after the cut: train lacks what was "
    "done again in the time of the test; keep the first with clean = {{ duplicates = 'first' }}"
)


class DataConfig(Config):
    """Which data, and what is done with them before anyone learns from them.

    Attributes:
        name: a data set of the catalogue, or "synthetic". Either this or a path is given.
        path: a file or a folder that `read_interactions` knows.
        columns: which column of the files is what.
        users, items: attribute tables, relative to the folder of the path.
        synthetic: what to generate under the name "synthetic"; None takes the defaults.
        clean: what is left out.
        split: None is leave-one-out, and the given split for a folder of train.txt and test.txt.
    """

    name: str | None = None
    path: str | None = None
    columns: ColumnsConfig = ColumnsConfig()
    users: str | None = None
    items: str | None = None
    synthetic: SyntheticConfig | None = None
    clean: CleaningConfig = CleaningConfig()
    split: SplitConfig | None = Field(None, discriminator="kind")

    @field_validator("split", mode="before")
    @classmethod
    def _by_kind(cls, value: Any) -> Any:
        """Settle the kind first, so that a mistake is explained by its own model."""
        if not isinstance(value, Mapping):
            return value
        kind = value.get("kind", "leave-one-out")
        if kind not in SPLITS:
            raise ConfigError(f"data.split: unknown split kind '{kind}'; {did_you_mean(str(kind), SPLITS)}")
        return build_config(SPLITS[kind], value, "data.split")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        known = [*catalog.DATASETS, "synthetic"]
        if name is not None and name not in known:
            raise ValueError(f"unknown dataset; {did_you_mean(name, known)}")
        return name

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.name is None) == (self.path is None):
            raise ValueError("give either a name or a path")
        if self.name is not None and (self.columns != ColumnsConfig() or self.users or self.items):
            raise ValueError("columns, users and items describe files; they go with a path, not with a name")
        if self.name is not None and isinstance(self.split, Given):
            raise ValueError("a given split is read from files; it goes with a path, not with a name")
        if self.name != "synthetic" and self.synthetic is not None:
            raise ValueError("synthetic says what to generate; it goes with name = 'synthetic'")
        return self


@dataclass(frozen=True, eq=False)
class LoadedData:
    """Data that are ready for an experiment.

    Attributes:
        split: train, validation and test, with notes.
        report: what cleaning left out.
        fingerprint: SHA-256 of the cleaned interactions before they are split; of the parts' fingerprints, if the split
            is given. The same for every seed.
        source: where the data come from: the name or the path of the configuration.
        seed: of what is random in the split.
    """

    split: Split
    report: CleaningReport
    fingerprint: str
    source: str
    seed: int


def load_split(config: DataConfig, seed: int) -> LoadedData:
    """Read, clean and split the data of an experiment.

    Args:
        config: the [data] section. Relative paths are relative to the working directory.
        seed: of what is random in the split, unless the split has a seed of its own. Synthetic data are the same for
            every seed.

    Raises:
        ConfigError: if the catalogue has no such data set, or cleaning would change a given split.
        DataError: if the data cannot be had, read, cleaned or split; the message says what to do.
    """
    source = config.name or str(config.path)
    how = config.split
    if how is None:
        how = Given() if config.path and is_adjacency_folder(Path(config.path)) else LeaveOneOut()
    if not isinstance(how, GlobalTime) and how.seed is not None:
        seed = how.seed
    streams = Streams(seed)
    if isinstance(how, Given):
        parts, report = clean_parts(_read_given(config, how), config.clean)
        fingerprint = hashlib.sha256("".join(part.fingerprint for part in parts).encode()).hexdigest()
        return LoadedData(_with_gaps_noted(split_given(parts, how, streams)), report, fingerprint, source, seed)
    interactions, report = load_interactions(config)
    found = split(interactions, how, streams)
    if isinstance(how, GlobalTime) and config.clean.duplicates == "last" and report.repeated:
        found = replace(found, notes=(*found.notes, _REPEATED.format(report.repeated)))
    return LoadedData(_with_gaps_noted(found), report, interactions.fingerprint, source, seed)


def _with_gaps_noted(found: Split) -> Split:
    """The split, with a note on each attribute that is not known of everyone."""
    notes = [
        f"{name} is known of {int(column.notna().sum()):,} of {len(column):,} {side}"
        for side, table in (("users", found.train.user_attributes), ("items", found.train.item_attributes))
        for name, column in table.items()
        if column.isna().any()
    ]
    return replace(found, notes=(*found.notes, *notes))


def load_interactions(config: DataConfig) -> tuple[Interactions, CleaningReport]:
    """Read and clean the data of an experiment, all of them, without a split.

    Raises:
        ConfigError: if the catalogue has no such data set.
        DataError: if the data cannot be had, read or cleaned.
    """
    if config.name == "synthetic":
        return clean_encoded(generate(config.synthetic or SyntheticConfig()), config.clean, config.name)
    if config.name is not None:
        return clean(catalog.load(config.name), config.clean)
    path = _path_of(config)
    folder = path if path.is_dir() else path.parent
    return clean(read_interactions(path, config.columns, *_attributes(config, folder)), config.clean)


def _path_of(config: DataConfig) -> Path:
    assert config.path is not None  # the configuration has a name or a path
    return Path(config.path)


def _read_given(config: DataConfig, how: Given) -> list[RawInteractions]:
    """Train, valid if there is one, and test. The attribute tables are read with the first."""
    folder = _path_of(config)
    if not folder.is_dir():
        raise DataError(f"{folder}: a given split needs a folder that holds its files; name it in data.path")
    held_out = [name for name in (how.valid, how.test) if name is not None]
    columns = config.columns.updated(how.columns)
    return [
        read_interactions(folder / how.train, config.columns, *_attributes(config, folder)),
        *(read_interactions(folder / name, columns) for name in held_out),
    ]


def _attributes(config: DataConfig, folder: Path) -> tuple[Path | None, Path | None]:
    return (
        None if config.users is None else folder / config.users,
        None if config.items is None else folder / config.items,
    )
