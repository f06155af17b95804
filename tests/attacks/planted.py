"""Arms to attack, on little data with a plain structure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fedrec.attacks import Target
from fedrec.components import Config
from fedrec.data import Interactions, Vocabulary
from fedrec.federated import METHODS, EngineConfig, FederatedRecommender, ParticipationConfig, PopulationConfig
from fedrec.privacy import PrivacyConfig


def interactions(
    n_users: int, n_items: int, size: int, seed: int = 0, *, tastes: bool = False, skew: float = 0.0
) -> Interactions:
    """Users of `size` items each, drawn at random; with tastes, those of an odd user mostly from the upper half.

    An item of rank r weighs (r + 1)^-skew.
    """
    numbers = np.random.default_rng(seed)
    weight = np.tile((1.0 + np.arange(n_items)) ** -skew, (2, 1))
    if tastes:
        weight[0, n_items // 2 :] = weight[1, : n_items // 2] = 0.15
    chosen = [
        np.sort(numbers.choice(n_items, size, replace=False, p=weight[user % 2] / weight[user % 2].sum()))
        for user in range(n_users)
    ]
    return Interactions(
        user=np.repeat(np.arange(n_users), size),
        item=np.concatenate(chosen),
        users=Vocabulary(tuple(f"user {code}" for code in range(n_users))),
        items=Vocabulary(tuple(f"item {code}" for code in range(n_items))),
        user_attributes=pd.DataFrame({"taste": [("even", "odd")[user % 2] for user in range(n_users)]}),
        item_attributes=pd.DataFrame(index=range(n_items)),
    )


def target(
    kind: str,
    settings: dict[str, Any],
    train: Interactions,
    privacy: PrivacyConfig | None = None,
    *,
    rate: float = 1.0,
    seed: int = 0,
    participation: ParticipationConfig | None = None,
    population: PopulationConfig | None = None,
    looks: int = 0,
) -> Target:
    """An arm of a method, which looks at the validation part every so many rounds; each eighth interaction is in it."""
    method = METHODS[kind]
    fields = method.config_class.model_fields
    config: Config = method.config_class.model_validate(
        settings | ({"stopping": {"patience": looks, "every": max(1, looks)}} if "stopping" in fields else {})
    )
    recommender = FederatedRecommender(
        method(config),
        population=population,
        participation=participation or ParticipationConfig(rate=rate),
        privacy=privacy,
        engine=EngineConfig(device="cpu"),
    )
    held_out = np.arange(0, len(train.user) if looks else 0, 8)
    return Target(recommender, train, train.take(held_out), seed)
