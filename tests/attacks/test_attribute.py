"""Attributes that tastes go with are read from answers; others are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fedrec.attacks import Attribute, AttributeConfig
from fedrec.attacks.attribute import classify
from fedrec.errors import ConfigError
from fedrec.privacy import PrivacyConfig
from tests.attacks.planted import interactions, target

TRAIN = interactions(160, 80, 8, tastes=True)
EGO = {"dim": 8, "rounds": 1}
CONFIG = AttributeConfig(attribute="taste", sums=(1, 40))


def test_tastes_are_read_from_single_answers_and_not_from_noise() -> None:
    ceiling, one, many = Attribute(CONFIG).run(target("ego-lightgcn", EGO, TRAIN))
    assert ceiling.value > 0.95
    assert one.value > 0.9
    assert many.value < 0.8
    privacy = PrivacyConfig(noise_multiplier=20.0, delta=1e-3)
    _, one, many = Attribute(CONFIG).run(target("ego-lightgcn", EGO, TRAIN, privacy))
    for finding in (one, many):
        # 40 against 40: an AUC by chance deviates by .065. Beyond four of these once in 16,000.
        assert finding.value == pytest.approx(0.5, abs=0.26)


def test_an_attribute_that_has_nothing_to_do_with_taste_is_at_chance() -> None:
    coin = np.where(np.random.default_rng(3).random(160) < 0.5, "heads", "tails")
    train = replace(TRAIN, user_attributes=pd.DataFrame({"coin": coin}))
    ceiling, one, _ = Attribute(CONFIG.model_copy(update={"attribute": "coin"})).run(target("ego-lightgcn", EGO, train))
    assert ceiling.value == pytest.approx(0.5, abs=0.26)  # as above
    assert one.value == pytest.approx(0.5, abs=0.26)


def test_the_classifier_says_which_label_is_more_likely() -> None:
    known = torch.tensor([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
    scores = classify(known, torch.tensor([0, 0, 1, 1]), torch.tensor([[0.0, 2.0], [2.0, 0.0]]), 10.0)
    assert scores[0] < 0 < scores[1]


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no user column 'tast'.*taste"):
        Attribute(CONFIG.model_copy(update={"attribute": "tast"})).run(target("ego-lightgcn", EGO, TRAIN))
