from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from fedrec.data.interactions import Interactions
from fedrec.errors import DataError
from fedrec.graph import BipartiteGraph
from tests.graph.small import PATH, graphs, interactions


def test_adjacency_by_hand() -> None:
    graph = BipartiteGraph.of(PATH, torch.float64)
    expected = torch.zeros(6, 6, dtype=torch.float64)
    # d_u = 2, 1, 0 and d_i = 1, 2, 0; item i is node 3 + i.
    for user, item, value in ((0, 3, 1 / sqrt(2 * 1)), (0, 4, 1 / sqrt(2 * 2)), (1, 4, 1 / sqrt(1 * 2))):
        expected[user, item] = expected[item, user] = value
    torch.testing.assert_close(graph.adjacency.to_dense(), expected)
    assert graph.n_edges == 3
    assert graph.user_degrees.tolist() == [2, 1, 0]
    assert graph.item_degrees.tolist() == [1, 2, 0]


@given(train=graphs())
@settings(max_examples=40, deadline=None)
def test_roots_of_the_degrees_are_the_fixed_point_of_the_adjacency(train: Interactions) -> None:
    graph = BipartiteGraph.of(train, torch.float64)
    roots = torch.cat([graph.user_degrees, graph.item_degrees]).double().sqrt()
    torch.testing.assert_close(graph.adjacency @ roots, roots)
    dense = graph.adjacency.to_dense()
    torch.testing.assert_close(dense, dense.T)
    assert (dense[train.user, train.item + train.n_users] > 0).all()


@given(train=graphs())
@settings(max_examples=20, deadline=None)
def test_edge_index_keeps_what_it_declares(train: Interactions) -> None:
    edge_index = BipartiteGraph.of(train).edge_index
    edge_index.validate()  # sorted by row, undirected, within its size
    assert edge_index.is_sorted_by_row
    assert edge_index.is_undirected
    assert edge_index._indptr is not None  # cached: multiplying never builds it
    row, column = edge_index.as_tensor()
    assert (torch.diff(row * (train.n_users + train.n_items) + column) > 0).all()  # and within a row by column


def test_hetero_view_has_both_directions() -> None:
    data = BipartiteGraph.of(PATH).hetero()
    rates, rated_by = data["user", "rates", "item"], data["item", "rated_by", "user"]
    assert set(map(tuple, rates.edge_index.T.tolist())) == {(0, 0), (0, 1), (1, 1)}
    assert torch.equal(rated_by.edge_index, rates.edge_index.flip(0))
    assert dict(zip(map(tuple, rates.edge_index.T.tolist()), rates.edge_weight.tolist(), strict=True)) == pytest.approx(
        {(0, 0): 1 / sqrt(2), (0, 1): 1 / 2, (1, 1): 1 / sqrt(2)}
    )
    assert (data["user"].num_nodes, data["item"].num_nodes) == (3, 3)
    data.validate()


def test_order_of_the_file_does_not_matter() -> None:
    shuffled = PATH.take(np.array([2, 0, 1]))
    first, second = BipartiteGraph.of(PATH), BipartiteGraph.of(shuffled)
    assert torch.equal(first.edge_index.as_tensor(), second.edge_index.as_tensor())


def test_a_moved_graph_is_the_same_graph() -> None:
    graph = BipartiteGraph.of(PATH)
    moved = graph.to(torch.device("cpu"))
    assert torch.equal(moved.adjacency.to_dense(), graph.adjacency.to_dense())


def test_a_repeated_pair_is_refused() -> None:
    with pytest.raises(DataError, match="1 user-item pairs occur more than once"):
        BipartiteGraph.of(interactions([(0, 0), (0, 1), (0, 0)], 1, 2))
