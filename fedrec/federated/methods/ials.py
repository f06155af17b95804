"""iALS: implicit matrix factorisation by alternating least squares (Hu et al. 2008; Rendle et al. 2022).

The objective stands in `fedrec.federated.queries.least_squares`. In a round every user solves for its own vector p_u,
given the item vectors Q, and adds it to the normal equations of its items; the server solves them for the next Q:

    (Σ_{u: i∈N_u} p_u p_uᵀ + α PᵀP + λ (d_i + α|U|)^ν I) q_i = Σ_{u: i∈N_u} p_u.

A private form of it is DPALS (Chien et al. 2021). A user vector is a function of the user's items and of Q, so devices
remember nothing, and whoever comes later is served like everybody else.
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
from fedrec.federated.queries import Count, NormalEquations
from fedrec.federated.queries.least_squares import solve_ridge, symmetric
from fedrec.federated.query import Query
from fedrec.privacy import PlannedRelease
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import Choice, LogUniform, Space

_ITEMS_AT_ONCE = 4096  # d = 64 takes 16 kB an item and copy in single precision


class IALSConfig(Config):
    """Settings of `IALS`. The defaults were chosen by the validation NDCG@10 of MovieLens-100K.

    Attributes:
        dim: d, the width of the vectors.
        rounds: the most rounds; each solves for all users and then for all items.
        unobserved: α, the weight of every pair, beside 1 for those observed.
        regularization: λ.
        frequency_power: ν, how regularisation grows with activity and popularity; 0 treats all alike and asks for no
            degrees.
        initial_scale: norm that item vectors have about before the first round.
        clip: norm that a user's normal equations are clipped to under a guarantee.
        count_clip: norm that the degree query is clipped to under a guarantee.
        count_share: share of a guarantee's budget, in the first round, that the degree query takes.
        stopping: early stopping on validation.
    """

    dim: int = Field(32, ge=1)
    rounds: int = Field(20, ge=1)
    unobserved: float = Field(0.37, gt=0)
    regularization: float = Field(0.0033, gt=0)
    frequency_power: float = Field(1.0, ge=0, le=1)
    initial_scale: float = Field(0.1, gt=0)
    clip: float = Field(5.0, gt=0)  # about the median norm on MovieLens-100K
    count_clip: float = Field(10.0, gt=0)
    count_share: float = Field(0.2, gt=0, lt=1)
    stopping: Stopping = Stopping(every=2, patience=3)

    space: ClassVar[Mapping[str, Space]] = {
        "dim": Choice((16, 32, 64)),
        "unobserved": LogUniform(0.03, 3),
        "regularization": LogUniform(1e-3, 1e-1),
        "frequency_power": Choice((0.5, 1.0)),
    }


@METHODS.register("ials")
class IALS:
    """Alternating least squares: users solve for themselves, the server for the items."""

    config_class: ClassVar[type[Config]] = IALSConfig

    def __init__(self, config: IALSConfig) -> None:
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
        """The normal equations of each round, and before them perhaps the degrees."""
        config, left = self.config, 1.0
        releases: list[PlannedRelease] = []
        if config.frequency_power:
            left -= config.count_share
            releases += [PlannedRelease(query="count", draws=1, clip=config.count_clip, share=config.count_share)]
        releases += [PlannedRelease(query="normal-equations", draws=config.rounds, clip=config.clip, share=left)]
        return tuple(releases)

    def start(self, federation: Federation) -> Tensors:
        """Small random item vectors, and no degrees yet."""
        items = federation.random_items(self.config.dim)
        return {
            "items": items * self.config.initial_scale / self.config.dim**0.5,
            "items.degrees": torch.zeros(federation.n_items, dtype=torch.float64, device=federation.device),
            "n_users": torch.tensor(federation.n_users, device=federation.device),
        }

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        """Every user solves for p_u; the server solves every item's normal equations."""
        # Who takes part stands for everybody: sums over participants are scaled up to the population.
        scale = int(state["n_users"]) / ask.expected
        degrees = state["items.degrees"]
        if self.config.frequency_power and not degrees.any():
            degrees = (ask(Count(len(degrees))).sums["count"].squeeze(1) * scale).clamp(min=0.0)
        totals = ask(self._equations(state))
        table, everyone = totals.sums["items"] * scale, totals.sums["everyone"] * scale
        ridge = self._ridge(degrees, state)
        items = solve_items(table, self.config.unobserved * everyone, ridge, noised=totals.noised)
        return dict(state) | {"items": items, "items.degrees": degrees}

    def _ridge(self, degrees: Tensor, state: Tensors) -> Tensor:
        """λ (d_i + α|U|)^ν, [n_items]."""
        config = self.config
        weight = degrees + config.unobserved * int(state["n_users"])
        return config.regularization * weight.pow(config.frequency_power)

    def _equations(self, state: Tensors) -> NormalEquations:
        config, items = self.config, state["items"]
        return NormalEquations(
            items=items,
            gram=items.T @ items,
            unobserved=config.unobserved,
            regularization=config.regularization,
            frequency_power=config.frequency_power,
        )

    def memory(self, state: Tensors) -> Query | None:
        """Devices remember nothing beside their histories."""
        return None

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        """p_u · q_i for every item, p_u solved for on the device."""
        return self._equations(state).solve(cohort) @ state["items"].T


def solve_items(table: Tensor, common: Tensor, ridge: Tensor, *, noised: bool) -> Tensor:
    """The item vectors that solve their normal equations.

    Args:
        table: [n_items, d(d + 1)/2 + d], for each item the triangle of Σ p_u p_uᵀ and Σ p_u over its users.
        common: [1, d(d + 1)/2], the triangle of what all items share, α PᵀP.
        ridge: [n_items], what is added to the diagonal.
        noised: whether noise may have made the matrices indefinite; they are then replaced by the nearest that are not.

    Returns:
        [n_items, d].
    """
    triangle = common.shape[1]
    dim = table.shape[1] - triangle
    solved = []
    for start in range(0, len(table), _ITEMS_AT_ONCE):
        rows = table[start : start + _ITEMS_AT_ONCE]
        matrices = symmetric(rows[:, :triangle] + common, dim)
        if noised:
            matrices = nearest_semidefinite(matrices)
        solved.append(solve_ridge(matrices, rows[:, triangle:], ridge[start : start + _ITEMS_AT_ONCE]))
    return torch.cat(solved)


def nearest_semidefinite(matrices: Tensor) -> Tensor:
    """The positive semi-definite matrices nearest to symmetric ones, [m, d, d], in double precision."""
    values, vectors = torch.linalg.eigh(matrices.double())
    nearest: Tensor = (vectors * values.clamp(min=0.0).unsqueeze(1)) @ vectors.mT
    return nearest
