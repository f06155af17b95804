"""Exact LightGCN: full-batch LightGCN (He et al. 2020) over the whole graph, every pass a sum over users.

LightGCN is linear, so its passes over the graph are sums over users, and so is the gradient on its way back. One step:

    L × Propagate       item layers E_I(1), ..., E_I(L); the users' stay with the users
    LossGradient        of the final vectors, the mean of the layers
    L × Propagate       of that gradient
    the server steps E_I(0) by Adam, every user steps its own e_u(0)

which equals a step of centralised full-batch LightGCN with the same negatives to rounding, as long as everyone takes
part. Who takes part in a round makes its graph: with a rate below one, sums over participants are scaled up to the
population, and a step is a step on the participants' graph. If the number of answers changes within a step, the step is
dropped on the server and on the devices, and the next round does it again.

A round measures and then steps: what is scored after r rounds is the model of r − 1 steps, whose layers round r has
propagated. It costs 2L + 1 sums; `refresh_every = T` spends 2L of them on every T-th round only. The method is made for
secure aggregation. Even masked sums show the vector of an item's only user, see `fedrec.federated.queries.propagation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.engine import Totals
from fedrec.federated.method import METHODS, Ask, Federation
from fedrec.federated.queries import Count, LossGradient, Propagate
from fedrec.federated.queries.propagation import GraphMemory, root_degrees
from fedrec.federated.query import Query
from fedrec.federated.server_optimizer import ServerOptimizerConfig, server_step
from fedrec.privacy import PlannedRelease
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import Choice, Integers, LogUniform, Space, Uniform


class ExactLightGCNConfig(Config):
    """Settings of `ExactLightGCN`. The defaults were chosen by the validation NDCG@10 of MovieLens-100K.

    Attributes:
        dim: d, the embedding width.
        layers: L, propagation steps.
        rounds: the most rounds, each one step.
        loss: "bpr", or "sampled-softmax" of cosines.
        temperature: of the softmax.
        negatives: drawn for each training item in each step.
        rate: learning rate of Adam, on the server and on the devices.
        l2: weight of half the squared norm of the layer-0 rows of a training item, its user and its negatives.
        initial_scale: standard deviation of all embeddings before training.
        refresh_every: T, steps that propagated layers and propagated gradients are used for.
        propagate_clip, loss_clip, count_clip: norms that answers are clipped to under a guarantee. A layer's is that of
            the user's vector.
        propagate_share, count_share: shares of a guarantee's budget that a round's Propagate queries and the first
            round's degree query take; the loss gets the rest.
        stopping: early stopping on validation.
    """

    dim: int = Field(64, ge=1)
    layers: int = Field(2, ge=1)
    rounds: int = Field(200, ge=1)
    loss: Literal["bpr", "sampled-softmax"] = "sampled-softmax"
    temperature: float = Field(0.1, gt=0)
    negatives: int = Field(4, ge=1)
    rate: float = Field(0.1, gt=0)
    l2: float = Field(1e-3, ge=0)
    initial_scale: float = Field(0.1, gt=0)
    refresh_every: int = Field(1, ge=1)
    propagate_clip: float = Field(1.0, gt=0)
    loss_clip: float = Field(1.0, gt=0)
    count_clip: float = Field(10.0, gt=0)
    propagate_share: float = Field(0.7, gt=0, lt=1)
    count_share: float = Field(0.1, gt=0, lt=1)
    stopping: Stopping = Stopping()

    space: ClassVar[Mapping[str, Space]] = {
        "dim": Choice((32, 64)),
        "layers": Choice((1, 2, 3)),
        "rate": LogUniform(3e-3, 1e-1),
        "l2": LogUniform(1e-5, 1e-1),
        "negatives": Integers(1, 8),
        "temperature": Uniform(0.05, 0.3),
    }


class _SetChanged(Exception):  # noqa: N818 (it says what happened, and is no mistake)
    """Not all phases of a step were answered by as many users."""


class _Step:
    """The sums of one step, which count only if as many users answer each of them, and none of them late.

    Whoever missed a phase stays silent in the rest of the step, so that a set which shrinks shows in the number.
    """

    def __init__(self, ask: Ask, scale: float) -> None:
        self._ask, self._scale = ask, scale
        self._answered: int | None = None

    def __call__(self, query: Query) -> Mapping[str, Tensor]:
        """The sums, scaled up to the population."""
        totals = self._ask(query)
        self._require_same(totals)
        return {name: total * self._scale for name, total in totals.sums.items()}

    def _require_same(self, totals: Totals) -> None:
        if totals.noised:
            return  # nobody may know who answered
        if self._answered not in (None, totals.answered) or totals.late:
            raise _SetChanged
        self._answered = totals.answered


@METHODS.register("exact-lightgcn")
class ExactLightGCN:
    """Full-batch LightGCN over the whole graph, from sums."""

    config_class: ClassVar[type[Config]] = ExactLightGCNConfig

    def __init__(self, config: ExactLightGCNConfig) -> None:
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
        """One count, 2L passes in every T-th round, one gradient a round."""
        config = self.config
        every, passes = config.refresh_every, config.propagate_share * (1 - config.count_share)
        return (
            PlannedRelease(query="count", draws=1, clip=config.count_clip, share=config.count_share),
            PlannedRelease(
                query="propagate",
                draws=-(-config.rounds // every),
                clip=config.propagate_clip,
                per_draw=2 * config.layers,
                every=every,
                share=passes,
            ),
            PlannedRelease(
                query="loss-gradient",
                draws=config.rounds,
                clip=config.loss_clip,
                share=1 - config.count_share - passes,
            ),
        )

    def start(self, federation: Federation) -> Tensors:
        """A random item table; nothing has been counted or propagated.

        Devices score with `items`, the final vectors, and `scaled`; what stands under `items` is the server's alone.
        """
        items = federation.random_items(self.config.dim)
        items = items * self.config.initial_scale
        return {
            "items": self._normalized(items),
            "items.layer0": items,
            "items.degrees": torch.zeros(federation.n_items, 1, dtype=torch.float64, device=federation.device),
            "n_users": torch.tensor(federation.n_users, device=federation.device),
            "items.passes": torch.tensor(0, device=federation.device),
            "items.dropped": torch.zeros(0, dtype=torch.int64, device=federation.device),
            "scaled": torch.zeros_like(items),
            "items.forward": torch.zeros_like(items),
            "items.backward": torch.zeros_like(items),
        }

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        """One step, unless the answering users change within it."""
        scale = int(state["n_users"]) / ask.expected
        if not state["items.degrees"].any():
            degrees = ask(Count(len(state["items.layer0"]))).sums["count"] * scale
            state = dict(state) | {"items.degrees": degrees.clamp(min=0.0)}
        step = _Step(ask, scale)
        try:
            if self._refreshes(state, ask.round):
                return self._full_step(state, step, ask.round)
            return self._short_step(state, step)
        except _SetChanged:
            dropped = state["items.dropped"]
            return dict(state) | {"items.dropped": torch.cat([dropped, dropped.new_tensor([ask.round])])}

    def _refreshes(self, state: Tensors, round: int) -> bool:
        """Whether a round propagates: every T-th one, the first that is answered, and the one after a dropped one."""
        due, done = round - (round - 1) % self.config.refresh_every, int(state["items.passes"])
        return round == due or not done or (done < due and due in state["items.dropped"])

    def _full_step(self, state: Tensors, step: _Step, round: int) -> Tensors:
        """Forward through the layers, the loss, back through the layers."""
        config, items = self.config, state["items.layer0"]
        root = state["items.degrees"].clamp(min=1.0).rsqrt().to(items.dtype)  # [n_items, 1]
        layer, forward, scaled = items, torch.zeros_like(items), torch.zeros_like(items)
        for phase in range(config.layers):
            scaled = scaled + root * layer
            layer = root * step(self._propagate(root * layer, state["items.dropped"], phase))["layer"]
            forward = forward + layer
        state = dict(state) | {
            "items.forward": forward,
            "scaled": scaled,
            "items.passes": state["items.passes"].new_tensor(round),
        }
        final, loss = self._differentiate(state, step)
        layer, backward = loss["final"], torch.zeros_like(items)
        for phase in range(config.layers + 1, 2 * config.layers + 1):
            layer = root * step(self._propagate(root * layer, state["items.dropped"], phase))["layer"]
            backward = backward + layer
        return self._stepped(state | {"items": final, "items.backward": backward}, loss)

    def _short_step(self, state: Tensors, step: _Step) -> Tensors:
        """The loss alone, with the layers of an earlier round and the gradients that were propagated then."""
        final, loss = self._differentiate(state, step)
        return self._stepped(dict(state) | {"items": final}, loss)

    def _differentiate(self, state: Tensors, step: _Step) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The items' final vectors as they are broadcast, and the gradient with respect to their layer 0."""
        config = self.config
        mean = (state["items.layer0"] + state["items.forward"]) / (config.layers + 1)
        final = self._normalized(mean)
        query = LossGradient(
            final=final,
            dropped=state["items.dropped"],
            passes=int(state["items.passes"]),
            layers=config.layers,
            loss=config.loss,
            temperature=config.temperature,
            negatives=config.negatives,
            l2=config.l2,
            rate=config.rate,
            initial_scale=config.initial_scale,
        )
        sums = step(query)
        gradient = sums["final"]
        if config.loss == "sampled-softmax":  # through the normalisation f/‖f‖
            norm = torch.linalg.vector_norm(mean, dim=1, keepdim=True).clamp(min=1e-12)
            gradient = (gradient - (gradient * final).sum(dim=1, keepdim=True) * final) / norm
        return final, {
            "final": gradient / (config.layers + 1),
            "layer0": config.l2 * sums["layer0"] * state["items.layer0"],
        }

    def _stepped(self, state: Tensors, loss: Mapping[str, Tensor]) -> Tensors:
        """Adam on E_I(0)."""
        gradient = loss["final"] + state["items.backward"] + loss["layer0"]
        return server_step(ServerOptimizerConfig(kind="adam", rate=self.config.rate), state, "items.layer0", gradient)

    def _normalized(self, final: Tensor) -> Tensor:
        return F.normalize(final, dim=1) if self.config.loss == "sampled-softmax" else final

    def _propagate(self, layer: Tensor, dropped: Tensor, phase: int) -> Propagate:
        config = self.config
        return Propagate(
            layer=layer,
            dropped=dropped,
            phase=phase,
            layers=config.layers,
            rate=config.rate,
            initial_scale=config.initial_scale,
        )

    def memory(self, state: Tensors) -> Query | None:
        """What Propagate and LossGradient keep on the devices."""
        nothing = torch.zeros(0, dtype=torch.int64, device=state["items"].device)
        return self._propagate(state["items"], nothing, 0)

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        """f_u · F_i for every item, f_u = (e_u(0) + Σ_{i∈N_u} Σ_{l<L} X_i(l) / √d_u) / (L + 1)."""
        embedding, scaled = GraphMemory.of(private).embedding, state["scaled"]
        layers = root_degrees(cohort, scaled.dtype) * cohort.sum_by_user(scaled.index_select(0, cohort.items))
        return (embedding + layers) / (self.config.layers + 1) @ state["items"].T
