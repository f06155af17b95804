"""NeuMF: neural matrix factorisation (He et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedrec.components import Config
from fedrec.data.interactions import Interactions
from fedrec.errors import ModelError
from fedrec.recommenders import trainer
from fedrec.recommenders.neural import PairLearner, PairTraining, embedding, linear
from fedrec.recommenders.recommender import RECOMMENDERS, Tensors, Training, require_finite
from fedrec.spaces import Choice, LogUniform, Space
from fedrec.streams import Streams


class NeuMFConfig(PairTraining):
    """Settings of `NeuMF`, beside those of its training.

    Attributes:
        dim: width of the embeddings of each of the two parts.
        layers: widths of the perceptron's hidden layers.
    """

    dim: int = Field(32, ge=1)
    layers: tuple[int, ...] = Field((64, 32, 16), min_length=1)

    space: ClassVar[Mapping[str, Space]] = {
        "dim": Choice((16, 32, 64)),
        "rate": LogUniform(3e-3, 2e-2),
        "weight_decay": LogUniform(3e-2, 1.0),
        "negatives": Choice((1, 2, 4)),
    }


@RECOMMENDERS.register("neumf")
class NeuMF:
    """Matrix factorisation and a perceptron side by side, on embeddings of their own."""

    config_class: ClassVar[type[Config]] = NeuMFConfig

    def __init__(self, config: NeuMFConfig) -> None:
        self.config = config
        self._learner: PairLearner | None = None

    def fit(self, train: Interactions, training: Training) -> None:
        """Learn from the training interactions.

        Raises:
            DataError: if there are none, or if a user has every item.
            ModelError: if training diverged.
        """
        model = NeuMFModel(
            train.n_users, train.n_items, self.config, Streams(training.seed).generator("initialisation")
        )
        learner = PairLearner(model, self.config, train, training.seed, training.torch_device)
        trainer.train(learner, training, steps=self.config.epochs, stopping=self.config.stopping)
        for name, tensor in learner.parameters().items():
            require_finite(tensor, f"NeuMF {name}")
        self._learner = learner

    def score(self, users: Tensor) -> Tensor:
        """The logits, [n] -> [n, n_items]."""
        return self._fitted().score(users)

    def tensors(self) -> Tensors:
        """The parameters."""
        return self._fitted().parameters()

    def _fitted(self) -> PairLearner:
        if self._learner is None:
            raise ModelError("NeuMF has not been fitted; call fit(train, training) before scoring")
        return self._learner


class NeuMFModel(nn.Module):
    """s_ui = wᵀ [p_u ⊙ q_i, φ(p'_u, q'_i)], φ a perceptron with rectifiers (eq. 12 of the paper, without pre-training).

    The perceptron's first layer is a sum of a user's and an item's part, so both are computed once for each that occurs
    rather than once a pair.
    """

    def __init__(self, n_users: int, n_items: int, config: NeuMFConfig, generator: torch.Generator) -> None:
        super().__init__()
        first = config.layers[0]
        self.gmf_users = embedding(n_users, config.dim, generator)
        self.gmf_items = embedding(n_items, config.dim, generator)
        self.mlp_users = embedding(n_users, config.dim, generator)
        self.mlp_items = embedding(n_items, config.dim, generator)
        self.first = linear(first, 2 * config.dim, generator)
        self.weights = nn.ParameterList(linear(b, a, generator) for a, b in pairwise(config.layers))
        self.biases = nn.ParameterList(torch.zeros(width) for width in config.layers)
        self.output = linear(1, config.dim + config.layers[-1], generator)

    def forward(self, users: Tensor, items: Tensor, hide: torch.Generator | None = None) -> Tensor:
        """The logits: [m], [m, c] -> [m, c]."""
        dim = self.gmf_users.shape[1]
        of_user = F.linear(self.mlp_users.index_select(0, users), self.first[:, :dim], self.biases[0])
        of_item = F.linear(self.mlp_items, self.first[:, dim:])
        flat = items.reshape(-1)
        hidden = of_item.index_select(0, flat).view(*items.shape, len(self.first)) + of_user.unsqueeze(1)
        hidden = hidden.relu_()
        for weight, bias in zip(self.weights, self.biases[1:], strict=True):
            hidden = F.linear(hidden, weight, bias).relu_()
        weighted = self.gmf_users.index_select(0, users) * self.output[0, :dim]
        product = (self.gmf_items.index_select(0, flat).view(*items.shape, dim) @ weighted.unsqueeze(2)).squeeze(2)
        return product + hidden @ self.output[0, dim:]
