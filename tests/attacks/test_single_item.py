"""A newcomer's only item stands out of masked sums of second passes; noise hides it."""

from __future__ import annotations

import pytest
import torch

from fedrec.attacks import SingleItem, SingleItemConfig
from fedrec.attacks.single_item import single_item_scores, with_newcomers
from fedrec.errors import ConfigError
from fedrec.privacy import PrivacyConfig
from tests.attacks.planted import interactions, target

TRAIN = interactions(60, 100, 20)
EXACT = {"dim": 16, "layers": 2, "rounds": 1}
CONFIG = SingleItemConfig(sums=(1, 10, 59), trials=30)


def test_newcomers_are_found_in_masked_sums_and_not_in_noise() -> None:
    one, ten, everybody = SingleItem(CONFIG).run(target("exact-lightgcn", EXACT, TRAIN))
    assert one.value == 1.0
    assert ten.value > 0.9
    assert everybody.value > 0.3
    assert one.chance == 1 / 100
    privacy = PrivacyConfig(noise_multiplier=20.0, delta=1e-3)
    for finding in SingleItem(CONFIG).run(target("exact-lightgcn", EXACT, TRAIN, privacy)):
        assert finding.value <= 5 / 30  # 6 of 30 by chance, at 1 in 100 each: once in a million


def test_chance_is_an_item_that_somebody_has() -> None:
    few = interactions(5, 100, 6)
    (one,) = SingleItem(SingleItemConfig(sums=(1,), trials=2)).run(target("exact-lightgcn", EXACT, few))
    assert one.chance == 1 / len(set(few.item.tolist()))


def test_scores_by_hand() -> None:
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    # Somebody has item 1 alone; another one has all three, and sends a third of their sum to each.
    seen = torch.stack([items.sum(dim=0) / 9 * 3] * 3) + torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    scores = single_item_scores(seen, torch.tensor([1.0, 2.0, 1.0]), items)
    assert int(scores.argmax()) == 1


def test_newcomers_are_further_users() -> None:
    devices = with_newcomers(target("exact-lightgcn", EXACT, TRAIN), 5)
    assert len(devices) == 65
    assert devices.indptr.diff().tolist() == [20] * 60 + [1] * 5
    assert len(torch.unique(devices.keys)) == 65


@pytest.mark.parametrize(("kind", "settings"), [("popularity", {}), ("exact-lightgcn", EXACT | {"layers": 1})])
def test_only_two_passes_give_it_away(kind: str, settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="two layers or more"):
        SingleItem(CONFIG).run(target(kind, settings, TRAIN))
