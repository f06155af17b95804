"""Matrix factorisation: truncated SVD, and BPR-MF on the `implicit` library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from implicit.cpu.bpr import BayesianPersonalizedRanking
from implicit.recommender_base import ModelFitError
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError, DataError, ModelError
from fedrec.recommenders import trainer
from fedrec.recommenders.histories import Histories
from fedrec.recommenders.recommender import RECOMMENDERS, Disclosure, Tensors, Training, require_finite
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import Choice, Integers, LogUniform, Space
from fedrec.streams import Streams


class SVDConfig(Config):
    """Settings of `SVD`.

    Attributes:
        factors: k, the singular vectors that are kept.
        iterations: power iterations of the randomised solver.
    """

    factors: int = Field(32, ge=1)
    iterations: int = Field(10, ge=0)

    space: ClassVar[Mapping[str, Space]] = {"factors": Integers(4, 128, log=True)}


@RECOMMENDERS.register("svd")
class SVD:
    """PureSVD: the history projected on the top-k right singular vectors, s_u = x_u V Vᵀ (Cremonesi et al. 2010)."""

    config_class: ClassVar[type[Config]] = SVDConfig
    folds_in = True

    def __init__(self, config: SVDConfig) -> None:
        self.config = config
        self._histories: Histories | None = None
        self._vectors = torch.zeros(0, 0)
        self._popularity = torch.zeros(0)

    def fit(self, train: Interactions, training: Training) -> None:
        """Factorise the training matrix.

        Raises:
            ConfigError: if there are not as many items as factors.
            DataError: if there is no interaction.
        """
        from sklearn.utils.extmath import randomized_svd  # slow to import, and no node needs it

        if not len(train):
            raise DataError("svd: the training part holds no interaction; check the cleaning and the split")
        if self.config.factors > train.n_items:
            raise ConfigError(
                f"svd: factors = {self.config.factors} is more than the {train.n_items} items of the catalogue; "
                "lower it"
            )
        histories = Histories.of(train)
        seed = int(Streams(training.seed).numbers("svd").integers(2**32))  # what NumPy's old generator takes
        _, values, vectors = randomized_svd(
            histories.matrix, self.config.factors, n_iter=self.config.iterations, random_state=seed
        )
        # A matrix of lower rank has vectors without meaning at singular values that are 0 but for rounding.
        found = torch.from_numpy(vectors[values > 1e-10 * values[0]].T.copy())
        self._vectors = require_finite(found, "SVD")
        self._histories, self._popularity = histories, torch.from_numpy(train.item_degrees)
        training.progress(1, 1, None)

    def score(self, users: Tensor) -> Tensor:
        """x_u V Vᵀ, [n] -> [n, n_items] float64; popularity for a user without training items."""
        return self.score_histories(self._fitted().take(users))

    def score_histories(self, histories: Histories) -> Tensor:
        """The same for any users, from their items."""
        self._fitted()
        factors = torch.from_numpy(histories.matrix @ self._vectors.numpy())
        return histories.fill_empty(factors @ self._vectors.T, self._popularity)

    def tensors(self) -> Tensors:
        """V [n_items, k], and the popularity of items."""
        self._fitted()
        return {"vectors": self._vectors, "popularity": self._popularity}

    def _fitted(self) -> Histories:
        if self._histories is None:
            raise ModelError("SVD has not been fitted; call fit(train, training) before scoring")
        return self._histories


class BPRConfig(Config):
    """Settings of `BPR`.

    Attributes:
        factors: width of the embeddings, beside a bias of each item.
        rate: learning rate of stochastic gradient descent.
        regularization: weight of the squared norms.
        epochs: at most; an epoch draws as many interactions as there are, with replacement.
        stopping: when to look at the validation metric and when to stop; a step of the trainer is an epoch.
    """

    factors: int = Field(32, ge=1)
    rate: float = Field(0.007, gt=0)
    regularization: float = Field(0.006, ge=0)
    epochs: int = Field(300, ge=1)
    stopping: Stopping = Stopping(every=5, patience=10)

    space: ClassVar[Mapping[str, Space]] = {
        "factors": Choice((32, 64, 128)),
        "rate": LogUniform(2e-3, 2e-2),
        "regularization": LogUniform(2e-3, 3e-2),
    }


@RECOMMENDERS.register("bpr")
class BPR:
    """Matrix factorisation by Bayesian personalised ranking (Rendle et al. 2009), in `implicit`'s kernels."""

    config_class: ClassVar[type[Config]] = BPRConfig

    def __init__(self, config: BPRConfig) -> None:
        self.config = config
        self._tables: tuple[Tensor, Tensor] | None = None

    def fit(self, train: Interactions, training: Training) -> None:
        """Learn embeddings from the training interactions.

        Raises:
            DataError: if there are none.
            ModelError: if training diverged.
        """
        learner = BPRLearner(self.config, train, training.seed)
        trainer.train(learner, training, steps=self.config.epochs, stopping=self.config.stopping)
        self._tables = require_finite(learner.users, "BPR users"), require_finite(learner.items, "BPR items")

    def score(self, users: Tensor) -> Tensor:
        """Inner products and biases, [n] -> [n, n_items]; the biases alone for a user without training items."""
        user_table, item_table = self._fitted()
        return user_table[users] @ item_table.T

    def tensors(self) -> Tensors:
        """The embeddings: a score is the product of a row of `users` and a row of `items`."""
        users, items = self._fitted()
        return {"users": users, "items": items}

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self._tables is None:
            raise ModelError("BPR has not been fitted; call fit(train, training) before scoring")
        return self._tables


