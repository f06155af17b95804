"""Small populations that every federated test starts from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedrec.data.interactions import Interactions, Vocabulary
from fedrec.federated import Devices


def interactions(histories: list[list[int]], n_items: int) -> Interactions:
    """Users 0, 1, ... with the given items."""
    user = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
    item = np.array([item for items in histories for item in items], dtype=np.int64)
    users = Vocabulary(tuple(f"u{code}" for code in range(len(histories))))
    items = Vocabulary(tuple(f"i{code}" for code in range(n_items)))
    return Interactions(user=user, item=item, users=users, items=items)


@pytest.fixture
def train() -> Interactions:
    """Forty users with 1 to 8 of 25 items; one has none."""
    generator = torch.Generator().manual_seed(7)
    histories = []
    for user in range(40):
        size = 0 if user == 11 else 1 + user % 8
        histories.append(torch.randperm(25, generator=generator)[:size].sort().values.tolist())
    return interactions(histories, n_items=25)


@pytest.fixture
def devices(train: Interactions) -> Devices:
    """One device a user of `train`."""
    return Devices.of(train)
