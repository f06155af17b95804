"""The history attack reads single answers almost perfectly, and noise at its own scale brings it to chance."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedrec.attacks import Finding, History, HistoryConfig, area_under_curve, guess_history, share_read
from fedrec.errors import DataError
from fedrec.federated import Devices, LocalEngine, Rows
from fedrec.federated.queries import LocalTraining
from fedrec.privacy import PrivacyConfig
from fedrec.streams import Streams
from tests.attacks.planted import interactions, target


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


EGO = {"dim": 8, "rounds": 2}


def by_case(findings: list[Finding], measure: str) -> dict[str, Finding]:
    return {finding.case: finding for finding in findings if finding.measure == measure}


def test_masking_hides_a_member_among_others_and_noise_hides_everybody() -> None:
    train = interactions(120, 200, 10)
    config = HistoryConfig(sums=(1, 5, 60), trials=60)
    bare = by_case(History(config).run(target("ego-lightgcn", EGO, train)), "history-read")
    assert bare["one answer"].value > 0.98
    assert bare["one answer"].chance == pytest.approx(10 / 200, abs=0.04)
    assert bare["one answer"].value > bare["sum of 5"].value > bare["sum of 60"].value
    privacy = PrivacyConfig(noise_multiplier=4.0, delta=1e-3)
    noised = by_case(History(config).run(target("ego-lightgcn", EGO, train, privacy)), "auc")
    for finding in noised.values():
        assert finding.chance is not None
        assert finding.error is not None
        # At chance: AUCs of 10 among 200 deviate by .094, means of 60 by .012; members and strangers, within five.
        assert abs(finding.value - 0.5) < 0.06
        assert abs(finding.chance - 0.5) < 0.06


@pytest.mark.parametrize(("kind", "settings"), [("popularity", {}), ("ease", {}), ("ials", {"dim": 4, "rounds": 1})])
def test_other_answers_are_the_history(kind: str, settings: dict[str, Any]) -> None:
    found = History(HistoryConfig(sums=(1,), trials=20)).run(target(kind, settings, interactions(40, 60, 8)))
    assert [finding.value for finding in found] == [1.0, 1.0]


def test_share_read_by_hand() -> None:
    own = torch.tensor([True, False, True, False])
    assert share_read(torch.tensor([0.9, 0.8, 0.1, 0.0]), own) == 0.5
    assert share_read(torch.tensor([0.9, 0.2, 0.8, 0.0]), own) == 1.0
