"""FCF: federated collaborative filtering (Ammad-ud-din et al. 2019, "Federated Collaborative Filtering for
Privacy-Preserving Personalized Recommendation System").

Each round every participant solves for its own vector, given the item vectors, and sends what its implicit feedback
says about them; the server takes one gradient step, by Adam as the authors do. The objective, and why a user need not
send the gradient of every item, stand in `fedrec.federated.queries.implicit_gradient`.

A user vector is a function of the user's items and of the item vectors, so devices remember nothing. Next to iALS,
which solves for the items too, a round sends d + 1 times less about an item and there are many more rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.method import METHODS, Ask, Federation
from fedrec.federated.queries import ImplicitGradient
from fedrec.federated.queries.least_squares import symmetric
from fedrec.federated.query import Query
from fedrec.federated.server_optimizer import ServerOptimizerConfig, server_step
from fedrec.privacy import PlannedRelease
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import Choice, LogUniform, Space


class FCFConfig(Config):
    """Settings of `FCF`; the defaults were chosen on the validation part of MovieLens-100K.

    Attributes:
        dim: d, the width of the vectors.
        rounds: the most rounds.
        confidence: α, the weight of an own item beside 1 for every pair.
        regularization: λ.
        initial_scale: standard deviation of item vectors before training.
        clip: norm that a user's gradient is clipped to under a guarantee.
        server: the server's optimiser.
        stopping: early stopping on validation.
    """

    dim: int = Field(32, ge=1)
    rounds: int = Field(100, ge=1)
    confidence: float = Field(1.0, ge=0)
    regularization: float = Field(10.0, gt=0)
    initial_scale: float = Field(0.1, gt=0)
    clip: float = Field(10.0, gt=0)
    server: ServerOptimizerConfig = ServerOptimizerConfig(rate=0.02)
    stopping: Stopping = Stopping()

    space: ClassVar[Mapping[str, Space]] = {
        "dim": Choice((16, 32, 64)),
        "confidence": LogUniform(0.5, 50),
        "regularization": LogUniform(0.1, 100),
        "initial_scale": LogUniform(0.01, 0.3),
        "server.rate": LogUniform(3e-3, 1e-1),
    }


@METHODS.register("fcf")
class FCF:
    """Implicit matrix factorisation: users solve for themselves, the server steps."""

    config_class: ClassVar[type[Config]] = FCFConfig

    def __init__(self, config: FCFConfig) -> None:
        self.config = config

    @property
    def rounds(self) -> int:
        """The most rounds it runs."""
        return self.config.rounds

    @property
    def stopping(self) -> Stopping:
        """Early stopping on validation."""
        return self.config.stopping

    def releases(self) -> tuple[PlannedRelease, ...]:
        """One gradient a round."""
        return (PlannedRelease(query="implicit-gradient", draws=self.config.rounds, clip=self.config.clip),)

    def start(self, federation: Federation) -> Tensors:
        """A random item table."""
        items = federation.random_items(self.config.dim)
        n_users = torch.tensor(federation.n_users, device=federation.device)
        return {"items": items * self.config.initial_scale, "n_users": n_users}

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        """Users solve; the server steps along half of ∂J/∂Q, divided by the number of users."""
        sums, items = ask(self._gradient(state)).sums, state["items"]
        everyone = symmetric(sums["everyone"], self.config.dim)[0]
        # Who takes part stands for everybody.
        gradient = (items @ everyone - sums["items"]) / ask.expected
        gradient = gradient + self.config.regularization / int(state["n_users"]) * items
        return server_step(self.config.server, state, "items", gradient)

    def memory(self, state: Tensors) -> Query | None:
        """Devices remember nothing beside their histories."""
        return None

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        """p_u · q_i for every item, p_u solved for on the device."""
        return self._gradient(state).solve(cohort) @ state["items"].T

    def _gradient(self, state: Tensors) -> ImplicitGradient:
        items = state["items"]
        return ImplicitGradient(items, items.T @ items, self.config.confidence, self.config.regularization)
