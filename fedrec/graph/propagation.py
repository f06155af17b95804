"""LightGCN's propagation: the mean of 0 to L applications of the normalised adjacency."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedrec.graph.bipartite import BipartiteGraph


def propagate(graph: BipartiteGraph, embedding: Tensor, layers: int) -> Tensor:
    """Final embeddings E = (E⁰ + ÂE⁰ + … + ÂᴸE⁰) / (L + 1), Â = D^-½ A D^-½ (He et al. 2020, eq. 4-8).

    Args:
        graph: its weights in the dtype and on the device of `embedding`.
        embedding: [n_users + n_items, width] E⁰, users first.
        layers: L; 0 gives E⁰ back.

    Returns:
        [n_users + n_items, width]. A node without an edge keeps E⁰ / (L + 1).
    """
    final: Tensor = _Propagation.apply(embedding, graph, layers)  # type: ignore[no-untyped-call]
    return final


class _Propagation(torch.autograd.Function):
    """The operator is linear and symmetric: its backward pass is its forward pass, and needs no saved layers.

    torch's own gradient would transpose the sparse tensor in every pass, at 8 times the cost of the product.
    """

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, graph: BipartiteGraph, layers: int) -> Tensor:
        ctx.graph, ctx.layers = graph, layers
        return _mean_of_layers(graph, embedding, layers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _mean_of_layers(ctx.graph, gradients[0], ctx.layers), None, None


def _mean_of_layers(graph: BipartiteGraph, embedding: Tensor, layers: int) -> Tensor:
    layer, total = embedding, embedding.clone()
    for _ in range(layers):
        layer = convolve(graph, layer)
        total += layer
    return total.div_(layers + 1)


def convolve(graph: BipartiteGraph, layer: Tensor) -> Tensor:
    """ÂE: what `LGConv` computes, on the CPU by our own kernel.

    Args:
        graph: its weights in the dtype and on the device of `layer`.
        layer: [n_users + n_items, width].
    """
    adjacency = graph.adjacency
    if layer.device.type == "cpu":
        from fedrec.graph.kernels import times_rows  # numba takes a while to import

        return times_rows((adjacency.crow_indices(), adjacency.col_indices(), adjacency.values()), layer)
    from fedrec.graph._pyg import LGConv

    # The weights are normalised already. Given a sparse tensor, LGConv is one sparse product; given an edge index, even
    # a cached `EdgeIndex`, it gathers a message for each edge: 20 times slower on 1.6 million edges of width 64.
    convolved: Tensor = LGConv(normalize=False)(layer, adjacency)
    return convolved
