"""The history attack reads single answers almost perfectly, and noise at its own scale brings it to chance."""

from __future__ import annotations

import pytest
import torch

from fedrec.attacks import area_under_curve, guess_history
from fedrec.errors import DataError
from fedrec.federated import Devices, LocalEngine, Rows
from fedrec.federated.queries import LocalTraining
from fedrec.streams import Streams


def answers(n_users: int, n_items: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(the change of the item table, the truth) of each of some users with random histories."""
    generator = torch.Generator().manual_seed(1)
    items = torch.cat([torch.randperm(n_items, generator=generator)[:size].sort().values for _ in range(n_users)])
    devices = Devices(torch.arange(n_users) * 7919, torch.arange(n_users + 1) * size, items, n_items)
    table = torch.randn(n_items, 16, generator=generator) * 0.1
    query = LocalTraining(table, "bce", 1, 1.0, 1.0, 4, 0.5, 0.1)
    found = []
    for answer in LocalEngine(devices, Streams(0)).answers(query, round=1):
        rows = answer.contributions["items"]
        assert isinstance(rows, Rows)
        change, own = torch.zeros(n_items, 16), torch.zeros(n_items, dtype=torch.bool)
        rows.add_to(change, None)
        own[items.view(n_users, size)[answer.user]] = True
        found.append((change, own))
    return found


def test_a_bare_answer_gives_the_history_away() -> None:
    success = [area_under_curve(guess_history(change), own) for change, own in answers(20, 300, 12)]
    assert sum(success) / len(success) > 0.99


def test_noise_on_every_entry_brings_the_attack_to_chance() -> None:
    generator = torch.Generator().manual_seed(2)
    success = []
    for change, own in answers(60, 300, 12):
        noised = change + 10 * change.norm() * torch.randn(change.shape, generator=generator)
        success.append(area_under_curve(guess_history(noised), own))
    # The AUC of 12 among 300 under chance deviates by about .085; over 60 users by .011. Five of these: 1 in 1.7 M.
    assert abs(sum(success) / len(success) - 0.5) < 0.055


def test_success_needs_both_kinds_of_items() -> None:
    with pytest.raises(DataError, match="0 of 3 items"):
        area_under_curve(torch.ones(3), torch.zeros(3, dtype=torch.bool))
