"""Random ranking: what every other number must be above."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import Interactions
from fedrec.errors import ModelError
from fedrec.recommenders.recommender import RECOMMENDERS, Tensors, Training
from fedrec.streams import Streams, mix


class RandomConfig(Config):
    """Settings of `Random`: none."""


@RECOMMENDERS.register("random")
class Random:
    """Items in an order of chance, another one for each user."""

    config_class: ClassVar[type[Config]] = RandomConfig

    def __init__(self, config: RandomConfig) -> None:
        self.config = config
        self._keys: tuple[Tensor, Tensor] | None = None
        self._streams = Streams(0)

    def fit(self, train: Interactions, training: Training) -> None:
        """Learn nothing but who is there."""
        self._keys, self._streams = (train.users.keys, train.items.keys), Streams(training.seed)

    def score(self, users: Tensor) -> Tensor:
        """Uniform numbers in [0, 1), a function of seed, user id and item id: [n] -> [n, n_items] float64."""
        user_keys, item_keys = self._fitted()
        # Mixed first: a stream's neighbouring counters are its neighbouring draws, and keys may be anything.
        return self._streams.uniform("random", user_keys[users].unsqueeze(1), mix(item_keys))

    def tensors(self) -> Tensors:
        """The keys of users and items."""
        user_keys, item_keys = self._fitted()
        return {"users": user_keys, "items": item_keys, "seed": torch.tensor(self._streams.seed)}

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self._keys is None:
            raise ModelError("Random has not been fitted; call fit(train, training) before scoring")
        return self._keys
