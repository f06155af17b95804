"""`BipartiteGraph`: training interactions as a graph of users and items."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedrec.data.interactions import Interactions

if TYPE_CHECKING:
    from fedrec.graph._pyg import EdgeIndex, HeteroData


@dataclass(frozen=True, eq=False)
class BipartiteGraph:
    """Users and items as one graph of n_users + n_items nodes, items after users, every edge in both directions.

    Attributes:
        n_users, n_items: nodes of each type; those without an edge count.
        edge_index: [2, 2n] `EdgeIndex` sorted by row, and within a row by column, its pointers cached. The graph is
            undirected, so these CSR arrays are its CSC arrays too.
        weight: [2n] the symmetric normalisation of each edge, 1/√(d_u d_i).
        user_degrees, item_degrees: [n_users], [n_items] int64.
    """

    n_users: int
    n_items: int
    edge_index: EdgeIndex
    weight: Tensor
    user_degrees: Tensor
    item_degrees: Tensor

    @classmethod
    def of(cls, train: Interactions, dtype: torch.dtype = torch.float32) -> BipartiteGraph:
        """The graph of training interactions.

        Args:
            train: each pair at most once.
            dtype: of `weight`, and so of what is propagated.

        Raises:
            DataError: if a pair occurs twice.
        """
        from fedrec.graph._pyg import EdgeIndex  # takes seconds to import, and most methods make no graph

        indptr, item = train.csr
        user_degrees, item_degrees = indptr.diff(), torch.bincount(item, minlength=train.n_items)
        user = torch.repeat_interleave(torch.arange(train.n_users), user_degrees)
        by_item = torch.argsort(item, stable=True)
        # Rows are users, then items; the pairs of the CSR are in user order already.
        row = torch.cat([user, item[by_item] + train.n_users])
        column = torch.cat([item + train.n_users, user[by_item]])
        size = train.n_users + train.n_items
        edge_index = EdgeIndex(
            torch.stack([row, column]), sparse_size=(size, size), sort_order="row", is_undirected=True
        ).fill_cache_(no_transpose=True)
        degree = torch.cat([user_degrees, item_degrees]).double()
        weight = (degree[row] * degree[column]).rsqrt().to(dtype)
        return cls(train.n_users, train.n_items, edge_index, weight, user_degrees, item_degrees)

    @cached_property
    def adjacency(self) -> Tensor:
        """Â = D^-½ A D^-½, [n_users + n_items] squared, as the sparse CSR tensor that PyG's layers multiply fastest."""
        checked = torch.sparse.check_sparse_tensor_invariants(True)  # type: ignore[no-untyped-call]
        with checked, warnings.catch_warnings():
            # torch says once in a process that its sparse CSR tensors are in beta.
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            adjacency: Tensor = self.edge_index.to_sparse_csr(self.weight)
        return adjacency

    @property
    def n_edges(self) -> int:
        """Number of user-item pairs."""
        return len(self.weight) // 2

    def to(self, device: torch.device) -> BipartiteGraph:
        """The same graph on another device."""
        return replace(
            self,
            edge_index=self.edge_index.to(device),
            weight=self.weight.to(device),
            user_degrees=self.user_degrees.to(device),
            item_degrees=self.item_degrees.to(device),
        )

    def hetero(self) -> HeteroData:
        """PyG's heterogeneous view: node types `user` and `item`, edge types `rates` and `rated_by`.

        Both edge types hold the normalisation as `edge_weight`; `rates` leads from users to items.
        """
        from fedrec.graph._pyg import HeteroData

        # The first half of the rows are users, and their columns are items.
        user, item = self.edge_index.as_tensor()[:, : self.n_edges]
        weight = self.weight[: self.n_edges]
        item = item - self.n_users
        data = HeteroData()
        data["user"].num_nodes, data["user"].degree = self.n_users, self.user_degrees
        data["item"].num_nodes, data["item"].degree = self.n_items, self.item_degrees
        for source, relation, target, edges in (
            ("user", "rates", "item", torch.stack([user, item])),
            ("item", "rated_by", "user", torch.stack([item, user])),
        ):
            data[source, relation, target].edge_index = edges
            data[source, relation, target].edge_weight = weight
        return data
