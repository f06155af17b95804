"""Membership of one interaction: popularity tells nothing, masks stop a stranger, noise stops an insider."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedrec.attacks import Interaction, InteractionConfig, auc_with_error, observe
from fedrec.attacks.interaction import equally_popular, without_one_each
from fedrec.privacy import PrivacyConfig
from tests.attacks.planted import interactions, target

TRAIN = interactions(100, 120, 8)
EGO = {"dim": 8, "rounds": 1}


def test_strangers_and_insiders() -> None:
    config = InteractionConfig(sums=(1, 60), trials=150)
    one, many, insider = Interaction(config).run(target("ego-lightgcn", EGO, TRAIN))
    assert one.value > 0.98
    # 150 pairs, right by chance: deviation .041. Beyond four of these once in 16,000.
    assert one.chance == pytest.approx(0.5, abs=0.17)
    assert many.value < 0.75
    assert insider.value == 1.0  # whoever can subtract the others sees through any mask
    privacy = PrivacyConfig(noise_multiplier=50.0, delta=1e-3)
    for finding in Interaction(config).run(target("ego-lightgcn", EGO, TRAIN, privacy)):
        assert finding.value == pytest.approx(0.5, abs=0.25)  # as above; the insider's AUC over 100 deviates by .058


def test_the_insiders_auc_is_that_of_the_gaussian_mechanism() -> None:
    # One item more or less moves a count by 1, and noise has s = 1: AUC = Φ(1/√2) = .760; 400 users tell it to .024.
    train = interactions(400, 60, 4)
    privacy = PrivacyConfig(noise_multiplier=0.1, delta=1e-4)
    insider = Interaction(InteractionConfig(sums=(), trials=2)).run(target("popularity", {}, train, privacy))[0]
    assert insider.value == pytest.approx(0.5 * (1 + math.erf(0.5)), abs=0.1)
    assert insider.error == pytest.approx(0.024, abs=0.004)


def test_the_insider_sees_the_whole_of_an_outer_product() -> None:
    # Histories of 4 items, normalised, have ⟨c, b⟩² = 3/4 with 3 of them: D² = 1 + 1 − 2 · 3/4, and noise has s = ½, so
    # that AUC = Φ(D/(s √2)) = Φ(1) = .841. On the diagonal alone D² = 1/12 and the AUC .658; 400 users tell it to .02.
    train = interactions(400, 60, 4)
    privacy = PrivacyConfig(noise_multiplier=0.5, delta=1e-4)
    config = InteractionConfig(sums=(), trials=2, query="gram")
    insider = Interaction(config).run(target("ease", {}, train, privacy))[0]
    assert insider.value == pytest.approx(0.5 * (1 + math.erf(0.5**0.5)), abs=0.08)


def test_an_interaction_that_changes_nothing_is_a_tie() -> None:
    arm = target("popularity", {}, TRAIN)
    (seen,) = observe(arm)
    halved = replace(seen, answers=seen.answers * (torch.arange(100) < 50).view(-1, 1, 1))  # that of half of the users
    insider = Interaction(InteractionConfig())._insider(seen, halved, torch.zeros(100, dtype=torch.int64), arm)
    assert insider.trials == 100
    # Who differs is told apart, the others are ties: AUC = 1 − (1/2)²/2, by coins that deviate by .05 or so.
    assert insider.value == pytest.approx(0.875, abs=0.06)


def test_one_interaction_each_is_dropped() -> None:
    train = interactions(20, 30, 3)
    dropped, missing = without_one_each(train, np.random.default_rng(0))
    assert dropped.user_degrees.tolist() == [2] * 20
    for user in range(20):
        before = set(train.item[train.user == user].tolist())
        assert before - set(dropped.item[dropped.user == user].tolist()) == {int(missing[user])}
    alone, missing = without_one_each(interactions(5, 30, 1), np.random.default_rng(0))
    assert len(alone.user) == 5
    assert missing.tolist() == [-1] * 5


def test_pairs_are_equally_popular() -> None:
    own, popularity = torch.tensor([True, False, False, False]), torch.tensor([5, 1, 4, 9])
    assert equally_popular(own, popularity, torch.Generator()) == (0, 2)
    assert equally_popular(~torch.zeros(4, dtype=torch.bool), popularity, torch.Generator()) is None


def test_auc_by_hand() -> None:
    # Pairs: 2 > 1, 2 = 2, 2 < 3, 4 above all: (1 + ½ + 0 + 3)/6.
    area, error = auc_with_error(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]))
    assert area == pytest.approx(0.75)
    first, second = 0.75 / 1.25, 2 * 0.75**2 / 1.75
    variance = 0.75 * 0.25 + (first - 0.75**2) + 2 * (second - 0.75**2)
    assert error == pytest.approx((variance / 6) ** 0.5)
