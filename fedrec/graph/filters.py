"""Filters of signals on the graph: polynomials of the normalised adjacency, applied without its eigenvectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedrec.graph.bipartite import BipartiteGraph
from fedrec.graph.propagation import convolve


def low_pass(graph: BipartiteGraph, signal: Tensor, cutoff: float, degree: int = 40) -> Tensor:
    """What a signal holds of the eigenvectors of Â whose eigenvalue is above the cutoff, to a polynomial's accuracy.

    The ideal filter's Chebyshev series to the degree, with Jackson's damping against ripples: it passes what is more
    than about π / degree above the cutoff and stops what is as far below (Weiße et al. 2006, "The kernel polynomial
    method", section II.C).

    Args:
        graph: its weights in the dtype and on the device of `signal`. Its eigenvalues lie in [−1, 1].
        signal: [n_users + n_items, width].
        cutoff: in (−1, 1).
        degree: products with Â that are taken, at least 1.

    Returns:
        [n_users + n_items, width].
    """
    first, second, *rest = chebyshev_step(cutoff, degree).tolist()
    before, now = signal, convolve(graph, signal)
    filtered: Tensor = first * before + second * now
    for coefficient in rest:
        before, now = now, 2 * convolve(graph, now) - before
        filtered += coefficient * now
    return filtered


def chebyshev_step(cutoff: float, degree: int) -> Tensor:
    """Damped coefficients of T_0, ..., T_degree for the function that is 1 above the cutoff and 0 below, in float64."""
    angle = math.acos(cutoff)
    order = torch.arange(1, degree + 1, dtype=torch.float64)
    series = torch.cat([torch.tensor([angle / math.pi]), 2 / math.pi * torch.sin(order * angle) / order])
    count, place = degree + 2, torch.arange(degree + 1, dtype=torch.float64)
    turn = math.pi / count
    damping = ((count - place) * torch.cos(turn * place) + torch.sin(turn * place) / math.tan(turn)) / count
    return series * damping
