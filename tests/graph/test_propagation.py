from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.graph import BipartiteGraph, propagate
from fedrec.graph._pyg import LGConv
from tests.graph.small import PATH, graphs, interactions


def dense_propagation(train: Interactions, embedding: Tensor, layers: int) -> Tensor:
    """Equations 4-8 written out with a dense matrix."""
    ratings = torch.zeros(train.n_users, train.n_items, dtype=torch.float64)
    ratings[train.user, train.item] = 1.0
    # A node without an edge has an empty row, whatever it is divided by.
    of_user, of_item = (ratings.sum(dim).clamp(min=1).rsqrt() for dim in (1, 0))
    block = of_user.unsqueeze(1) * ratings * of_item
    adjacency = torch.zeros(len(embedding), len(embedding), dtype=torch.float64)
    adjacency[: train.n_users, train.n_users :] = block
    adjacency[train.n_users :, : train.n_users] = block.T
    powers = [torch.linalg.matrix_power(adjacency, power) @ embedding for power in range(layers + 1)]
    return torch.stack(powers).mean(dim=0)


def test_two_layers_by_hand() -> None:
    # A user with two items: e_u = (u + (a + b)/√2 + u) / 3 and e_a = (a + u/√2 + (a + b)/2) / 3.
    graph = BipartiteGraph.of(interactions([(0, 0), (0, 1)], 1, 2), torch.float64)
    final = propagate(graph, torch.tensor([[6.0], [3.0], [9.0]], dtype=torch.float64), layers=2)
    expected = [(12 + 12 / sqrt(2)) / 3, (3 + 6 / sqrt(2) + 6) / 3, (9 + 6 / sqrt(2) + 6) / 3]
    torch.testing.assert_close(final.squeeze(1), torch.tensor(expected, dtype=torch.float64))


@given(train=graphs(), layers=st.integers(0, 4), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_equals_the_dense_computation_forward_and_backward(train: Interactions, layers: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (train.n_users + train.n_items, 3)
    embedding, weights = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    sparse, dense = embedding.clone().requires_grad_(), embedding.clone().requires_grad_()
    result = propagate(BipartiteGraph.of(train, torch.float64), sparse, layers)
    expected = dense_propagation(train, dense, layers)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    (result * weights).sum().backward()  # type: ignore[no-untyped-call]
    (expected * weights).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(sparse.grad, dense.grad, rtol=1e-12, atol=1e-12)


def test_agrees_with_pyg_normalising_a_raw_edge_index() -> None:
    graph = BipartiteGraph.of(PATH)
    embedding = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    layer = LGConv()(embedding, graph.edge_index.as_tensor())
    torch.testing.assert_close(propagate(graph, embedding, 1), (embedding + layer) / 2)


def test_a_node_without_an_edge_keeps_its_share() -> None:
    graph = BipartiteGraph.of(PATH)
    final = propagate(graph, torch.ones(6, 2), layers=3)
    assert torch.isfinite(final).all()
    torch.testing.assert_close(final[[2, 5]], torch.full((2, 2), 0.25))


def test_messages_are_never_gathered_edge_by_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_path(*_: object) -> None:
        raise AssertionError("LGConv built a message for each edge")

    monkeypatch.setattr(LGConv, "message", slow_path)
    embedding = torch.ones(6, 2, requires_grad=True)
    propagate(BipartiteGraph.of(PATH), embedding, layers=2).sum().backward()  # type: ignore[no-untyped-call]
    assert embedding.grad is not None


def test_a_graph_of_another_precision_is_refused() -> None:
    with pytest.raises(RuntimeError):
        propagate(BipartiteGraph.of(PATH), torch.ones(6, 2, dtype=torch.float64), layers=1)
