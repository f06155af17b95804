"""What a node of a federation makes of its own shard: the codes and the split that it would have within the whole.

Codes come from the public catalogue of items. Cleaning and splitting can be done by a node alone where they concern one
user at a time; what looks at everyone (a k-core, a quantile of all times) has to be done before the data are dealt.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from fedrec.data.cleaning import CleaningConfig
from fedrec.data.encoding import encode
from fedrec.data.interactions import Interactions, Split, Vocabulary
from fedrec.data.loading import DataConfig
from fedrec.data.readers import RawInteractions
from fedrec.data.splitting import Given, GlobalTime, LeaveOneOut, split_shard
from fedrec.errors import ConfigError, DataError
from fedrec.streams import Streams


def read_shard(folder: Path, catalogue: Path) -> Interactions:
    """The interactions of one node, over its own users and all items of the catalogue.

    Args:
        folder: as `shard` wrote it: interactions.parquet, and users.parquet where users have attributes.
        catalogue: catalogue.parquet, with a column `item`; its order gives the items their codes.

    Raises:
        DataError: if a file cannot be read, or an interaction is with an item that the catalogue does not have.
    """
    items, attributes = read_catalogue(catalogue)
    rows = _table(folder / "interactions.parquet", "user", "item")
    rows.index.name = "row"
    users = pd.DataFrame()
    if (folder / "users.parquet").exists():
        users = _table(folder / "users.parquet", "user").set_index("user")
        users.index = users.index.astype(str)
    ids = {side: rows[side].astype(str) for side in ("user", "item")}
    (found,) = encode([RawInteractions(str(folder), rows.assign(**ids), users)])
    codes = items.encode(found.items.ids)
    if (codes < 0).any():
        unknown = found.items.ids[int(np.argmin(codes))]
        raise DataError(f"{folder}: item '{unknown}' is not in {catalogue}; give the node the federation's catalogue")
    return Interactions(
        found.user, codes[found.item], found.users, items, found.rating, found.time, found.user_attributes, attributes
    )


def read_catalogue(path: Path) -> tuple[Vocabulary, pd.DataFrame]:
    """The items of a public catalogue, and what is known of them, one row an item.

    Raises:
        DataError: if it cannot be read.
    """
    table = _table(path, "item")
    return Vocabulary(tuple(map(str, table["item"]))), table.drop(columns="item")


def _table(path: Path, *columns: str) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); write it with: fedrec data shard") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(f"{path}: no column '{missing[0]}'; write it with: fedrec data shard")
    return table


def split_of_node(interactions: Interactions, config: DataConfig, seed: int) -> Split:
    """A node's part of the experiment's split.

    Args:
        interactions: of the node, cleaned as the experiment says before they were dealt.
        config: the experiment's [data] section.
        seed: the experiment's first, unless the split has one of its own.

    Raises:
        ConfigError: if the split looks at everyone.
    """
    how = config.split or LeaveOneOut()
    if config.clean.max_interactions is not None or config.clean.k_core > 1 or config.clean.min_rating is not None:
        untouched = CleaningConfig(invalid=config.clean.invalid, duplicates=config.clean.duplicates)
        raise ConfigError(
            f"data.clean = {config.clean.model_dump(exclude_defaults=True)}: a node cannot leave out users and items "
            f"for everyone; clean before dealing, and let the experiment say {untouched.model_dump()}"
        )
    if isinstance(how, Given):
        raise ConfigError("data.split.kind = 'given': nodes hold one file of interactions each; split by 'ratio'")
    if isinstance(how, GlobalTime) and how.test_from < 1:
        raise ConfigError(
            f"data.split: valid_from = {how.valid_from} and test_from = {how.test_from} are quantiles of everyone's "
            "times, which no node knows; give two timestamps"
        )
    if not isinstance(how, GlobalTime) and how.seed is not None:
        seed = how.seed
    return split_shard(interactions, how, Streams(seed))
