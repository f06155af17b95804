"""Ego LightGCN: cross-device training in which a client's graph is its own star.

Each round every participant takes a few gradient steps on its own items and negatives, and sends how its copy of the
item table changed. The server takes the mean change as a pseudo-gradient. The user vector never leaves the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from fedrec.components import Config
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.method import METHODS, Ask, Federation
from fedrec.federated.queries import LocalTraining
from fedrec.federated.queries.local_training import user_vectors
from fedrec.federated.server_optimizer import ServerOptimizerConfig, server_step
from fedrec.privacy import PlannedRelease
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import Choice, Integers, LogUniform, Space, Uniform


class EgoLightGCNConfig(Config):
    """Settings of `EgoLightGCN`.

    Attributes:
        dim: d, the embedding width.
        rounds: the most rounds.
        loss: "bce" or "bpr".
        local_steps: E, gradient steps on the device in a round.
        fewest_local_steps: the slowest device's: each user takes a number of its own each round, uniform from here to
            `local_steps`. None: all take `local_steps`.
        item_rate: learning rate of the local item table; with one local step and Adam at the server its size is moot.
        user_rate: learning rate of the private user vector.
        negatives: sampled for each own item in each local step.
        activity_power: a user's loss is divided by its number of items to this power.
        initial_scale: standard deviation of all embeddings before training.
        clip: norm that a user's change is clipped to under a guarantee.
        server: the server's optimiser.
        stopping: early stopping on validation.
    """

    dim: int = Field(64, ge=1)
    rounds: int = Field(120, ge=1)
    loss: Literal["bce", "bpr"] = "bce"
    local_steps: int = Field(1, ge=1)
    fewest_local_steps: int | None = Field(None, ge=1)
    item_rate: float = Field(1.0, gt=0)
    user_rate: float = Field(1.0, ge=0)
    negatives: int = Field(4, ge=1)
    activity_power: float = Field(0.5, ge=0, le=1)
    initial_scale: float = Field(0.03, gt=0)
    clip: float = Field(0.1, gt=0)
    server: ServerOptimizerConfig = ServerOptimizerConfig()
    stopping: Stopping = Stopping()

    space: ClassVar[Mapping[str, Space]] = {
        "dim": Choice((32, 64, 128)),
        "local_steps": Choice((1, 2, 4)),
        "negatives": Integers(1, 8),
        "activity_power": Uniform(0, 1),
        "user_rate": LogUniform(0.1, 10),
        "server.rate": LogUniform(3e-3, 5e-2),
    }

    @model_validator(mode="after")
    def _fewest_is_no_more(self) -> EgoLightGCNConfig:
        if self.fewest_local_steps is not None and self.fewest_local_steps > self.local_steps:
            fewest, most = self.fewest_local_steps, self.local_steps
            raise ValueError(f"fewest_local_steps = {fewest} is more than local_steps = {most}; lower it")
        return self


@METHODS.register("ego-lightgcn")
class EgoLightGCN:
    """LightGCN on every user's own star graph, averaged by the server."""

    config_class: ClassVar[type[Config]] = EgoLightGCNConfig

    def __init__(self, config: EgoLightGCNConfig) -> None:
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
        """One sum of item-table changes a round."""
        return (PlannedRelease(query="local-training", draws=self.config.rounds, clip=self.config.clip),)

    def start(self, federation: Federation) -> Tensors:
        """A random item table."""
        return {"items": federation.random_items(self.config.dim) * self.config.initial_scale}

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        """The clients train locally; the server steps along their mean change."""
        change = ask(self.memory(state)).sums["items"]
        return server_step(self.config.server, state, "items", gradient=-change / ask.expected)

    def memory(self, state: Tensors) -> LocalTraining:
        """Local training, which keeps each user's vector on the device."""
        config = self.config
        return LocalTraining(
            items=state["items"],
            loss=config.loss,
            steps=config.local_steps,
            item_rate=config.item_rate,
            user_rate=config.user_rate,
            negatives=config.negatives,
            activity_power=config.activity_power,
            initial_scale=config.initial_scale,
            fewest_steps=config.fewest_local_steps or 0,
        )

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        """e_u · q_i for every item."""
        return user_vectors(cohort, private.dense["user"], state["items"]) @ state["items"].T
