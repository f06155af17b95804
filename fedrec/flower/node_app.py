"""`client`: the ClientApp that SuperNodes start, and what such a node holds.

It reads the [data] section of the experiment from the run's configuration, where `experiment` is the text of the TOML
file and `set` holds overrides, separated by ";". A node's operator says where its data are: `data`, a folder that
`fedrec data shard` wrote, and `catalogue`, the public catalogue beside it; perhaps `state`, a folder for its users'
private state. In Flower's own simulation, where nodes have a number and no data, each takes its share of the
experiment's.

A SuperNode starts a process for each message, so that nothing is imported here that a node can do without.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from fedrec.components import build_config, parse_document
from fedrec.data import DataConfig, Public, Split, load_split, read_shard, split_of_node
from fedrec.data.sharding import shares
from fedrec.errors import ConfigError
from fedrec.evaluation import coded_groups, group_labels
from fedrec.federated import Devices, HeldOutItems
from fedrec.flower.client import Values, client_app
from fedrec.flower.holdings import fingerprint
from fedrec.flower.node import Holding

_NODES = 4096  # of one process, as simulations have them, that are not read anew for each message


def experiment_text(run_config: Values) -> tuple[str, list[str]]:
    """The experiment of a run as text, and what overrides it.

    Raises:
        ConfigError: if there is none.
    """
    text = run_config.get("experiment")
    if not isinstance(text, str) or not text.strip():
        raise ConfigError("the run's configuration has no experiment; put the TOML text under `experiment`")
    return text, [part.strip() for part in str(run_config.get("set", "")).split(";") if part.strip()]


def data_of(run_config: Values) -> tuple[DataConfig, int]:
    """The [data] section of a run's experiment, and its first seed. Nothing else of it is a node's business.

    Above all not its arms: `kind = "module:Class"` there is imported, and nothing that a server sends is.

    Raises:
        ConfigError: if there is no experiment, or the section is wrong.
    """
    text, overrides = experiment_text(run_config)
    return _data_of(text, tuple(overrides))


@lru_cache(maxsize=1)
def _data_of(text: str, overrides: tuple[str, ...]) -> tuple[DataConfig, int]:
    document = parse_document(text, "experiment", overrides)
    section, seeds = document.get("data"), document.get("seeds")
    if not isinstance(section, dict) or not isinstance(seeds, list) or not seeds or type(seeds[0]) is not int:
        raise ConfigError("experiment: no [data] section, or no seeds; write both")
    return build_config(DataConfig, section, "data"), seeds[0]


def holding(node_config: Values, run_config: Values) -> Holding:
    """What a node holds of an experiment's data.

    Raises:
        ConfigError: if the node's configuration names no data, or no catalogue.
        DataError: if they cannot be read.
    """
    config, seed = data_of(run_config)
    section = config.model_dump_json()
    if "data" in node_config:
        if "catalogue" not in node_config:
            raise ConfigError("the node's configuration names `data` and no `catalogue`; give it the public catalogue")
        return _of_shard(str(node_config["data"]), str(node_config["catalogue"]), section, seed)
    if "partition-id" in node_config and "num-partitions" in node_config:
        return _of_share(section, seed, int(node_config["partition-id"]), int(node_config["num-partitions"]))
    raise ConfigError(
        'the node\'s configuration names no data; start it with --node-config \'data="..." catalogue="..."\', the '
        "folder and the catalogue that fedrec data shard wrote"
    )


@lru_cache(maxsize=_NODES)
def _of_shard(data: str, catalogue: str, section: str, seed: int) -> Holding:
    """What a node makes of its shard; read once a process."""
    interactions = read_shard(Path(data), Path(catalogue))
    public = Public.beside(Path(catalogue))
    return _dealt(split_of_node(interactions, DataConfig.model_validate_json(section), seed), public)


@lru_cache(maxsize=4)
def _whole(section: str, seed: int) -> tuple[Split, Holding]:
    """Everyone, for the nodes of a simulation."""
    split = load_split(DataConfig.model_validate_json(section), seed).split
    return split, _dealt(split, Public.of(split.train))


@lru_cache(maxsize=_NODES)
def _of_share(section: str, seed: int, number: int, of: int) -> Holding:
    """The share of one node of a simulation."""
    split, everyone = _whole(section, seed)
    mine = torch.from_numpy(shares(split.train.users, of)[number])
    return Holding(everyone.devices.take(mine), everyone.catalogue)


def _dealt(split: Split, public: Public) -> Holding:
    """Devices with what they hold out and their users' groups, but for users of whom the split leaves nothing."""
    groups = coded_groups(split.train.user_attributes, group_labels(public.columns))
    devices = Devices.of(
        split.train,
        held_out={
            "valid": HeldOutItems.of(split.valid),
            "test": HeldOutItems.of(split.test, split.valid, groups=groups),
        },
    )
    left = split.train.user_degrees + split.valid.user_degrees + split.test.user_degrees
    return Holding(devices.take(torch.from_numpy(np.flatnonzero(left))), fingerprint(split.train.items))


client = client_app(holding)
