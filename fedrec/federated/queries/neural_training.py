"""NeuralTraining: local steps of neural collaborative filtering (NCF; He et al. 2017) with a private user embedding.

A user's embedding p and an item's q are made of a part for each branch of the network, and the logit of an item is

    z = h · [p_G ⊙ q_G, A_L] + c,    A_0 = [p_M, q_M],    A_l = relu(W_l A_{l−1} + b_l),

with the first branch alone ("gmf"), the second alone ("mlp"), or both ("neumf"). The user's objective is the
cross-entropy of σ(z) over its own items and negatives, divided by d_u to a power. Its gradient is written out by hand.
Users with about as many samples are padded to the same number and multiplied as one batch, each with its own copy of
the network, which local steps change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows
from fedrec.federated.queries.samples import Samples
from fedrec.federated.query import Query, allow
from fedrec.streams import Streams

MODELS = ("gmf", "mlp", "neumf")


@dataclass(frozen=True)
class Architecture:
    """Sizes of a network.

    Attributes:
        model: "gmf", "mlp" or "neumf".
        dim: d, the width of each branch's embeddings.
        layers: L, of the second branch; from 2d inputs on, each layer is half as wide as its input.
    """

    model: str
    dim: int
    layers: int

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise DataError(f"model '{self.model}' is unknown; valid: {', '.join(MODELS)}")
        if self.model != "gmf" and 2 * self.dim < 2**self.layers:
            raise DataError(f"{self.layers} layers that halve {2 * self.dim} inputs leave nothing; take fewer layers")

    @property
    def product(self) -> int:
        """Width of the first branch's embeddings: d, or 0 without it."""
        return 0 if self.model == "mlp" else self.dim

    @property
    def width(self) -> int:
        """Width of an embedding, of a user or an item."""
        return 2 * self.dim if self.model == "neumf" else self.dim

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of each layer."""
        if self.model == "gmf":
            return []
        return [(2 * self.dim >> (layer + 1), 2 * self.dim >> layer) for layer in range(self.layers)]

    @property
    def top(self) -> int:
        """Width of what the last layer h takes."""
        return self.product + (self.shapes[-1][0] if self.shapes else 0)

    @property
    def size(self) -> int:
        """Number of the network's parameters."""
        return sum(out * (into + 1) for out, into in self.shapes) + self.top + 1

    def unpack(self, flat: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        """Networks, [n, size], as ([n, out, in], [n, out]) a layer, h [n, top] and c [n, 1]: views, in this order."""
        layers, begin = [], 0
        for out, into in self.shapes:
            weight = flat[:, begin : begin + out * into].view(-1, out, into)
            begin += out * into
            layers.append((weight, flat[:, begin : begin + out]))
            begin += out
        return layers, flat[:, begin : begin + self.top], flat[:, begin + self.top :]

    def forward(self, user: Tensor, items: Tensor, flat: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Logits, the inputs of the second branch's layers with its output, and what h takes.

        Args:
            user: [n, width].
            items: [n, s, width].
            flat: [n, size].

        Returns:
            [n, s]; A_0, ..., A_L, each [n, s, .]; [n, s, top].
        """
        layers, last, offset = self.unpack(flat)
        first = self.product
        parts, inputs = [user[:, None, :first] * items[..., :first]] if first else [], []
        if layers:
            mine = user[:, None, first:].expand(-1, items.shape[1], -1)
            inputs.append(torch.cat([mine, items[..., first:]], dim=2))
            for weight, bias in layers:
                inputs.append(torch.baddbmm(bias.unsqueeze(1), inputs[-1], weight.mT).relu())
            parts.append(inputs[-1])
        features = torch.cat(parts, dim=2)
        return torch.baddbmm(offset.unsqueeze(1), features, last.unsqueeze(2)).squeeze(2), inputs, features

    def backward(
        self, slope: Tensor, user: Tensor, items: Tensor, flat: Tensor, inputs: list[Tensor], features: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients with respect to user, items and network, of the shapes of `forward`'s arguments.

        Args:
            slope: [n, s], ∂objective/∂z; 0 where a sample is padding.
            user, items, flat, inputs, features: of the forward pass.
        """
        layers, last, _ = self.unpack(flat)
        first = self.product
        by_last = torch.bmm(slope.unsqueeze(1), features).squeeze(1)
        back = slope.unsqueeze(2) * last.unsqueeze(1)
        by_user, by_items = [], []
        if first:
            by_user.append((back[..., :first] * items[..., :first]).sum(dim=1))
            by_items.append(back[..., :first] * user[:, None, :first])
        by_layer: list[Tensor] = []
        if layers:
            back = back[..., first:]
            for (weight, _), into, out in zip(layers[::-1], inputs[-2::-1], inputs[:0:-1], strict=True):
                back = back * (out > 0)
                by_layer[:0] = [torch.bmm(back.mT, into).flatten(1), back.sum(dim=1)]
                back = torch.bmm(back, weight)
            by_user.append(back[..., : self.dim].sum(dim=1))
            by_items.append(back[..., self.dim :])
        network = torch.cat([*by_layer, by_last, slope.sum(dim=1, keepdim=True)], dim=1)
        return torch.cat(by_user, dim=1), torch.cat(by_items, dim=2), network


@allow("neural-training")
@dataclass(frozen=True, eq=False)
class NeuralTraining(Query):
    """The changes of the item embeddings that a user's local steps touched, and of the network.

    Attributes:
        items: [n_items, width], the item embeddings.
        network: [1, size], the network's parameters.
        model: "gmf", "mlp" or "neumf".
        dim: d, the width of each branch's embeddings.
        layers: L.
        steps: local gradient steps, each over all samples of the round.
        item_rate, network_rate, user_rate: learning rates of the local copies and of the user embedding.
        negatives: sampled for each own item, once a round.
        activity_power: a user's loss is the sum over its samples, divided by d_u to this power.
        initial_scale: standard deviation of the user embedding before training.
    """

    items: Tensor
    network: Tensor
    model: str
    dim: int
    layers: int
    steps: int
    item_rate: float
    network_rate: float
    user_rate: float
    negatives: int
    activity_power: float
    initial_scale: float
    private = ("user",)

    @property
    def architecture(self) -> Architecture:
        """Sizes of the network."""
        return Architecture(self.model, self.dim, self.layers)

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`items`: [n_items, width]; `network`: [1, size]."""
        return {
            "items": (self.items.shape[0], self.items.shape[1]),
            "network": (1, self.architecture.size),
        }

    @property
    def bytes_per_interaction(self) -> int:
        """Activations and their gradients, twice the embedding's width in each layer, and as much again of padding."""
        return 16 * self.items.element_size() * self.items.shape[1] * (1 + self.negatives)

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        """p drawn from the user's own stream."""
        vectors = draw.normal("user-vector", cohort.keys, self.items.shape[1]) * self.initial_scale
        return State({"user": vectors.to(self.items.dtype)})

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """Train every user of the cohort, users of about as many samples at once."""
        samples = Samples.draw(cohort, draw, self.negatives, self.items.dtype)
        owner, index, row = samples.rows(cohort.n_items)
        weight = samples.weights(cohort, self.activity_power)
        table = start = self.items.index_select(0, index)
        users = state.dense["user"].clone()
        networks = self.network.expand(len(cohort), -1).clone()
        by_user = samples.owner.argsort(stable=True)
        for some, place, real in _alike(samples.sizes):
            chosen = by_user[place]
            target, factor, where = samples.target[chosen], weight[chosen] * real, row[chosen]
            user, network = users[some], networks[some]
            for _ in range(self.steps):
                vectors = table[where]
                logits, inputs, features = self.architecture.forward(user, vectors, network)
                slope = factor * (torch.sigmoid(logits) - target)
                gradients = self.architecture.backward(slope, user, vectors, network, inputs, features)
                user = user - self.user_rate * gradients[0]
                step = gradients[1].flatten(0, 1)
                table = table.index_add(0, where.flatten(), step, alpha=-self.item_rate)
                network = network - self.network_rate * gradients[2]
            users[some], networks[some] = user, network
        everyone = torch.arange(len(cohort), device=users.device)
        return {
            "items": Rows(owner, index, table - start),
            "network": Rows(everyone, torch.zeros_like(everyone), networks - self.network),
        }, State({"user": users})


def _alike(sizes: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Users with more than half of 1, 2, 4, 8, ... samples and at most as many: users [m], samples [m, s], real [m, s].

    Samples are positions among those sorted by user. Padding repeats a user's first sample and is not real.
    """
    begin = sizes.cumsum(0) - sizes
    width = 1
    while width // 2 < int(sizes.max()) if len(sizes) else False:
        users = torch.nonzero((sizes > width // 2) & (sizes <= width)).flatten()
        if len(users):
            slot = torch.arange(int(sizes[users].max()), device=sizes.device)
            real = slot < sizes[users].unsqueeze(1)
            yield users, begin[users].unsqueeze(1) + slot * real, real
        width *= 2
