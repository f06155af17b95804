"""Propagate: one application of the graph's normalised adjacency, as a sum over users.

With Ã = D_u^{-1/2} R D_i^{-1/2}, a pass from layer l to l + 1 takes E_I to Ã E_I on the users' side and E_U to Ãᵀ E_U
on the items'. The server scales item rows by D_i^{-1/2} before it broadcasts them and after it summed them, so that a
user needs to know nothing of other users: with X = D_i^{-1/2} E_I it

    adds e_u/√d_u to each i ∈ N_u, of total norm ‖e_u‖, and keeps e_u' = Σ_{i∈N_u} X_i / √d_u.

The adjacency is symmetric, so gradients go back through the layers by the very same query.

**Masking does not hide everything.** The sum at an item that one user has is that user's e_u/√d_u, and two users who
collude see a third one's at an item that the three share.

One step of full-batch training is L such passes forward (phases 0 to L − 1), one `LossGradient` (phase L) and L passes
back (phases L + 1 to 2L). What a device remembers between them stands in `GraphMemory`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows
from fedrec.federated.query import Query, allow
from fedrec.streams import Streams

BETAS = (0.9, 0.999)  # of Adam, on the devices as on the server: torch's defaults
EPSILON = 1e-8


@dataclass(frozen=True, eq=False)
class GraphMemory:
    """What the devices of a cohort remember of training on the whole graph. Nothing of it is sent but `layer`.

    Attributes:
        embedding: [n, d] e_u(0), the user's parameters.
        moments: [n, 2d] Adam's, first and second.
        layer: [n, d] the newest layer of the pass that is under way.
        forward: [n, d] Σ of the layers 1 to L.
        gradient: [n, d] of the loss with respect to e_u(0) as the final vector holds it.
        backward: [n, d] the gradient's own layers 1 to L.
        progress: [n, 4] the round of the passes; the phase that comes next in them; the round whose gradient has not
            been stepped along yet, or 0; steps that were taken.
    """

    embedding: Tensor
    moments: Tensor
    layer: Tensor
    forward: Tensor
    gradient: Tensor
    backward: Tensor
    progress: Tensor

    NAMES = ("embedding", "moments", "layer", "forward", "gradient", "backward", "progress")

    @classmethod
    def initial(cls, cohort: Cohort, draw: Streams, like: Tensor, scale: float) -> GraphMemory:
        """e_u(0) from the user's own stream, of deviation `scale`, in the width and type of an item table."""
        width = like.shape[1]
        embedding = (draw.normal("user-vector", cohort.keys, width) * scale).to(like.dtype)
        nothing = torch.zeros_like(embedding)
        progress = embedding.new_zeros(len(cohort), 4)
        return cls(embedding, nothing.repeat(1, 2), nothing, nothing, nothing, nothing, progress)

    @classmethod
    def of(cls, state: State) -> GraphMemory:
        """From the engine's keeping."""
        return cls(**{name: state.dense[name] for name in cls.NAMES})

    def state(self) -> State:
        """For the engine to keep."""
        return State({name: getattr(self, name) for name in self.NAMES})

    def waits_for(self, round: int, phase: int) -> Tensor:
        """[n] bool, which users answered all phases of a round's passes before this one.

        Whoever missed one adds nothing to those that follow: what they would add is of another model.
        """
        return (self.progress[:, 0] == round) & (self.progress[:, 1] == phase)

    def stepped(self, rate: float, dropped: Tensor) -> GraphMemory:
        """After the step along the gradient that waits for it, unless the server dropped that step.

        A device cannot know whether the others answered until the server asks for the next step, so it steps then.
        """
        waiting = self.progress[:, 2]
        due = (waiting > 0) & ~torch.isin(waiting.long(), dropped)
        gradient, steps = self.gradient + self.backward, self.progress[:, 3:] + 1
        first, second = self.moments.chunk(2, dim=1)
        first = first.lerp(gradient, 1 - BETAS[0])
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient.square()
        root = (second / (1 - BETAS[1] ** steps)).sqrt() + EPSILON
        embedding = self.embedding - rate * first / (1 - BETAS[0] ** steps) / root
        chosen, progress = due.unsqueeze(1), self.progress.clone()
        progress[:, 2] = 0
        progress[:, 3] += due
        return replace(
            self,
            embedding=torch.where(chosen, embedding, self.embedding),
            moments=torch.where(chosen, torch.cat([first, second], dim=1), self.moments),
            progress=progress,
        )

    def where(self, users: Tensor, other: GraphMemory) -> GraphMemory:
        """This memory for some users ([n] bool), and the other one for the rest."""
        chosen = users.unsqueeze(1)
        return GraphMemory(
            **{name: torch.where(chosen, getattr(self, name), getattr(other, name)) for name in self.NAMES}
        )

    def marked(self, round: int, phase: int, *, pending: bool) -> GraphMemory:
        """With the progress that answering a phase makes; `pending` says that a gradient is complete."""
        progress = self.progress.clone()
        progress[:, 0], progress[:, 1] = round, phase + 1
        if pending:
            progress[:, 2] = round
        return replace(self, progress=progress)


def root_degrees(cohort: Cohort, dtype: torch.dtype) -> Tensor:
    """1/√d_u, [n, 1]; 1 for a user without items."""
    return cohort.degrees.clamp(min=1).to(dtype).rsqrt().unsqueeze(1)


@allow("propagate")
@dataclass(frozen=True, eq=False)
class Propagate(Query):
    """e_u/√d_u to each item of the user's own, e_u being the newest layer; the next one stays on the device.

    Attributes:
        layer: [n_items, d] X, the items' newest layer, each row divided by the root of its degree.
        dropped: [k] int64 rounds whose step did not count.
        phase: 0 starts from e_u(0), after the step that waits; 2L ends the gradient's way back.
        layers: L.
        rate: learning rate of e_u(0).
        initial_scale: deviation of e_u(0) before training.
    """

    layer: Tensor
    dropped: Tensor
    phase: int
    layers: int
    rate: float
    initial_scale: float
    private = GraphMemory.NAMES

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`layer`: [n_items, d]."""
        return {"layer": (self.layer.shape[0], self.layer.shape[1])}

    @property
    def bytes_per_interaction(self) -> int:
        """A gathered row of the layer and a row of the answer."""
        return 2 * self.layer.element_size() * self.layer.shape[1]

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        """A user's own random vector."""
        return GraphMemory.initial(cohort, draw, self.layer, self.initial_scale).state()

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """Each user's layer at the user's items; the next layer from the items'."""
        memory = GraphMemory.of(state)
        if self.phase == 0:
            memory = memory.stepped(self.rate, self.dropped)
            memory = replace(memory, layer=memory.embedding, forward=torch.zeros_like(memory.forward))
            present = torch.ones(len(cohort), dtype=torch.bool, device=cohort.keys.device)
        else:
            present = memory.waits_for(draw.round, self.phase)
        share = root_degrees(cohort, self.layer.dtype)
        answering = present[cohort.owner]
        owner, items = cohort.owner[answering], cohort.items[answering]
        rows = Rows(owner, items, (share * memory.layer).index_select(0, owner))
        arrived = share * cohort.sum_by_user(self.layer.index_select(0, cohort.items))
        if self.phase < self.layers:
            advanced = replace(memory, layer=arrived, forward=memory.forward + arrived)
        else:
            advanced = replace(memory, layer=arrived, backward=memory.backward + arrived)
        advanced = advanced.marked(draw.round, self.phase, pending=self.phase == 2 * self.layers)
        return {"layer": rows}, advanced.where(present, memory).state()
