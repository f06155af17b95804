"""Private state that is dealt to nodes comes back whole. Ray itself is in tests/deployment."""

from __future__ import annotations

import torch

from fedrec.federated import Devices, LocalEngine
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig, PFedRec, PFedRecConfig
from fedrec.flower.rays import deal, merge, split
from fedrec.streams import Streams
from tests.flower.nodes import SOMETIMES, trained


def test_everybody_is_dealt_once(devices: Devices) -> None:
    parts = deal(devices, 3)
    assert sorted(torch.cat(parts).tolist()) == list(range(40))
    assert sorted(map(len, parts)) == [13, 13, 14]


def test_state_that_is_split_and_merged_is_the_same(devices: Devices) -> None:
    """Dense and ragged, of users of whom some were never asked."""
    for method in (EgoLightGCN(EgoLightGCNConfig(dim=4)), PFedRec(PFedRecConfig(dim=4))):
        engine = LocalEngine(devices, Streams(3), SOMETIMES)
        trained(method, engine, [1])
        tensors, parts = engine.tensors(), deal(devices, 3)
        again = merge(parts, split(tensors, parts), len(devices)) | {"committed": tensors["committed"]}
        assert set(again) == set(tensors)
        assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
