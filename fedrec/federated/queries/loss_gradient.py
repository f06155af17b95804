"""LossGradient: the loss of a user's final vector on the user's own items, differentiated where layers end.

With f_u the user's final vector, F the items' and g = ∂loss/∂s the slopes of the scores s_j = f_u · F_j, the gradient
with respect to row j of F is g_j f_u and that with respect to f_u is Σ_j g_j F_j. The second stays on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows
from fedrec.federated.queries.propagation import GraphMemory
from fedrec.federated.query import Query, allow
from fedrec.recommenders.sampling import negatives
from fedrec.streams import Streams


@allow("loss-gradient")
@dataclass(frozen=True, eq=False)
class LossGradient(Query):
    """The gradient of a user's summed loss at the items' final vectors, and how often each item's own is regularised.

    The objective is Σ_u Σ_{i∈N_u} [loss(s_i, s_j, ...) + ½ l2 (‖e_u(0)‖² + ‖e_i(0)‖² + mean_j ‖e_j(0)‖²)], j being the
    negatives that were drawn for i. Its second part is not propagated, and the server knows e_i(0): a count is enough.

    Attributes:
        final: [n_items, d] F, the mean of the items' layers; for the softmax, rows of norm 1.
        dropped: [k] int64 rounds whose step did not count.
        passes: the round whose forward passes are used; an earlier one than the present round reuses them.
        layers: L.
        loss: "bpr", −ln σ(s_i − s_j) averaged over j; or "sampled-softmax" of cosines divided by the temperature.
        temperature: of the softmax.
        negatives: drawn for each own item.
        l2: weight of the regularisation.
        rate: learning rate of e_u(0).
        initial_scale: deviation of e_u(0) before training.
    """

    final: Tensor
    dropped: Tensor
    passes: int
    layers: int
    loss: str
    temperature: float
    negatives: int
    l2: float
    rate: float
    initial_scale: float
    private = GraphMemory.NAMES

    def __post_init__(self) -> None:
        if self.loss not in ("bpr", "sampled-softmax"):
            raise DataError(f"loss-gradient: loss '{self.loss}' is unknown; valid: bpr, sampled-softmax")

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`final`: [n_items, d], to be propagated back; `layer0`: [n_items, 1], weights of the L2 part."""
        return {"final": (self.final.shape[0], self.final.shape[1]), "layer0": (self.final.shape[0], 1)}

    @property
    def bytes_per_interaction(self) -> int:
        """Two rows, gathered and answered, for an own item and for each of its negatives."""
        return 2 * self.final.element_size() * self.final.shape[1] * (1 + self.negatives)

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        """A user's own random vector."""
        return GraphMemory.initial(cohort, draw, self.final, self.initial_scale).state()

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """Rows for own items and negatives; a user who has every item has no negative and adds nothing."""
        memory, reused = GraphMemory.of(state), self.passes < draw.round
        if reused:
            memory = memory.stepped(self.rate, self.dropped)
        present = memory.waits_for(self.passes, 2 * self.layers + 1 if reused else self.layers)
        vectors = (memory.embedding + memory.forward) / (self.layers + 1)
        able = torch.nonzero(present & (cohort.degrees < cohort.n_items)).flatten()
        some = cohort.take(able)
        rows, by_vector = self._differentiate(some, vectors[able], draw)
        layer = torch.zeros_like(vectors).index_copy(0, able, by_vector / (self.layers + 1))
        weight = torch.zeros_like(vectors[:, :1]).index_copy(0, able, self.l2 * some.degrees.to(vectors).unsqueeze(1))
        advanced = replace(memory, gradient=layer + weight * memory.embedding)
        if reused:
            progress = advanced.progress.clone()
            progress[:, 2] = draw.round
            advanced = replace(advanced, progress=progress)
        else:
            advanced = replace(advanced, layer=layer, backward=torch.zeros_like(layer))
            advanced = advanced.marked(draw.round, self.layers, pending=False)
        return {name: Rows(able[part.owner], part.index, part.value) for name, part in rows.items()}, advanced.where(
            present, memory
        ).state()

    def _differentiate(self, cohort: Cohort, vectors: Tensor, draw: Streams) -> tuple[dict[str, Rows], Tensor]:
        """The two contributions, and the gradient with respect to the final vectors, [n, d]."""
        count, owner = self.negatives, cohort.owner
        rank = torch.arange(len(owner), device=owner.device) - cohort.indptr[owner]
        counter = rank.unsqueeze(1) * count + torch.arange(count, device=owner.device)
        drawn = negatives(
            draw,
            cohort.keys,
            cohort.indptr,
            cohort.items,
            owner.repeat_interleave(count),
            counter.flatten(),
            cohort.n_items,
        )
        entries = torch.cat([cohort.items.unsqueeze(1), drawn.view(-1, count)], dim=1)  # [R, 1 + negatives]
        cosine = self.loss == "sampled-softmax"
        directions = F.normalize(vectors, dim=1) if cosine else vectors
        gathered = self.final.index_select(0, entries.flatten()).view(*entries.shape, vectors.shape[1])
        slope = self._slope(torch.bmm(gathered, directions.index_select(0, owner).unsqueeze(2)).squeeze(2))
        pull = cohort.sum_by_user(torch.bmm(slope.unsqueeze(1), gathered).squeeze(1))
        if cosine:  # through the normalisation f/‖f‖
            norm = torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp(min=1e-12)
            pull = (pull - (pull * directions).sum(dim=1, keepdim=True) * directions) / norm
        weight = torch.full_like(slope, 1 / count)
        weight[:, 0] = 1.0
        slopes_and_weights = torch.stack([slope.flatten(), weight.flatten()], dim=1)
        merged = Rows.coalesce(
            owner.repeat_interleave(1 + count), entries.flatten(), slopes_and_weights, cohort.n_items
        )
        final = merged.value[:, :1] * directions.index_select(0, merged.owner)
        return {
            "final": Rows(merged.owner, merged.index, final),
            "layer0": Rows(merged.owner, merged.index, merged.value[:, 1:]),
        }, pull

    def _slope(self, scores: Tensor) -> Tensor:
        """∂loss/∂score: [m, 1 + negatives], own items first."""
        if self.loss == "bpr":
            pairwise = torch.sigmoid(scores[:, 1:] - scores[:, :1]) / self.negatives
            return torch.cat([-pairwise.sum(dim=1, keepdim=True), pairwise], dim=1)
        share = torch.softmax(scores / self.temperature, dim=1)
        share[:, 0] -= 1.0
        return share / self.temperature