class BPRLearner:
    """BPR-MF while it learns, an epoch of `implicit`'s stochastic gradient descent a step.

    The library draws a negative as the item of another interaction, so by popularity, and skips those that the user
    has in training: it is given nothing else. It has no early stopping, but goes on from the factors that it holds,
    and with one thread and a seed for each epoch an epoch is a pure function of factors and number.

    Attributes:
        users: [n_users, factors + 1] float32, the last column 1.
        items: [n_items, factors + 1] float32, the last column the bias; 0 for an item without interactions.
    """

    def __init__(self, config: BPRConfig, train: Interactions, seed: int) -> None:
        if not len(train):
            raise DataError("bpr: the training part holds no interaction; check the cleaning and the split")
        self.config, self.seed = config, seed
        self.matrix = Histories.of(train).matrix.astype(np.float32)
        numbers = Streams(seed).numbers("initialisation")

        def initial(degrees: npt.NDArray[np.int64]) -> Tensor:
            # The library's own: uniform, of a scale at which a score begins near 0; nothing where nothing is learned.
            table = (numbers.random((len(degrees), config.factors + 1), dtype=np.float32) - 0.5) / config.factors
            return torch.from_numpy(np.where(degrees[:, None] > 0, table, np.float32(0.0)))

        self.items, self.users = initial(train.item_degrees), initial(train.user_degrees)
        self.users[:, -1] = 1.0

    def step(self, number: int) -> Mapping[str, tuple[float, Disclosure]]:
        """One epoch; logs the root mean square of the item embeddings, since the library does not tell its loss."""
        model = BayesianPersonalizedRanking(
            factors=self.config.factors,
            learning_rate=self.config.rate,
            regularization=self.config.regularization,
            iterations=1,
            num_threads=1,
            random_state=int(Streams(self.seed, number).numbers("bpr").integers(2**31)),
        )
        model.user_factors, model.item_factors = self.users.numpy(), self.items.numpy()  # changed in place
        try:
            model.fit(self.matrix, show_progress=False)
        except ModelFitError as error:
            raise ModelError(f"epoch {number}: {error}; training diverged: lower the rate") from error
        return {"item-rms": (float(self.items.square().mean().sqrt()), "simulation")}

    def score(self, users: Tensor) -> Tensor:
        """Scores of every item under the present state: [n, n_items]."""
        return self.users[users] @ self.items.T

    def state(self) -> Tensors:
        """The embeddings."""
        return {"users": self.users, "items": self.items}

    def restore(self, state: Tensors) -> None:
        """Continue from a state.

        Raises:
            RunError: if a tensor has another shape.
        """
        trainer.copy_state(self.state(), state)

    def facts(self) -> Mapping[str, object]:
        """What the state was learned with."""
        return {"seed": self.seed, "settings": self.config.model_dump(mode="json")}

    def restore_facts(self, facts: Mapping[str, object]) -> None:
        """Refuse to continue what was begun with another seed or other settings."""
        trainer.require_facts(self.facts(), facts)
