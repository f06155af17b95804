"""Interactions as a bipartite graph: its tensors, propagation over it, and what it looks like."""

from fedrec.graph.bipartite import BipartiteGraph
from fedrec.graph.propagation import propagate

__all__ = ["BipartiteGraph", "propagate"]
