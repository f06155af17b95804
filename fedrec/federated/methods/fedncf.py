"""FedNCF: neural collaborative filtering with private user embeddings (Perifanis and Efraimidis 2022, "Federated Neural
Collaborative Filtering").

Item embeddings and the network are common, each user's embedding is its own. Each round users train their copies and
send what changed. The authors average the embeddings of the items and the parameters of the network apart, since an
item's embedding changes at few users; here both are sums, and with Adam at the server each entry has a scale of its
own. The network and its gradient stand in `fedrec.federated.queries.neural_training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedrec.components import Config
from fedrec.errors import DataError
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.method import METHODS, Ask, Federation
from fedrec.federated.queries import NeuralTraining
from fedrec.federated.queries.neural_training import Architecture
from fedrec.federated.server_optimizer import ServerOptimizerConfig, server_step
from fedrec.privacy import PlannedRelease
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import Choice, LogUniform, Space

_PAIRS_AT_ONCE = 1 << 16  # of user and item, scored at once: 32 MB of activations at d = 32


class FedNCFConfig(Config):
    """Settings of `FedNCF`.

    Attributes:
        model: "gmf", "mlp" or "neumf", which is both.
        dim: d, the width of each branch's embeddings.
        layers: of the second branch; from 2d inputs on, each is half as wide as its input.
        rounds: the most rounds.
        local_steps: gradient steps on the device in a round.
        item_rate, network_rate: learning rates of the local copies; with one local step and Adam at the server their
            size is moot.
        user_rate: learning rate of the private user embedding.
        negatives: sampled for each own item, once a round.
        activity_power: a user's loss is divided by its number of items to this power.
        initial_scale: standard deviation of all embeddings before training.
        clip: norm that a user's change is clipped to under a guarantee.
        server: the server's optimiser, of both tables.
        stopping: early stopping on validation.
    """

    model: Literal["gmf", "mlp", "neumf"] = "neumf"
    dim: int = Field(16, ge=1)
    layers: int = Field(2, ge=1)
    rounds: int = Field(200, ge=1)
    local_steps: int = Field(1, ge=1)
    item_rate: float = Field(0.1, gt=0)
    network_rate: float = Field(0.1, gt=0)
    user_rate: float = Field(0.1, ge=0)
    negatives: int = Field(4, ge=1)
    activity_power: float = Field(0.5, ge=0, le=1)
    initial_scale: float = Field(0.1, gt=0)
    clip: float = Field(1.0, gt=0)
    server: ServerOptimizerConfig = ServerOptimizerConfig()
    stopping: Stopping = Stopping()

    space: ClassVar[Mapping[str, Space]] = {
        "model": Choice(("gmf", "mlp", "neumf")),
        "dim": Choice((8, 16, 32)),
        "user_rate": LogUniform(0.01, 1),
        "initial_scale": LogUniform(0.01, 0.3),
        "server.rate": LogUniform(1e-3, 3e-2),
    }

    @model_validator(mode="after")
    def _layers_fit(self) -> Self:
        try:
            Architecture(self.model, self.dim, self.layers)
        except DataError as error:
            raise ValueError(str(error)) from error
        return self


@METHODS.register("fedncf")
class FedNCF:
    """Neural collaborative filtering: common item embeddings and network, private user embeddings."""

    config_class: ClassVar[type[Config]] = FedNCFConfig

    def __init__(self, config: FedNCFConfig) -> None:
        self.config = config
        self.architecture = Architecture(config.model, config.dim, config.layers)

    @property
    def rounds(self) -> int:
        """The most rounds it runs."""
        return self.config.rounds

    @property
    def stopping(self) -> Stopping:
        """Early stopping on validation."""
        return self.config.stopping

    def releases(self) -> tuple[PlannedRelease, ...]:
        """One sum of changes a round, of item embeddings and network together."""
        return (PlannedRelease(query="neural-training", draws=self.config.rounds, clip=self.config.clip),)

    def start(self, federation: Federation) -> Tensors:
        """Random embeddings and a random network without offsets, weights of variance 2 / inputs (He et al. 2015)."""
        generator = federation.streams.generator("items", federation.device)
        items = torch.empty(
            federation.n_items, self.architecture.width, dtype=federation.dtype, device=federation.device
        )
        items.normal_(generator=generator).mul_(self.config.initial_scale)
        network = items.new_zeros(1, self.architecture.size)
        layers, last, _ = self.architecture.unpack(network)
        for weight in [*(weight for weight, _ in layers), last]:
            weight.normal_(generator=generator).mul_((2.0 / weight.shape[-1]) ** 0.5)
        return {"items": items, "network": network}

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        """The clients train locally; the server steps along their mean changes."""
        changes = ask(self.memory(state)).sums
        for name in ("items", "network"):
            state = server_step(self.config.server, state, name, gradient=-changes[name] / ask.expected)
        return state

    def memory(self, state: Tensors) -> NeuralTraining:
        """Local training, which keeps each user's embedding on the device."""
        config = self.config
        return NeuralTraining(
            items=state["items"],
            network=state["network"],
            model=config.model,
            dim=config.dim,
            layers=config.layers,
            steps=config.local_steps,
            item_rate=config.item_rate,
            network_rate=config.network_rate,
            user_rate=config.user_rate,
            negatives=config.negatives,
            activity_power=config.activity_power,
            initial_scale=config.initial_scale,
        )

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        """The network's logit of every item."""
        items, logits = state["items"], []
        for user in torch.split(private.dense["user"], max(1, _PAIRS_AT_ONCE // len(items))):
            both = (items.expand(len(user), -1, -1), state["network"].expand(len(user), -1))
            logits.append(self.architecture.forward(user, *both)[0])
        return torch.cat(logits) if logits else items.new_zeros(0, len(items))
