"""Dealing users to nodes: what each node of a federation is given, and nothing of the others."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fedrec.data.interactions import IntArray, Interactions, Vocabulary
from fedrec.errors import DataError
from fedrec.streams import Streams

CATALOGUE = "catalogue.parquet"
FEDERATION = "federation.json"

_MOST_VALUES = 100  # a column with more (a zip code, a name) says too much of a user, and makes no groups


@dataclass(frozen=True)
class Public:
    """What all nodes and their server know of a federation beside its catalogue, as `federation.json` holds it.

    Attributes:
        users: how many there are, on all nodes together.
        columns: by user column, the values that may occur in it, as text. Which user has which stays on the nodes.
    """

    users: int
    columns: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, interactions: Interactions) -> Public:
        """Of a data set whose users are dealt out; columns of more than a hundred values are left out."""
        values = {
            str(name): tuple(sorted(map(str, column.dropna().unique())))
            for name, column in interactions.user_attributes.items()
        }
        return cls(interactions.n_users, {name: found for name, found in values.items() if len(found) <= _MOST_VALUES})

    @classmethod
    def beside(cls, catalogue: Path) -> Public:
        """That of the folder that a catalogue lies in.

        Raises:
            DataError: if there is none, or it cannot be read.
        """
        path = catalogue.parent / FEDERATION
        try:
            content = json.loads(path.read_text())
            columns = {str(name): tuple(map(str, values)) for name, values in content["columns"].items()}
            return cls(int(content["users"]), columns)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); 'fedrec data shard' writes it") from error


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
        `catalogue.parquet`, all items with their attributes, and `federation.json`, see `Public`: neither says anything
        of a single user, and every node is given both.

    Raises:
        DataError: if there are fewer users than nodes, or the folder exists or cannot be written.
    """
    if not 1 <= nodes <= interactions.n_users:
        raise DataError(f"{nodes} nodes for {interactions.n_users} users; give each node a user at least, and one node")
    if folder.exists():
        raise DataError(f"{folder}: exists; choose a new folder for the nodes' files")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            ready = Path(scratch) / "ready"
            ready.mkdir()
            _catalogue(interactions).to_parquet(ready / CATALOGUE, index=False)
            (ready / FEDERATION).write_text(json.dumps(asdict(Public.of(interactions)), indent=2) + "\n")
            for number, users in enumerate(shares(interactions.users, nodes)):
                _write_node(interactions, users, ready / f"node-{number}")
            ready.rename(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from error
    return tuple(folder / f"node-{number}" for number in range(nodes))


def shares(users: Vocabulary, nodes: int) -> list[IntArray]:
    """The users of each node, ascending codes: by a hash of the original ids, in parts of one size but for one user."""
    order = np.argsort(Streams(0).words("shard", users.keys).numpy(), kind="stable")
    return [np.sort(part) for part in np.array_split(order, nodes)]


def _catalogue(interactions: Interactions) -> pd.DataFrame:
    return pd.concat([pd.DataFrame({"item": interactions.items.ids}), interactions.item_attributes], axis=1)


def _write_node(interactions: Interactions, users: IntArray, node: Path) -> None:
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
