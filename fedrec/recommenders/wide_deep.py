"""Wide and deep learning over user and item attributes (Cheng et al. 2016)."""

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
from fedrec.recommenders.attributes import Columns, Features, encode
from fedrec.recommenders.neural import PairLearner, PairTraining, embedding, linear
from fedrec.recommenders.recommender import RECOMMENDERS, Tensors, Training, require_finite
from fedrec.spaces import Choice, LogUniform, Space, Uniform
from fedrec.streams import Streams


class WideDeepConfig(PairTraining):
    """Settings of `WideDeep`, beside those of its training.

    Attributes:
        dim: width of the embedding of an id, and of that of all attributes of one user or item.
        layers: widths of the perceptron's hidden layers.
        user_columns, item_columns: attributes that are used; "auto" takes those whose values recur.
        hidden: share of the users and of the items of a training step whose id is hidden, so that the model learns to
            do with attributes alone for those who come later (DropoutNet; Volkovs et al. 2017).
    """

    dim: int = Field(32, ge=1)
    layers: tuple[int, ...] = Field((64, 32), min_length=1)
    user_columns: Columns = "auto"
    item_columns: Columns = "auto"
    hidden: float = Field(0.1, ge=0, lt=1)

    space: ClassVar[Mapping[str, Space]] = {
        "dim": Choice((16, 32, 64)),
        "rate": LogUniform(3e-3, 2e-2),
        "weight_decay": LogUniform(3e-2, 1.0),
        "hidden": Uniform(0.0, 0.3),
    }


@RECOMMENDERS.register("wide-deep")
class WideDeep:
    """A linear model of crossed attributes and a perceptron of embeddings, trained jointly."""

    config_class: ClassVar[type[Config]] = WideDeepConfig

    def __init__(self, config: WideDeepConfig) -> None:
        self.config = config
        self._learner: PairLearner | None = None

    def fit(self, train: Interactions, training: Training) -> None:
        """Learn from the training interactions and the attributes of all users and items.

        Raises:
            ConfigError: if there is no such column.
            DataError: if there is no interaction, or if a user has every item.
            ModelError: if training diverged.
        """
        user = encode(train.user_attributes, self.config.user_columns, train.n_users, "user_columns")
        item = encode(train.item_attributes, self.config.item_columns, train.n_items, "item_columns")
        known = torch.from_numpy(train.user_degrees > 0), torch.from_numpy(train.item_degrees > 0)
        generator = Streams(training.seed).generator("initialisation")
        model = WideDeepModel(user, item, known, self.config, generator)
        learner = PairLearner(model, self.config, train, training.seed, training.torch_device)
        trainer.train(learner, training, steps=self.config.epochs, stopping=self.config.stopping)
        for name, tensor in learner.parameters().items():
            require_finite(tensor, f"WideDeep {name}")
        self._learner = learner

    def score(self, users: Tensor) -> Tensor:
        """The logits, [n] -> [n, n_items]; for users and items without interactions they rest on attributes alone."""
        return self._fitted().score(users)

    def tensors(self) -> Tensors:
        """The parameters."""
        return self._fitted().parameters()

    def _fitted(self) -> PairLearner:
        if self._learner is None:
            raise ModelError("WideDeep has not been fitted; call fit(train, training) before scoring")
        return self._learner


class WideDeepModel(nn.Module):
    """s_ui = b_i + wᵀ a_i + x_uᵀ C a_i + φ(p_u, P x_u, q_i, Q a_i).

    x and a are the attributes of user and item as 0 and 1. The wide part has a bias of each item, a weight of each of
    its attributes, and one of each pair of an attribute of the user and one of the item: the cross-product
    transformation. Terms of the user alone are left out, since they move no ranking. φ is a perceptron with rectifiers
    on the embeddings of ids and the summed embeddings of attributes. Hidden ids, and those without any interaction,
    share one row of their table.
    """

    user_attributes: Tensor
    item_attributes: Tensor
    user_row: Tensor
    item_row: Tensor

    def __init__(
        self,
        user: Features,
        item: Features,
        known: tuple[Tensor, Tensor],
        config: WideDeepConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.hidden = config.hidden
        self.register_buffer("user_attributes", torch.from_numpy(user.matrix.toarray()).float())
        self.register_buffer("item_attributes", torch.from_numpy(item.matrix.toarray()).float())
        for name, there in zip(("user_row", "item_row"), known, strict=True):
            self.register_buffer(name, torch.where(there, torch.arange(len(there)), len(there)))
        n_users, n_items = (len(there) for there in known)
        first, dim = config.layers[0], config.dim
        self.user_ids = embedding(n_users + 1, dim, generator)
        self.item_ids = embedding(n_items + 1, dim, generator)
        self.of_user_attributes = embedding(user.width, dim, generator)
        self.of_item_attributes = embedding(item.width, dim, generator)
        self.item_bias = nn.Parameter(torch.zeros(n_items + 1))
        self.attribute_weight = nn.Parameter(torch.zeros(item.width))
        self.cross = nn.Parameter(torch.zeros(user.width, item.width))
        self.first = linear(first, 4 * dim, generator)
        self.weights = nn.ParameterList(linear(b, a, generator) for a, b in pairwise(config.layers))
        self.biases = nn.ParameterList(torch.zeros(width) for width in config.layers)
        self.output = linear(1, config.layers[-1], generator)

    def forward(self, users: Tensor, items: Tensor, hide: torch.Generator | None = None) -> Tensor:
        """The logits: [m], [m, c] -> [m, c]."""
        user_row, item_row = self.user_row[users], self.item_row[items]
        if hide is not None and self.hidden:
            user_row = self._hide(user_row, len(self.user_ids) - 1, hide)
            item_row = self._hide(item_row, len(self.item_ids) - 1, hide)
        # The first layer is a sum of parts, each computed once for each user or item rather than once a pair.
        user_id, user_attribute, item_id, item_attribute = torch.split(self.first, self.user_ids.shape[1], dim=1)
        attributes = self.user_attributes[users]
        of_user = F.linear(self.user_ids.index_select(0, user_row), user_id, self.biases[0])
        of_user = of_user + attributes @ F.linear(self.of_user_attributes, user_attribute)
        of_id = F.linear(self.item_ids, item_id)
        of_item = self.item_attributes @ F.linear(self.of_item_attributes, item_attribute)
        flat, rows = items.reshape(-1), item_row.reshape(-1)
        hidden = (of_id.index_select(0, rows) + of_item.index_select(0, flat)).view(*items.shape, len(self.first))
        hidden = (hidden + of_user.unsqueeze(1)).relu_()
        for weight, bias in zip(self.weights, self.biases[1:], strict=True):
            hidden = F.linear(hidden, weight, bias).relu_()
        wide = torch.einsum("mf,mcf->mc", attributes @ self.cross + self.attribute_weight, self.item_attributes[items])
        bias_of = self.item_bias.index_select(0, rows).view(items.shape)
        return bias_of + wide + hidden @ self.output[0]

    def _hide(self, rows: Tensor, instead: int, generator: torch.Generator) -> Tensor:
        hidden = torch.rand(rows.shape, generator=generator) < self.hidden
        return rows.masked_fill(hidden.to(rows.device), instead)
