"""What a client is: one user, or a silo of several, and who is in which silo.

A silo is a client like any other: it takes part as one, its answer to a query is the sum of its users' answers, and
local training shares one copy of the item table within it. Who is where is drawn from the run's seed.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import IntArray, Interactions
from fedrec.errors import ConfigError, did_you_mean
from fedrec.graph.analysis import networkx_graph
from fedrec.streams import Streams


class PopulationConfig(Config):
    """What a client is.

    Attributes:
        kind: "users", one user a client; or "silos".
        rule: how users come into silos. "random": parts of equal size but for one user. "attribute": one silo for each
            value of the user column `by`; users of whom it is unknown share one. "dirichlet": skewed by label, see
            `alpha`. "louvain": communities of the user-item graph (Blondel et al. 2008), so that silos have items of
            their own; the largest go first, each to the smallest silo so far.
        silos: their number; "attribute" makes as many as there are values.
        by: the user column of "attribute"; for "dirichlet" a user column, or an item column (values joined by "|"), by
            which a user's label is the value that is most over-represented in the history.
        alpha: concentration of "dirichlet": the users of a label are dealt to the silos in proportions drawn from
            Dir(alpha); .1 gives each silo few labels, 100 all of them alike.
        resolution: of Louvain; more than 1 makes more and smaller communities.
    """

    kind: Literal["users", "silos"] = "users"
    rule: Literal["random", "attribute", "dirichlet", "louvain"] = "random"
    silos: int | None = Field(None, ge=1)
    by: str | None = None
    alpha: float = Field(0.5, gt=0)
    resolution: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "users":
            if self.silos is not None or self.by is not None:
                raise ValueError("silos and by belong to kind = 'silos'; set it, or leave them out")
            return self
        if (self.silos is None) != (self.rule == "attribute"):
            wants = "makes one silo a value; leave silos out" if self.silos else "needs a number of silos; set silos"
            raise ValueError(f"rule '{self.rule}' {wants}")
        if (self.by is None) != (self.rule in ("random", "louvain")):
            raise ValueError(
                f"rule '{self.rule}' {'takes no column; leave by out' if self.by else 'needs by, a column'}"
            )
        return self


def silos_of(config: PopulationConfig, train: Interactions, seed: int) -> Tensor | None:
    """The silo of each user, [n_users] int64, numbered from 0 without a gap; None where every user is a client.

    Args:
        config: the rule.
        train: whose graph, user columns and item columns the rule is about.
        seed: of the run.

    Raises:
        ConfigError: if there are more silos than users, a column does not exist, or Louvain finds too few communities.
    """
    if config.kind == "users":
        return None
    if config.silos is not None and config.silos > train.n_users:
        raise ConfigError(f"population.silos = {config.silos}: there are {train.n_users} users; give each silo one")
    streams = Streams(seed)
    if config.rule == "random":
        silo = _random(train, config.silos or 1, streams)
    elif config.rule == "attribute":
        silo = _labels(train, config.by or "", items=False)
    elif config.rule == "dirichlet":
        silo = _dirichlet(_labels(train, config.by or "", items=True), config, streams)
    else:
        silo = _louvain(train, config, streams)
    return torch.from_numpy(np.unique(silo, return_inverse=True)[1].astype(np.int64))


def count_silos(silo: Tensor | None) -> int | None:
    """How many silos there are; None where every user is a client."""
    return None if silo is None else int(silo.max()) + 1


def _random(train: Interactions, silos: int, streams: Streams) -> IntArray:
    order = np.argsort(streams.words("silo", train.users.keys).numpy(), kind="stable")
    silo = np.empty(train.n_users, dtype=np.int64)
    for number, users in enumerate(np.array_split(order, silos)):
        silo[users] = number
    return silo


def _labels(train: Interactions, column: str, *, items: bool) -> IntArray:
    """[n_users] the user's value of a column, as a number; unknown is one more."""
    of_users = [str(name) for name in train.user_attributes.columns]
    of_items = [str(name) for name in train.item_attributes.columns] if items else []
    if column in of_users:
        codes, values = pd.factorize(train.user_attributes[column].astype("str"), sort=True)
        known = train.user_attributes[column].notna().to_numpy()
        return np.where(known, codes, len(values)).astype(np.int64)
    if column in of_items:
        return _favourite(train, train.item_attributes[column])
    sorts = "user or item" if items else "user"
    raise ConfigError(f"population.by: no {sorts} column '{column}'; {did_you_mean(column, of_users + of_items)}")


def _favourite(train: Interactions, column: pd.Series) -> IntArray:
    """[n_users] the category whose share of the user's history exceeds most its share of all histories."""
    dummies = column.fillna("").astype("str").str.get_dummies("|").to_numpy(dtype=np.float64)
    counts = np.zeros((train.n_users, dummies.shape[1]))
    np.add.at(counts, train.user, dummies[train.item])
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    excess = share - counts.sum(axis=0) / max(1.0, counts.sum())
    return np.where(total[:, 0] > 0, excess.argmax(axis=1), dummies.shape[1]).astype(np.int64)


def _dirichlet(labels: IntArray, config: PopulationConfig, streams: Streams) -> IntArray:
    """Users of each label, dealt to silos in proportions of their own."""
    silos, numbers = config.silos or 1, streams.numbers("silo")
    silo = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        users = numbers.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum(numbers.dirichlet(np.full(silos, config.alpha)))[:-1] * len(users)
        for number, part in enumerate(np.split(users, np.round(ends).astype(np.int64))):
            silo[part] = number
    return silo


def _louvain(train: Interactions, config: PopulationConfig, streams: Streams) -> IntArray:
    import networkx as nx  # slow to import, and no node needs it

    found = nx.community.louvain_communities(
        networkx_graph(train), resolution=config.resolution, seed=int(streams.numbers("silo").integers(2**31))
    )
    parts = [sorted(node for node in community if node < train.n_users) for community in found]
    parts = sorted((part for part in parts if part), key=lambda part: (-len(part), part))
    silos = config.silos or 1
    if len(parts) < silos:
        raise ConfigError(
            f"population.silos = {silos}: Louvain finds {len(parts)} communities at resolution {config.resolution:g}; "
            "raise the resolution or ask for fewer silos"
        )
    parts += [[user] for user in np.flatnonzero(train.user_degrees == 0).tolist()]  # they are in no community
    silo, sizes = np.empty(train.n_users, dtype=np.int64), [0] * silos
    for part in parts:
        smallest = sizes.index(min(sizes))
        silo[part] = smallest
        sizes[smallest] += len(part)
    return silo
