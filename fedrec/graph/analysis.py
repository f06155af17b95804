"""What a set of interactions looks like as a graph: components, degrees, concentration, communities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fedrec.data.interactions import BoolArray, IntArray, Interactions
from fedrec.errors import DataError
from fedrec.streams import Streams

if TYPE_CHECKING:
    from networkx import Graph

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
COMMUNITY_EDGES = 100_000
"""Louvain runs in Python, some seconds for as many edges; of a larger graph it sees a sample of the users."""


@dataclass(frozen=True)
class GraphSummary:
    """The bipartite graph of a set of interactions. Users and items without an interaction are counted, not analysed.

    Attributes:
        users, items: with at least one interaction.
        isolated_users, isolated_items: of the vocabularies, without one.
        interactions: edges of the graph.
        density: interactions / (users · items).
        user_degrees, item_degrees: (quantile, interactions of the user or item) for each of `QUANTILES`.
        top_share: share of the interactions that falls on the most popular tenth of the items; .1 if all are alike.
        components: number of connected components.
        largest_component: share of users and items in the largest one.
        communities: users and items in each Louvain community, largest first.
        modularity: of those communities, in [-½, 1]; 0 is what a random graph of these degrees gives.
        notes: what a reader must know (what was sampled), one sentence each.
    """

    users: int
    items: int
    isolated_users: int
    isolated_items: int
    interactions: int
    density: float
    user_degrees: tuple[tuple[float, float], ...]
    item_degrees: tuple[tuple[float, float], ...]
    top_share: float
    components: int
    largest_component: float
    communities: tuple[int, ...]
    modularity: float
    notes: tuple[str, ...]


def describe(interactions: Interactions, seed: int = 0, community_edges: int = COMMUNITY_EDGES) -> GraphSummary:
    """The summary of a set of interactions.

    Args:
        interactions: each pair at most once.
        seed: of Louvain, and of the sample of users that it sees.
        community_edges: the most interactions that Louvain is given; above it, users are sampled.

    Raises:
        DataError: if there are no interactions, or if a pair occurs twice.
    """
    from networkx.algorithms import community  # slow to import, and no node needs it

    if not len(interactions):
        raise DataError("there is no interaction to describe; check the file and the cleaning")
    _ = interactions.csr  # refuses repeated pairs, which are no edges of a simple graph
    user_degrees = interactions.user_degrees[interactions.user_degrees > 0]
    item_degrees = interactions.item_degrees[interactions.item_degrees > 0]
    sizes = component_sizes(interactions)
    sample = _sample_of_users(interactions, seed, community_edges)
    graph = networkx_graph(interactions.take(sample))
    partition = community.louvain_communities(graph, seed=seed)
    notes: tuple[str, ...] = ()
    if not sample.all():
        seen = len(np.unique(interactions.user[sample]))
        notes = (f"Communities are those of {seen:,} of {len(user_degrees):,} users, drawn at random.",)
    return GraphSummary(
        users=len(user_degrees),
        items=len(item_degrees),
        isolated_users=interactions.n_users - len(user_degrees),
        isolated_items=interactions.n_items - len(item_degrees),
        interactions=len(interactions),
        density=len(interactions) / (len(user_degrees) * len(item_degrees)),
        user_degrees=_quantiles(user_degrees),
        item_degrees=_quantiles(item_degrees),
        top_share=top_share(item_degrees),
        components=len(sizes),
        largest_component=float(sizes[0] / sizes.sum()),
        communities=tuple(sorted(map(len, partition), reverse=True)),
        modularity=float(community.modularity(graph, partition)),
        notes=notes,
    )


def networkx_graph(interactions: Interactions) -> Graph[int]:
    """The graph as networkx sees it: users are nodes 0, 1, ... by code, items follow at n_users + code.

    Nodes have the attribute `bipartite`, 0 for users and 1 for items; those without an interaction are left out.
    """
    from networkx import Graph

    graph: Graph[int] = Graph()
    items = interactions.item + interactions.n_users
    graph.add_nodes_from(np.unique(interactions.user).tolist(), bipartite=0)
    graph.add_nodes_from(np.unique(items).tolist(), bipartite=1)
    graph.add_edges_from(zip(interactions.user.tolist(), items.tolist(), strict=True))
    return graph


def component_sizes(interactions: Interactions) -> IntArray:
    """Users and items in each connected component, largest first; those without an interaction are in none."""
    size = interactions.n_users + interactions.n_items
    ends = (interactions.user, interactions.item + interactions.n_users)
    adjacency = coo_array((np.ones(len(interactions), dtype=np.int8), ends), shape=(size, size))
    _, label = connected_components(adjacency, directed=False)
    occurs = np.concatenate([interactions.user_degrees, interactions.item_degrees]) > 0
    sizes = np.bincount(label[occurs])
    return np.sort(sizes[sizes > 0])[::-1].astype(np.int64)


def top_share(degrees: IntArray, top: float = 0.1) -> float:
    """Share of all interactions that falls on the `top` share of the items (rounded up) with the most of them."""
    count = int(np.ceil(top * len(degrees)))
    return float(np.sort(degrees)[::-1][:count].sum() / degrees.sum())


def _quantiles(degrees: IntArray) -> tuple[tuple[float, float], ...]:
    return tuple(zip(QUANTILES, np.quantile(degrees, QUANTILES).tolist(), strict=True))


def _sample_of_users(interactions: Interactions, seed: int, most: int) -> BoolArray:
    """Mask of the interactions of as many users, in random order, as have at most `most` interactions together."""
    if len(interactions) <= most:
        return np.ones(len(interactions), dtype=np.bool_)
    order = torch.randperm(interactions.n_users, generator=Streams(seed).generator("communities")).numpy()
    within = np.cumsum(interactions.user_degrees[order]) <= most
    within[np.flatnonzero(interactions.user_degrees[order])[0]] = True  # at least one, however many it has
    kept = np.zeros(interactions.n_users, dtype=np.bool_)
    kept[order[within]] = True
    mask: BoolArray = kept[interactions.user]
    return mask
