"""Interactions as a bipartite graph: its tensors, propagation over it, and what it looks like."""

from fedrec.graph.analysis import GraphSummary, component_sizes, describe, networkx_graph, top_share
from fedrec.graph.bipartite import BipartiteGraph
from fedrec.graph.filters import low_pass
from fedrec.graph.propagation import propagate

__all__ = [
    "BipartiteGraph",
    "GraphSummary",
    "component_sizes",
    "describe",
    "low_pass",
    "networkx_graph",
    "propagate",
    "top_share",
]
