"""Dealing users to nodes: what each node of a federation is given, and nothing of the others."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from fedrec.data.interactions import Interactions
from fedrec.errors import DataError
from fedrec.streams import Streams

CATALOGUE = "catalogue.parquet"


def shard(interactions: Interactions, nodes: int, folder: Path) -> tuple[Path, ...]:
    """Write one folder a node, and the public catalogue of items that all of them share.

    A user belongs to one node, with everything they did. Who goes where is drawn by a hash of the original id, in parts
    of equal size but for one user.

    Args:
        interactions: of all users.
        nodes: number of nodes.
        folder: to write, which must not exist; it appears whole or not at all.

    Returns:
        The nodes' folders `node-0`, `node-1`, ...; each holds `interactions.parquet` (user, item, and rating and time
        where known; original ids, file order) and `users.parquet` where users have attributes. Beside them stands
        `catalogue.parquet`: all items, with their attributes.

    Raises:
        DataError: if there are fewer users than nodes, or the folder exists or cannot be written.
    """
    if not 1 <= nodes <= interactions.n_users:
        raise DataError(f"{nodes} nodes for {interactions.n_users} users; give each node a user at least, and one node")
    if folder.exists():
        raise DataError(f"{folder}: exists; choose a new folder for the nodes' files")
    order = np.argsort(Streams(0).words("shard", interactions.users.keys).numpy(), kind="stable")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            ready = Path(scratch) / "ready"
            ready.mkdir()
            _catalogue(interactions).to_parquet(ready / CATALOGUE, index=False)
            for number, users in enumerate(np.array_split(order, nodes)):
                _write_node(interactions, np.sort(users), ready / f"node-{number}")
            ready.rename(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from error
    return tuple(folder / f"node-{number}" for number in range(nodes))


def _catalogue(interactions: Interactions) -> pd.DataFrame:
    return pd.concat([pd.DataFrame({"item": interactions.items.ids}), interactions.item_attributes], axis=1)


def _write_node(interactions: Interactions, users: np.ndarray[tuple[int], np.dtype[np.int64]], node: Path) -> None:
    node.mkdir()
    own = interactions.take(np.isin(interactions.user, users))
    table = pd.DataFrame({"user": own.users.decode(own.user), "item": own.items.decode(own.item)})
    for name in ("rating", "time"):
        values = getattr(own, name)
        if values is not None:
            table[name] = values
    table.to_parquet(node / "interactions.parquet", index=False)
    if len(interactions.user_attributes.columns):
        attributes = interactions.user_attributes.iloc[users].reset_index(drop=True)
        ids = pd.DataFrame({"user": interactions.users.decode(users)})
        pd.concat([ids, attributes], axis=1).to_parquet(node / "users.parquet", index=False)
