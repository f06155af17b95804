"""Synthetic interactions with the shape of real ones: communities, popularity skew, unequal activity, user groups.

A user's interactions are a function of the seed, the user's id and the items, not of how many other users there are:
the first thousand users of a million are the same as a thousand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import IntArray, Interactions, Vocabulary
from fedrec.streams import Streams

_CHUNK = 1 << 16  # users drawn at a time: keeps the memory of a million users to what the result needs
_TRIES = 64  # rounds of redrawing repeated pairs; a user who still lacks items has nearly all that are likely
_YEAR = 365 * 24 * 3600


class SyntheticConfig(Config):
    """What to generate.

    Attributes:
        users, items: how many; every one is in the vocabulary, an item may have no interaction.
        interactions: mean number of a user's interactions.
        activity: standard deviation of the logarithm of a user's number of interactions, which is log-normal; 0 makes
            all equal.
        communities: users and items belong to one each; community c has a share of users proportional to 1/(c+1).
        affinity: probability that an interaction is with an item of the user's own community.
        skew: exponent of Zipf's law: an item of popularity rank r in its community weighs (r+1)^-skew.
        groups: number of user groups; group g holds the communities c with c mod groups = g, so that groups differ in
            size and in taste.
    """

    users: int = Field(200, ge=2)
    items: int = Field(120, ge=2)
    interactions: float = Field(20.0, ge=1)
    activity: float = Field(0.5, ge=0)
    communities: int = Field(4, ge=1)
    affinity: float = Field(0.8, ge=0, le=1)
    skew: float = Field(1.0, ge=0)
    groups: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> SyntheticConfig:
        if self.communities > self.items:
            raise ValueError(f"{self.communities} communities for {self.items} items; each needs an item")
        if self.interactions > self.items / 2:
            raise ValueError(
                f"{self.interactions:g} interactions a user of {self.items} items; at most half the items are drawn"
            )
        return self


def generate(config: SyntheticConfig, seed: int = 0) -> Interactions:
    """Draw interactions, each pair at most once.

    Returns:
        Interactions with timestamps (whole seconds within a year, ascending within a user; rows are grouped by user),
        the user attribute `group`, and the item attribute `genres`: the item's community, and for some a
        second one.
    """
    streams = Streams(seed)
    users = Vocabulary(tuple(map(str, range(config.users))))
    items = Vocabulary(tuple(map(str, range(config.items))))
    shares = 1.0 / (1.0 + np.arange(config.communities))
    limits = torch.from_numpy(np.cumsum(shares) / shares.sum())[:-1]
    community = torch.bucketize(streams.uniform("synthetic/community", users.keys), limits, right=True)
    pools = _Pools.of(config, items.keys, streams)
    chunks = [
        _draw(config, first, users.keys[first : first + _CHUNK], community[first : first + _CHUNK], pools, streams)
        for first in range(0, config.users, _CHUNK)
    ]
    user, item, time = (np.concatenate(column) for column in zip(*chunks, strict=True))
    return Interactions(
        user=user,
        item=item,
        users=users,
        items=items,
        time=time.astype(np.float64),
        user_attributes=pd.DataFrame({"group": [f"group-{c % config.groups}" for c in community.tolist()]}),
        item_attributes=pd.DataFrame({"genres": _genres(config, items.keys, streams)}),
    )


@dataclass(frozen=True)
class _Pools:
    """One pool of items for each community, and a last one of all items, each with its Zipf weights.

    Attributes:
        items: [2 n_items] the pools one after the other.
        cdf: [2 n_items] p + the cumulative share of an item's weight within pool p: ascending over all pools.
    """

    items: Tensor
    cdf: Tensor

    @classmethod
    def of(cls, config: SyntheticConfig, item_keys: Tensor, streams: Streams) -> _Pools:
        # A random order of items, so that an item's code says nothing about its popularity.
        shuffled = streams.words("synthetic/popularity", item_keys).argsort()
        communities = [shuffled[shuffled % config.communities == c] for c in range(config.communities)]
        weights = [(1.0 + torch.arange(len(pool)).double()) ** -config.skew for pool in communities]
        pools, all_weights = [*communities, torch.cat(communities)], [*weights, torch.cat(weights)]
        cdf = [p + cumulative / cumulative[-1] for p, cumulative in enumerate(w.cumsum(0) for w in all_weights)]
        return cls(torch.cat(pools), torch.cat(cdf))

    def draw(self, pool: Tensor, uniform: Tensor) -> Tensor:
        """An item of each pool: [n] pool numbers and [n] uniform numbers -> [n] item codes."""
        position = torch.searchsorted(self.cdf, pool + uniform, right=True)
        return self.items[position]


def _draw(
    config: SyntheticConfig, first: int, keys: Tensor, community: Tensor, pools: _Pools, streams: Streams
) -> tuple[IntArray, IntArray, IntArray]:
    """User codes, items and times of consecutive users, the first of which has code `first`."""
    activity = torch.exp(config.activity * streams.normal("synthetic/activity", keys, 1)[:, 0] - config.activity**2 / 2)
    wanted = (config.interactions * activity).round().long().clamp(1, config.items // 2)
    drawn = torch.zeros_like(wanted)
    finished = []
    pairs = torch.empty(0, dtype=torch.int64)  # of the users who still lack some
    missing = wanted
    for _ in range(_TRIES):
        owner = torch.repeat_interleave(missing)
        counter = torch.arange(len(owner)) - (missing.cumsum(0) - missing - drawn)[owner]
        own = streams.uniform("synthetic/own", keys[owner], counter) < config.affinity
        pool = torch.where(own, community[owner], config.communities)
        item = pools.draw(pool, streams.uniform("synthetic/item", keys[owner], counter))
        drawn += missing
        pairs = torch.from_numpy(np.sort(torch.cat([pairs, owner * config.items + item]).numpy()))
        pairs = torch.unique_consecutive(pairs)  # after a sort much faster than `unique`
        owner = pairs // config.items
        missing = torch.where(missing > 0, wanted - torch.bincount(owner, minlength=len(keys)), 0)
        if not missing.any():
            break
        lacking = missing[owner] > 0
        finished.append(pairs[~lacking])
        pairs = pairs[lacking]
    pairs = torch.cat([*finished, pairs])
    user, item = pairs // config.items, pairs % config.items
    time = streams.integers("synthetic/time", keys[user], _YEAR, item)
    rows = np.lexsort((time.numpy(), user.numpy()))
    return user.numpy()[rows] + first, item.numpy()[rows], time.numpy()[rows]


def _genres(config: SyntheticConfig, keys: Tensor, streams: Streams) -> list[str]:
    """Genres of each item: that of its community, and of some items a second one, joined by "|"."""
    home = torch.arange(config.items) % config.communities
    second = streams.integers("synthetic/second", keys, config.communities)
    mixed = (streams.uniform("synthetic/mixed", keys) < 0.2) & (second != home)
    return [
        f"genre-{a}|genre-{b}" if both else f"genre-{a}"
        for a, b, both in zip(home.tolist(), second.tolist(), mixed.tolist(), strict=True)
    ]
