"""Compiled loops give the same bytes in the process that compiles them and in those that load them from disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import hashlib
import torch
from fedrec.data import DataConfig, load_split
from fedrec.federated import FederatedRecommender, ParticipationConfig
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig
from fedrec.federated.queries import _star
from fedrec.privacy import PrivacyConfig
from fedrec.recommenders import Training

train, digest = load_split(DataConfig(name="synthetic"), seed=0).split.train, hashlib.sha256()
for loss, privacy in (("bce", None), ("bpr", PrivacyConfig(noise_multiplier=1.0, delta=1e-3))):
    settings = {"rounds": 2, "loss": loss, "local_steps": 2, "item_rate": 0.1, "stopping": {"patience": 0}}
    model = FederatedRecommender(EgoLightGCN(EgoLightGCNConfig(**settings)), privacy=privacy)
    model.fit(train, Training(seed=0))
    for name, tensor in sorted(model.tensors().items()):
        digest.update(tensor.numpy().tobytes())
print(sum(_star.train_rows.stats.cache_misses.values()), digest.hexdigest())
"""


def test_the_first_run_is_the_same_bytes_as_those_after_it(tmp_path: Path) -> None:
    """One that is killed where the loops were compiled is resumed where they are loaded."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "FEDREC_COMPILED": "1"}
    said = [
        subprocess.run([sys.executable, "-c", SCRIPT], env=environment, check=True, capture_output=True, text=True)
        for _ in range(2)
    ]
    (compiled, first), (loaded, second) = (process.stdout.split() for process in said)
    assert int(compiled) > 0 == int(loaded)
    assert first == second
