"""Methods of a researcher's own, named "tests.experiment.own:Class" in a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fedrec.components import Config
from fedrec.data import Interactions
from fedrec.errors import ModelError
from fedrec.recommenders import Tensors, Training
from fedrec.spaces import Space, Uniform


class ConstantConfig(Config):
    """The score of every item."""

    value: float = 1.0


class Constant:
    """Finds all items equally good."""

    config_class: ClassVar[type[Config]] = ConstantConfig

    def __init__(self, config: ConstantConfig) -> None:
        self.config = config
        self.n_items = 0

    def fit(self, train: Interactions, training: Training) -> None:
        self.n_items = train.n_items
        training.log(1, "value", self.config.value, "simulation")
        training.progress(1, 1, None)

    def score(self, users: Tensor) -> Tensor:
        return torch.full((len(users), self.n_items), self.config.value)

    def tensors(self) -> Tensors:
        return {"value": torch.tensor(self.config.value)}


class ConstantRating(Constant):
    """Predicts the same rating of everything."""

    rates = True


class Diverged(Constant):
    """Has nothing but NaN to say."""

    def score(self, users: Tensor) -> Tensor:
        return super().score(users) * torch.nan


class HillConfig(Config):
    """Where one stands.

    Attributes:
        x: the hill's top is at 0.3.
        cliff: beyond it training diverges.
    """

    x: float = 0.0
    cliff: float = 2.0

    space: ClassVar[Mapping[str, Space]] = {"x": Uniform(-1, 1)}


class Hill:
    """Ranks better the nearer `x` is to 0.3: it swaps a share of its scores for noise that is always the same."""

    config_class: ClassVar[type[Config]] = HillConfig

    def __init__(self, config: HillConfig) -> None:
        self.config = config

    def fit(self, train: Interactions, training: Training) -> None:
        if self.config.x > self.config.cliff:
            raise ModelError("the hill ends here; go back")
        wrong = torch.rand(train.n_users, train.n_items, generator=torch.Generator().manual_seed(0))
        degrees = torch.from_numpy(train.item_degrees).double()
        self.scores = degrees / degrees.sum() - abs(self.config.x - 0.3) * wrong

    def score(self, users: Tensor) -> Tensor:
        return self.scores[users]

    def tensors(self) -> Tensors:
        return {"scores": self.scores}
