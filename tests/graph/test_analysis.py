import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings

from fedrec.data.interactions import Interactions
from fedrec.errors import DataError
from fedrec.graph import component_sizes, describe, networkx_graph, top_share
from tests.graph.small import PAIRS, PATH, graphs, interactions

# Two complete blocks of 4 users and 3 items, and one user (8) and one item (6) that nobody touched.
BLOCKS = interactions([(user, 3 * (user // 4) + item) for user in range(8) for item in range(3)], n_users=9, n_items=7)


def test_two_blocks_by_hand() -> None:
    summary = describe(BLOCKS)
    assert (summary.users, summary.items, summary.interactions) == (8, 6, 24)
    assert (summary.isolated_users, summary.isolated_items) == (1, 1)
    assert summary.density == 24 / 48
    assert summary.components == 2
    assert summary.largest_component == 0.5
    assert summary.communities == (7, 7)
    assert summary.modularity == pytest.approx(0.5)  # 1 − Σ (half of all edge ends)²
    assert dict(summary.user_degrees) == dict.fromkeys((0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0), 3.0)
    assert summary.item_degrees[-1] == (1.0, 4.0)
    assert summary.notes == ()


def test_the_largest_component_is_the_larger_one() -> None:
    summary = describe(interactions([*PAIRS, (2, 2)], n_users=3, n_items=3))
    assert summary.components == 2
    assert summary.largest_component == 4 / 6


def test_top_share_by_hand() -> None:
    degrees = np.array([1, 1, 50, 1, 1, 1, 1, 1, 1, 1, 41])  # two of eleven are the tenth, rounded up
    assert top_share(degrees) == 91 / 100
    assert top_share(np.full(10, 7)) == pytest.approx(0.1)


@given(train=graphs())
@settings(max_examples=30, deadline=None)
def test_components_are_those_of_networkx(train: Interactions) -> None:
    expected = sorted(map(len, nx.connected_components(networkx_graph(train))), reverse=True)
    assert component_sizes(train).tolist() == expected


def test_networkx_view_is_bipartite() -> None:
    graph = networkx_graph(PATH)
    assert sorted(tuple(sorted(edge)) for edge in graph.edges) == [(0, 3), (0, 4), (1, 4)]
    assert nx.get_node_attributes(graph, "bipartite") == {0: 0, 1: 0, 3: 1, 4: 1}


def test_a_large_graph_is_sampled_by_users_and_says_so() -> None:
    summary = describe(BLOCKS, community_edges=12)
    assert summary.notes == ("Communities are those of 4 of 8 users, drawn at random.",)
    assert summary.interactions == 24
    assert summary.components == 2  # everything else is exact
    assert describe(BLOCKS, community_edges=12) == summary
    assert describe(BLOCKS, community_edges=1).notes == ("Communities are those of 1 of 8 users, drawn at random.",)


def test_nothing_to_describe_is_refused() -> None:
    with pytest.raises(DataError, match="no interaction"):
        describe(interactions([], 2, 2))


def test_a_repeated_pair_is_refused() -> None:
    with pytest.raises(DataError, match="more than once"):
        describe(interactions([(0, 0), (0, 0)], 1, 1))
