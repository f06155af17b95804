"""The low-pass filter against the dense eigenvectors."""

from __future__ import annotations

import numpy as np
import torch

from fedrec.graph import BipartiteGraph, low_pass
from fedrec.graph.filters import chebyshev_step
from tests.recommenders.planted import blocks

TRAIN, _ = blocks()


def test_what_lies_clearly_on_either_side_of_the_cutoff_is_passed_or_stopped() -> None:
    graph = BipartiteGraph.of(TRAIN, torch.float64)
    values, vectors = torch.linalg.eigh(graph.adjacency.to_dense())
    signal = torch.randn(len(values), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gaps = values.diff()
    place = int(gaps[values[1:] > 0.2].argmax()) + int((values[1:] <= 0.2).sum())
    cutoff = float(values[place] + values[place + 1]) / 2
    assert gaps[place] > 0.1  # the planted blocks stand out
    ideal = vectors[:, place + 1 :] @ (vectors[:, place + 1 :].T @ signal)
    torch.testing.assert_close(low_pass(graph, signal, cutoff, degree=300), ideal, rtol=0, atol=0.02)


def test_the_damped_series_is_a_step_without_ripples() -> None:
    for cutoff in (-0.3, 0.0, 0.5):
        points = np.linspace(-1, 1, 401)
        step = np.polynomial.chebyshev.chebval(points, chebyshev_step(cutoff, 60).numpy())
        assert step.min() > -1e-3  # an undamped series overshoots by .09
        assert step.max() < 1 + 1e-3
        assert abs(step[points > cutoff + 0.15] - 1).max() < 0.02
        assert abs(step[points < cutoff - 0.15]).max() < 0.02
        assert np.all(np.diff(step) > -1e-3)  # it rises
