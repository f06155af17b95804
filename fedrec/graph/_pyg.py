"""What is used of PyG, imported without the deprecation warnings that its own import raises.

PyG 2.8 compiles a class with `torch.jit.script`, which torch 2.13 deprecates; where warnings are errors, that is one.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
    from torch_geometric import EdgeIndex
    from torch_geometric.data import HeteroData
    from torch_geometric.nn import LGConv

__all__ = ["EdgeIndex", "HeteroData", "LGConv"]
