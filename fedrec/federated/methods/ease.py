"""EASE: a linear autoencoder in closed form (Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data").

Of all item-item weights B with a zero diagonal it takes those that predict the histories best, ‖X − XB‖² + λ‖B‖². With
P = (XᵀX + λI)⁻¹ they are

    B_ij = −P_ij / P_jj for i ≠ j,  B_jj = 0.

XᵀX = Σ_u x_u x_uᵀ is a sum over users, so one Gram release is all that training takes. A user scores x_u B on the
device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.method import METHODS, NO_STOPPING, Ask, Federation
from fedrec.federated.queries import Gram
from fedrec.federated.query import Query
from fedrec.privacy import PlannedRelease
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import LogUniform, Space


class EASEConfig(Config):
    """Settings of `EASE`.

    Attributes:
        regularization: λ, in units of XᵀX; 100 is best on the validation part of MovieLens-100K.
        activity_power: each x_u is divided by d_u to this power; 0 is Steck's EASE, ½ gives every user's x_u x_uᵀ the
            norm 1.
        clip: norm that x_u x_uᵀ is clipped to under a guarantee. A clip of 1 makes it x_u x_uᵀ/d_u, whatever
            `activity_power` is up to ½, and XᵀX and λ shrink accordingly.
        noise_margin: under a guarantee λ is at least this many times the spectral radius of the noise.
    """

    regularization: float = Field(100.0, gt=0)
    activity_power: float = Field(0.0, ge=0, le=0.5)
    clip: float = Field(1.0, gt=0)
    noise_margin: float = Field(2.0, gt=1)  # at 1 the matrix that is inverted may be singular

    space: ClassVar[Mapping[str, Space]] = {"regularization": LogUniform(10, 1000)}


@METHODS.register("ease")
class EASE:
    """Item-item weights in closed form, from one sum."""

    config_class: ClassVar[type[Config]] = EASEConfig
    rounds: int = 1
    stopping: Stopping = NO_STOPPING

    def __init__(self, config: EASEConfig) -> None:
        self.config = config

    def releases(self) -> tuple[PlannedRelease, ...]:
        """One matrix."""
        return (PlannedRelease(query="gram", draws=1, clip=self.config.clip),)

    def start(self, federation: Federation) -> Tensors:
        """No item says anything about another."""
        shape = (federation.n_items, federation.n_items)
        return {"weights": torch.zeros(shape, dtype=federation.dtype, device=federation.device)}

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        """XᵀX from the users, B from its inverse."""
        weights = state["weights"]
        totals = ask(Gram(torch.ones_like(weights[0]), self.config.activity_power))
        gram, regularization = totals.sums["gram"].double(), self.config.regularization
        if totals.noised:
            regularization = max(regularization, self.config.noise_margin * noise_radius(gram))
        return {"weights": item_weights(gram, regularization).to(weights.dtype)}

    def memory(self, state: Tensors) -> Query | None:
        """Devices remember nothing beside their histories."""
        return None

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        """x_u B, [n, n_items]."""
        weights = state["weights"]
        history = torch.zeros(len(cohort), cohort.n_items, dtype=weights.dtype, device=weights.device)
        history[cohort.owner, cohort.items] = 1.0
        return history @ weights


def item_weights(gram: Tensor, regularization: float) -> Tensor:
    """B of Steck's equation 8.

    Args:
        gram: [n_items, n_items] XᵀX, in double precision; it is left as it is.
        regularization: λ, large enough that XᵀX + λI is positive definite.

    Returns:
        [n_items, n_items], column j predicting item j, with a zero diagonal.
    """
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + regularization * identity))
    return (-inverse / inverse.diagonal()).fill_diagonal_(0.0)


def noise_radius(gram: Tensor) -> float:
    """How far below zero the noise takes the spectrum of a Gram matrix, which has none there of its own.

    The spectrum of symmetric Gaussian noise is a half circle about zero (Wigner 1955), so where few of the eigenvalues
    of XᵀX are large, the least one of the sum is minus the radius. Computed from what is released, it costs nothing.
    """
    return max(0.0, -float(torch.linalg.eigvalsh(gram)[0]))
