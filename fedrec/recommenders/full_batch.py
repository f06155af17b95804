"""Full-batch LightGCN, trained centrally: what `exact-lightgcn` computes as sums over users, all data in one place.

The two draw the same initial embeddings and negatives from the same streams, so that they differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import Interactions
from fedrec.errors import DataError, ModelError
from fedrec.graph import BipartiteGraph, propagate
from fedrec.recommenders import trainer
from fedrec.recommenders.losses import bpr, sampled_softmax
from fedrec.recommenders.recommender import RECOMMENDERS, Disclosure, Tensors, Training, require_finite
from fedrec.recommenders.sampling import negatives, pairs_of
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import Choice, Integers, LogUniform, Space, Uniform
from fedrec.streams import Streams


class FullBatchLightGCNConfig(Config):
    """Settings of `FullBatchLightGCN`; those of the same name in `exact-lightgcn` mean the same.

    Attributes:
        dim: d, the embedding width.
        layers: L, propagation steps; 0 is matrix factorisation.
        epochs: steps, each on all training items.
        loss: "bpr", or "sampled-softmax" of cosines.
        temperature: of the softmax.
        negatives: drawn for each training item in each step.
        rate: learning rate of Adam.
        l2: weight of half the squared norm of the layer-0 rows of a training item, its user and its negatives.
        initial_scale: standard deviation of all embeddings before training.
        precision: of all arithmetic.
        stopping: when to look at the validation metric and when to stop.
    """

    dim: int = Field(64, ge=1)
    layers: int = Field(2, ge=0)
    epochs: int = Field(200, ge=1)
    loss: Literal["bpr", "sampled-softmax"] = "sampled-softmax"
    temperature: float = Field(0.1, gt=0)
    negatives: int = Field(4, ge=1)
    rate: float = Field(0.1, gt=0)
    l2: float = Field(1e-3, ge=0)
    initial_scale: float = Field(0.1, gt=0)
    precision: Literal["float32", "float64"] = "float32"
    stopping: Stopping = Stopping()

    space: ClassVar[Mapping[str, Space]] = {
        "dim": Choice((32, 64)),
        "layers": Choice((1, 2, 3)),
        "rate": LogUniform(3e-3, 1e-1),
        "l2": LogUniform(1e-5, 1e-1),
        "negatives": Integers(1, 8),
        "temperature": Uniform(0.05, 0.3),
    }


@RECOMMENDERS.register("full-batch-lightgcn")
class FullBatchLightGCN:
    """LightGCN by full-batch Adam: the centralised counterpart of exact LightGCN."""

    config_class: ClassVar[type[Config]] = FullBatchLightGCNConfig

    def __init__(self, config: FullBatchLightGCNConfig) -> None:
        self.config = config
        self._tables: tuple[Tensor, Tensor] | None = None

    def fit(self, train: Interactions, training: Training) -> None:
        """Learn embeddings from the training interactions.

        Raises:
            DataError: if there are none.
            ModelError: if training diverged.
        """
        learner = FullBatchLearner(self.config, train, training.seed, training.torch_device)
        trainer.train(learner, training, steps=self.config.epochs, stopping=self.config.stopping)
        users, items = learner.tables()
        self._tables = require_finite(users, "LightGCN users"), require_finite(items, "LightGCN items")

    def score(self, users: Tensor) -> Tensor:
        """Inner product (BPR) or cosine (softmax) with every item: [n] int64 -> [n, n_items]."""
        user_table, item_table = self._fitted()
        return user_table[users.to(user_table.device)] @ item_table.T

    def tensors(self) -> Tensors:
        """The final embeddings: a score is the product of a row of `users` and a row of `items`."""
        users, items = self._fitted()
        return {"users": users, "items": items}

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self._tables is None:
            raise ModelError("full-batch LightGCN has not been fitted; call fit(train, training) before scoring")
        return self._tables


class FullBatchLearner:
    """Full-batch LightGCN while it learns: a step is one step of Adam on the summed loss of all interactions."""

    def __init__(self, config: FullBatchLightGCNConfig, train: Interactions, seed: int, device: torch.device) -> None:
        if not len(train):
            raise DataError("full-batch LightGCN: the training part holds no interaction; check cleaning and split")
        self.config, self.streams, self.device = config, Streams(seed), device
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.graph = BipartiteGraph.of(train, dtype).to(device)
        self.keys = train.users.keys.to(device)
        self.indptr, self.items = (part.to(device) for part in train.csr)
        # A user who has every item has no negative to learn from.
        learning = torch.nonzero((self.indptr.diff() > 0) & (self.indptr.diff() < train.n_items)).flatten()
        position, self.item = pairs_of(learning, self.indptr, self.items)
        self.owner = learning[position]
        degrees = self.indptr.diff()[learning]
        # Which of its user's items an interaction is: the negatives' places in the user's stream depend on it.
        self.rank = torch.arange(len(position), device=device) - (degrees.cumsum(0) - degrees)[position]
        users = self.streams.normal("user-vector", self.keys, config.dim).to(dtype)
        generator = self.streams.generator("items", device)
        items = torch.randn((train.n_items, config.dim), generator=generator, dtype=dtype, device=device)
        self.embedding = torch.nn.Parameter(torch.cat([users, items]) * config.initial_scale)
        self.optimizer = torch.optim.Adam([self.embedding], lr=config.rate)
        # What Adam would do at its first step: the state has all its tensors from the beginning.
        self.optimizer.state[self.embedding] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(self.embedding),
            "exp_avg_sq": torch.zeros_like(self.embedding),
        }

    def step(self, number: int) -> Mapping[str, tuple[float, Disclosure]]:
        """One step; logs the mean loss of a training item."""
        loss = self.loss(self.streams.at(number))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return {"loss": (loss.item() / max(1, len(self.item)), "simulation")}

    def loss(self, draw: Streams) -> Tensor:
        """The summed loss and regularisation of all interactions, with the negatives of one round."""
        config, size, n_users = self.config, len(self.item), self.graph.n_users
        drawn = self._negatives(draw)
        user_table, item_table = self._tables()
        of_user = user_table.index_select(0, self.owner)
        positive = (of_user * item_table.index_select(0, self.item)).sum(dim=1)
        of_negative = item_table.index_select(0, drawn.flatten()).view(size, config.negatives, -1)
        others = torch.einsum("md,mnd->mn", of_user, of_negative)
        if config.loss == "bpr":
            loss = size * bpr(positive, others)
        else:
            loss = size * sampled_softmax(positive / config.temperature, others / config.temperature)
        if config.l2:
            norms = self.embedding.square().sum(dim=1)
            of_negatives = norms.index_select(0, n_users + drawn.flatten()).sum() / config.negatives
            rows = torch.cat([self.owner, n_users + self.item])
            loss = loss + config.l2 / 2 * (norms.index_select(0, rows).sum() + of_negatives)
        return loss

    def _negatives(self, draw: Streams) -> Tensor:
        """[m, negatives] items, those that the users' devices draw in this round."""
        count = self.config.negatives
        counter = self.rank.unsqueeze(1) * count + torch.arange(count, device=self.device)
        owner = self.owner.repeat_interleave(count)
        found = negatives(draw, self.keys, self.indptr, self.items, owner, counter.flatten(), self.graph.n_items)
        return found.view(-1, count)

    def _tables(self) -> tuple[Tensor, Tensor]:
        final = propagate(self.graph, self.embedding, self.config.layers)
        if self.config.loss == "sampled-softmax":
            final = F.normalize(final, dim=1)
        return final[: self.graph.n_users], final[self.graph.n_users :]

    @torch.no_grad()
    def tables(self) -> tuple[Tensor, Tensor]:
        """[n_users, dim] and [n_items, dim] whose products are the scores under the present state."""
        return self._tables()

    def score(self, users: Tensor) -> Tensor:
        """Scores of every item under the present state: [n, n_items]."""
        user_table, item_table = self.tables()
        return user_table[users.to(self.device)] @ item_table.T

    def state(self) -> Tensors:
        """Layer-0 embeddings and Adam's state."""
        adam = self.optimizer.state[self.embedding]
        return {"embedding": self.embedding.detach(), **{f"adam.{name}": tensor for name, tensor in adam.items()}}

    def restore(self, state: Tensors) -> None:
        """Continue from a state.

        Raises:
            RunError: if a tensor has another shape.
        """
        trainer.copy_state(self.state(), state)

    def facts(self) -> Mapping[str, object]:
        """What the state was learned with."""
        return {"seed": self.streams.seed, "settings": self.config.model_dump(mode="json")}

    def restore_facts(self, facts: Mapping[str, object]) -> None:
        """Refuse to continue what was begun with another seed or other settings."""
        trainer.require_facts(self.facts(), facts)
