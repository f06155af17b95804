"""Every registered method, in small settings and in the variants that take another path through its code."""

from __future__ import annotations

from typing import Any

TRAINED: dict[str, Any] = {"dim": 8, "stopping": {"every": 100, "patience": 0}}

FEDERATED: list[tuple[str, dict[str, Any]]] = [
    ("popularity", {}),
    ("ease", {"regularization": 2.0}),
    ("ease", {"regularization": 2.0, "head": 0.5}),
    ("ials", TRAINED | {"rounds": 5}),
    ("ials", TRAINED | {"rounds": 5, "frequency_power": 0.0}),
    ("spectral", {"factors": 8}),
    ("spectral", {"factors": 8, "weight": "degree", "linear": 0.3}),
    ("spectral", {"factors": 4, "head": 0.5}),
    ("spectral", {"factors": 8, "release": "subspace", "iterations": 3}),
    ("fedmf", TRAINED | {"rounds": 8, "l2": 0.01}),
    ("fedmf", TRAINED | {"rounds": 8, "loss": "bce", "local_steps": 2, "item_rate": 0.1}),
    ("fcf", TRAINED | {"rounds": 8}),
    ("fedncf", TRAINED | {"rounds": 8}),
    ("fedncf", TRAINED | {"rounds": 8, "model": "gmf", "local_steps": 2}),
    ("pfedrec", TRAINED | {"rounds": 8, "item_rate": 30.0, "batch_size": 8, "epochs": 2}),
    ("pfedrec", TRAINED | {"rounds": 8, "item_rate": 30.0, "aggregate": False}),
    ("ego-lightgcn", TRAINED | {"rounds": 12}),
    ("ego-lightgcn", TRAINED | {"rounds": 12, "loss": "bpr", "local_steps": 2, "item_rate": 0.1}),
    ("exact-lightgcn", TRAINED | {"rounds": 8, "layers": 2}),
    ("exact-lightgcn", TRAINED | {"rounds": 8, "layers": 1, "loss": "sampled-softmax", "refresh_every": 3}),
]

PAIRS: dict[str, Any] = {"dim": 8, "epochs": 10, "batch": 256, "rate": 0.01}

MEMBERS: list[dict[str, Any]] = [
    {"kind": "item-neighbors", "neighbors": 5},
    {"kind": "popularity"},
    {"kind": "svd", "factors": 3, "iterations": 50},
]

CENTRAL: list[tuple[str, dict[str, Any]]] = [
    ("random", {}),
    ("item-neighbors", {"neighbors": 5}),
    ("item-neighbors", {"neighbors": 5, "similarity": "pearson", "shrinkage": 1.0, "activity_power": 0.0}),
    ("user-neighbors", {"neighbors": 8}),
    ("user-neighbors", {"neighbors": 8, "similarity": "pearson", "shrinkage": 1.0}),
    ("svd", {"factors": 4}),
    ("bpr", {"factors": 8, "epochs": 30, "rate": 0.05}),
    ("neumf", PAIRS | {"layers": (8, 4)}),
    ("neumf", PAIRS | {"layers": (8,), "loss": "sampled-softmax", "weight_decay": 0.1}),
    ("wide-deep", PAIRS | {"layers": (8,)}),
    ("content", {}),
    ("forest-ranker", {"trees": 5, "leaf": 5, "candidates": 60}),
    ("logistic-ranker", {"candidates": 60, "order": "random"}),
    ("weighted", {"members": MEMBERS, "weights": [2.0, 1.0, 0.5]}),
    ("rank-fusion", {"members": MEMBERS}),
    ("stacking", {"members": MEMBERS, "negatives": 4}),
    ("lightgcn", TRAINED | {"epochs": 12}),
    ("lightgcn", TRAINED | {"epochs": 12, "loss": "sampled-softmax", "negatives": 4}),
    ("lightgcn", TRAINED | {"epochs": 12, "loss": "bpr"}),
    ("full-batch-lightgcn", TRAINED | {"epochs": 8, "layers": 1}),
    ("full-batch-lightgcn", TRAINED | {"epochs": 8, "layers": 1, "loss": "sampled-softmax"}),
]
