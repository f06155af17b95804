"""Methods of a researcher's own, named "tests.experiment.own:Class" in a configuration."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedrec.components import Config
from fedrec.data import Interactions
from fedrec.recommenders import Tensors, Training


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


class Diverged(Constant):
    """Has nothing but NaN to say."""

    def score(self, users: Tensor) -> Tensor:
        return super().score(users) * torch.nan
