"""LightGCN, trained centrally (He et al. 2020): the upper reference for its federated forms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import Interactions
from fedrec.errors import DataError, ModelError
from fedrec.graph import BipartiteGraph, low_pass, propagate
from fedrec.recommenders import trainer
from fedrec.recommenders.losses import bpr, sampled_softmax, shared_softmax, softmax
from fedrec.recommenders.recommender import RECOMMENDERS, Disclosure, Tensors, Training, require_finite
from fedrec.recommenders.sampling import Complement, SharedNegatives, pairs_of, sample_by_popularity, sample_negatives
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import Choice, Integers, LogUniform, Space
from fedrec.streams import Streams


class LightGCNConfig(Config):
    """Settings of LightGCN. The defaults were chosen by the validation NDCG@10 of three seeds on MovieLens-100K.

    Attributes:
        dim: width of the embeddings.
        layers: propagation steps L; 0 is matrix factorisation.
        loss: "softmax" over the whole catalogue, for some ten thousand items at most; "sampled-softmax" over negatives;
            "shared-softmax" over negatives that all users of a step share, but for their own items, the fastest;
            "bpr", the paper's own. The softmaxes learn from cosine / temperature, BPR from the inner product.
        initialisation: of the layer-0 rows: "normal", independent noise; or "low-pass", noise of which the graph's slow
            part alone is left, each row scaled to the same length. That is a random projection of the eigenvectors of Â
            whose eigenvalue is above `cutoff`: similar from the start are those whom a spectral filter finds similar.
        cutoff: of "low-pass"; some hundred eigenvalues should lie above it.
        temperature: of the softmaxes.
        ranking: what the softmaxes rank by, "cosine", "inner" product or "posterior"; BPR knows the inner product only.
            Against negatives drawn with probability q, cosine / temperature comes to log p(i|u) − log q(i): that
            everyone has an item says nothing. The posterior adds q back, as `prior` · log degree; Yi et al. 2019
            (RecSys) take it off in training instead. The inner product adds some popularity too, since propagation
            gives popular items longer vectors (Wu et al. 2022).
        prior: weight of the logarithm of an item's degree in "posterior": 1 is Bayes' rule if `negative_power` is 1,
            less expects popularity to change. An item that nobody has counts as one with half an interaction.
        rate: learning rate of Adam.
        schedule: "constant"; or "cosine", from the rate down to 0 over all `epochs` after a rise over a twentieth.
        epochs: passes over all users, at most.
        batch: users in a step, each with all of their training items.
        negatives: drawn for each training item, or for each step by "shared-softmax"; "softmax" needs none.
        negative_power: "shared-softmax" draws items in proportion to their degree to this power; with 1 as if they were
            the items of other users in the batch.
        activity_power: "shared-softmax" weighs the items of a user with d of them by d to minus this power in a step's
            mean: 0 weighs all interactions alike, 1 all users, as metrics do.
        l2: weight of half the mean squared norm of the layer-0 rows in a step.
        stopping: when to look at the validation metric and when to stop; a step of the trainer is an epoch.
    """

    dim: int = Field(64, ge=1)
    layers: int = Field(3, ge=0)
    loss: Literal["softmax", "sampled-softmax", "shared-softmax", "bpr"] = "softmax"
    initialisation: Literal["normal", "low-pass"] = "normal"
    cutoff: float = Field(0.5, gt=-1, lt=1)
    temperature: float = Field(0.15, gt=0)
    ranking: Literal["cosine", "inner", "posterior"] = "cosine"
    prior: float = Field(1.0, ge=0)
    rate: float = Field(0.02, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    epochs: int = Field(150, ge=1)
    batch: int = Field(256, ge=1)
    negatives: int = Field(1, ge=1)
    negative_power: float = Field(1.0, ge=0)
    activity_power: float = Field(0.0, ge=0, le=1)
    l2: float = Field(0.0, ge=0)
    stopping: Stopping = Stopping(every=5, patience=8)

    space: ClassVar[Mapping[str, Space]] = {
        "dim": Choice((32, 64, 128)),
        "layers": Integers(1, 4),
        "temperature": LogUniform(0.08, 0.3),
        "rate": LogUniform(3e-3, 5e-2),
        "l2": LogUniform(1e-6, 1e-1),
    }


@RECOMMENDERS.register("lightgcn")
class LightGCN:
    """Light graph convolution: layers average neighbours, and only the layer-0 embeddings are learned."""

    config_class: ClassVar[type[Config]] = LightGCNConfig

    def __init__(self, config: LightGCNConfig) -> None:
        self.config = config
        self._tables: tuple[Tensor, Tensor] | None = None

    def fit(self, train: Interactions, training: Training) -> None:
        """Learn embeddings from the training interactions.

        Raises:
            DataError: if there are none, or if a loss with negatives meets a user who has every item.
            ModelError: if training diverged.
        """
        learner = LightGCNLearner(self.config, train, training.seed, training.torch_device)
        trainer.train(learner, training, steps=self.config.epochs, stopping=self.config.stopping)
        users, items = learner.tables()
        self._tables = require_finite(users, "LightGCN users"), require_finite(items, "LightGCN items")

    def score(self, users: Tensor) -> Tensor:
        """What the configuration ranks by, of every item: [n] int64 -> [n, n_items]."""
        user_table, item_table = self._fitted()
        return user_table[users.to(user_table.device)] @ item_table.T

    def tensors(self) -> Tensors:
        """The final embeddings: a score is the product of a row of `users` and a row of `items`."""
        users, items = self._fitted()
        return {"users": users, "items": items}

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self._tables is None:
            raise ModelError("LightGCN has not been fitted; call fit(train, training) before scoring")
        return self._tables


def with_prior(
    users: Tensor, items: Tensor, degrees: Tensor, temperature: float, prior: float
) -> tuple[Tensor, Tensor]:
    """Tables whose products are s_ui / τ + β log d_i for the products s_ui of two tables: one column more in each.

    Args:
        users, items: [n_users, dim], [n_items, dim].
        degrees: [n_items] number of training interactions d of each item; 0 counts as ½.
        temperature: τ.
        prior: β.

    Returns:
        [n_users, dim + 1] and [n_items, dim + 1].
    """
    popularity = prior * degrees.to(items).clamp(min=0.5).log()
    return (
        torch.cat([users / temperature, users.new_ones(len(users), 1)], dim=1),
        torch.cat([items, popularity.unsqueeze(1)], dim=1),
    )


class LightGCNLearner:
    """LightGCN while it learns: a step is an epoch, a pure function of the state and the epoch's number.

    All randomness is drawn on the CPU, so that every device sees the same batches and negatives.
    """

    def __init__(self, config: LightGCNConfig, train: Interactions, seed: int, device: torch.device) -> None:
        if not len(train):
            raise DataError("LightGCN: the training part holds no interaction; check the cleaning and the split")
        self.config, self.seed, self.device = config, seed, device
        self.graph = BipartiteGraph.of(train).to(device)
        self.indptr, self.items = train.csr
        self.outside = Complement.of(self.indptr, self.items, train.n_items)
        self.popularity = torch.bincount(self.items, minlength=train.n_items)
        self.active = torch.nonzero(self.indptr.diff()).squeeze(1)  # users with nothing to learn from are passed over
        self.embedding = torch.nn.Parameter(self._initial())
        self.optimizer = torch.optim.Adam([self.embedding], lr=config.rate, fused=True)
        # What Adam would do at its first step: the state has all its tensors from the beginning.
        self.optimizer.state[self.embedding] = {
            "step": torch.zeros((), device=device),
            "exp_avg": torch.zeros_like(self.embedding),
            "exp_avg_sq": torch.zeros_like(self.embedding),
        }
        self._ranked: tuple[Tensor, Tensor] | None = None  # the tables of the present state, once they were asked for

    def _initial(self) -> Tensor:
        rows = (self.graph.n_users + self.graph.n_items, self.config.dim)
        noise = torch.randn(rows, generator=Streams(self.seed).generator("initialisation")).to(self.device)
        if self.config.initialisation == "low-pass":
            noise = F.normalize(low_pass(self.graph, noise, self.config.cutoff), dim=1) * math.sqrt(self.config.dim)
        return 0.1 * noise  # a deviation of 0.1 as in the authors' code

    def step(self, number: int) -> Mapping[str, tuple[float, Disclosure]]:
        """One pass over all users; logs the mean loss of a training item."""
        draw = Streams(self.seed, number)
        order = torch.randperm(len(self.active), generator=draw.generator("batches"))
        negatives = draw.generator("negatives")
        total, self._ranked = 0.0, None
        batches = torch.split(self.active[order], self.config.batch)
        for place, users in enumerate(batches):
            self.optimizer.param_groups[0]["lr"] = self._rate(number - 1 + place / len(batches))
            owner, item = pairs_of(users, self.indptr, self.items)
            loss = self._loss(users, owner, item, negatives)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.item() * len(item)
        return {"loss": (total / len(self.items), "simulation")}

    def _rate(self, epochs: float) -> float:
        """The learning rate after so many epochs."""
        if self.config.schedule == "constant":
            return self.config.rate
        done = epochs / self.config.epochs
        return self.config.rate * min(1.0, 20 * done + 0.01) * (1 + math.cos(math.pi * done)) / 2

    def _loss(self, users: Tensor, owner: Tensor, item: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of a batch of users on their items."""
        user_table, item_table = self._tables()
        user = users[owner]
        rows = [user, item + self.graph.n_users]
        temperature = 1.0 if self.config.loss == "bpr" else self.config.temperature
        if self.config.loss == "softmax":
            scores = user_table[self._there(users)] / temperature @ item_table.T
            loss = softmax(scores, self._there(owner), self._there(item))
        else:
            positive = self._select(user_table, user).mul(self._select(item_table, item)).sum(dim=1) / temperature
            if self.config.loss == "shared-softmax":
                config, n_items = self.config, self.graph.n_items
                negative = sample_by_popularity(generator, self.popularity, config.negative_power, config.negatives)
                shared = SharedNegatives.of(negative, len(users), owner, item, n_items)
                others = self._select(user_table, users) / temperature @ self._select(item_table, shared.items).T
                others = others + self._there(shared.correction)
                weight = self._there(owner.bincount().float()[owner].pow(-config.activity_power))
                loss = shared_softmax(positive, others, self._there(owner), weight)
            else:
                negative = sample_negatives(generator, self.outside, user, self.config.negatives)
                of_negative = self._select(item_table, negative.view(-1)).view(*negative.shape, -1)
                others = torch.einsum("md,mnd->mn", self._select(user_table, user), of_negative) / temperature
                loss = bpr(positive, others) if self.config.loss == "bpr" else sampled_softmax(positive, others)
            rows.append(negative.view(-1) + self.graph.n_users)
        if self.config.l2:
            norms = self.embedding.square().sum(dim=1)
            loss = loss + self.config.l2 / 2 * sum(norms.index_select(0, self._there(row)).mean() for row in rows)
        return loss

    def _there(self, codes: Tensor) -> Tensor:
        return codes.to(self.device)

    def _select(self, table: Tensor, codes: Tensor) -> Tensor:
        # index_select rather than indexing: its backward pass adds rows, where indexing's sorts them first.
        return table.index_select(0, self._there(codes))

    def _tables(self, cosine: bool = True) -> tuple[Tensor, Tensor]:
        final = propagate(self.graph, self.embedding, self.config.layers)
        if cosine and self.config.loss != "bpr":
            final = F.normalize(final, dim=1)
        return final[: self.graph.n_users], final[self.graph.n_users :]

    @torch.no_grad()
    def tables(self) -> tuple[Tensor, Tensor]:
        """[n_users, width] and [n_items, width] whose products are the scores under the present state.

        The width is `dim`, and one more for the prior of "posterior".
        """
        if self._ranked is None:
            self._ranked = self._tables(cosine=self.config.ranking != "inner")
            if self.config.ranking == "posterior" and self.config.loss != "bpr":
                self._ranked = with_prior(*self._ranked, self.popularity, self.config.temperature, self.config.prior)
        return self._ranked

    def score(self, users: Tensor) -> Tensor:
        """Scores of every item under the present state: [n, n_items]."""
        user_table, item_table = self.tables()
        return user_table[self._there(users)] @ item_table.T

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
        self._ranked = None

    def facts(self) -> Mapping[str, object]:
        """What the state was learned with."""
        return {"seed": self.seed, "settings": self.config.model_dump(mode="json")}

    def restore_facts(self, facts: Mapping[str, object]) -> None:
        """Refuse to continue what was begun with another seed or other settings."""
        trainer.require_facts(self.facts(), facts)
