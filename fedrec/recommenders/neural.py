"""Neural models of a (user, item) pair, and how they learn: positives against train-only negatives, by Adam."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedrec.components import Config
from fedrec.data.interactions import Interactions
from fedrec.errors import DataError
from fedrec.recommenders import trainer
from fedrec.recommenders.losses import bce, bpr, sampled_softmax
from fedrec.recommenders.recommender import Disclosure, Tensors
from fedrec.recommenders.sampling import Complement, sample_negatives
from fedrec.recommenders.trainer import Stopping
from fedrec.streams import Streams

LOSSES = {"bce": bce, "bpr": bpr, "sampled-softmax": sampled_softmax}

_PAIRS = 1 << 18  # scored at a time: a layer of width 64 then takes 64 MB


class PairTraining(Config):
    """How a model of pairs is trained.

    Attributes:
        loss: "bce" (the models' own), "bpr", or "sampled-softmax".
        negatives: drawn for each interaction, uniformly outside the user's training items.
        rate: learning rate of Adam.
        weight_decay: of Adam, decoupled from the gradient (AdamW).
        batch: interactions in a step.
        epochs: passes over all interactions, at most.
        stopping: when to look at the validation metric and when to stop; a step of the trainer is an epoch.
    """

    loss: Literal["bce", "bpr", "sampled-softmax"] = "bce"
    negatives: int = Field(4, ge=1)
    rate: float = Field(0.01, gt=0)
    weight_decay: float = Field(0.3, ge=0)
    batch: int = Field(2048, ge=1)
    epochs: int = Field(60, ge=1)
    stopping: Stopping = Stopping(every=2, patience=5)


def embedding(rows: int, width: int, generator: torch.Generator) -> nn.Parameter:
    """A table of normal numbers with a deviation of 0.1, as LightGCN's."""
    return nn.Parameter(0.1 * torch.randn(rows, width, generator=generator))


def linear(outputs: int, inputs: int, generator: torch.Generator) -> nn.Parameter:
    """A matrix [outputs, inputs], uniform with a variance of 2 / inputs, which rectifiers keep (He et al. 2015)."""
    limit = math.sqrt(6.0 / max(inputs, 1))
    return nn.Parameter(limit * (2 * torch.rand(outputs, inputs, generator=generator) - 1))


class PairLearner:
    """A model of pairs while it learns: a step is an epoch, a pure function of the state and the epoch's number.

    The model is a module that is called with [m] int64 users, [m, c] int64 items, c for each user, and in training with
    a generator, for whatever it draws; it gives [m, c] scores. All randomness is drawn on the CPU, so that every device
    sees the same batches and negatives.
    """

    def __init__(
        self,
        model: nn.Module,
        config: PairTraining,
        train: Interactions,
        seed: int,
        device: torch.device,
    ) -> None:
        if not len(train):
            raise DataError("the training part holds no interaction; check the cleaning and the split")
        self.model, self.config, self.seed, self.device = model.to(device), config, seed, device
        indptr, self.items = train.csr
        self.users = torch.repeat_interleave(indptr.diff())
        self.outside = Complement.of(indptr, self.items, train.n_items)
        self.n_items = train.n_items
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.rate, weight_decay=config.weight_decay, fused=True
        )
        for parameter in self.model.parameters():
            # What Adam would do at its first step: the state has all its tensors from the beginning.
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def step(self, number: int) -> Mapping[str, tuple[float, Disclosure]]:
        """One pass over all interactions; logs their mean loss."""
        draw = Streams(self.seed, number)
        order = torch.randperm(len(self.items), generator=draw.generator("batches"))
        negatives, hide = draw.generator("negatives"), draw.generator("hidden ids")
        loss_of, total = LOSSES[self.config.loss], 0.0
        for batch in torch.split(order, self.config.batch):
            users = self.users[batch]
            others = sample_negatives(negatives, self.outside, users, self.config.negatives)
            items = torch.cat([self.items[batch].unsqueeze(1), others], dim=1)
            scores = self.model(users.to(self.device), items.to(self.device), hide)
            loss = loss_of(scores[:, 0], scores[:, 1:])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.item() * len(batch)
        return {"loss": (total / len(self.items), "simulation")}

    @torch.no_grad()
    def score(self, users: Tensor) -> Tensor:
        """Scores of every item under the present state: [n, n_items]."""
        users = users.to(self.device)
        items = torch.arange(self.n_items, device=self.device)
        blocks = torch.split(users, max(1, _PAIRS // self.n_items))
        return torch.cat([self.model(block, items.expand(len(block), -1)) for block in blocks])

    def state(self) -> Tensors:
        """The parameters and Adam's state."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            found[name] = parameter.detach()
            found |= {f"adam.{name}.{key}": tensor for key, tensor in self.optimizer.state[parameter].items()}
        return found

    def parameters(self) -> Tensors:
        """The parameters alone."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

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
