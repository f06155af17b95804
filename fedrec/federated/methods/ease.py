"""EASE: a linear autoencoder in closed form (Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data").

Of all item-item weights B with a zero diagonal it takes those that predict the histories best, ‖X − XB‖² + λ‖B‖². With
P = (XᵀX + λI)⁻¹ they are

    B_ij = −P_ij / P_jj for i ≠ j,  B_jj = 0.

XᵀX = Σ_u x_u x_uᵀ is a sum over users, so one Gram release is all that training takes. A user scores x_u B on the
device.

Under a guarantee the release is noisy, and what B is made of it decides the accuracy: see `fedrec.federated.noisy_gram`
and `fedrec.federated.head`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedrec.components import Config
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.head import histories, most_popular, over_catalogue
from fedrec.federated.method import METHODS, NO_STOPPING, Ask, Federation
from fedrec.federated.noisy_gram import noise_radius, row_sums, shrink_spectrum, within_attributes
from fedrec.federated.queries import Count, Gram
from fedrec.federated.query import Query
from fedrec.privacy import PlannedRelease
from fedrec.recommenders.attributes import Columns, encode
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import LogUniform, Space


class EASEConfig(Config):
    """Settings of `EASE`. What is said of noise applies under a guarantee, and was chosen on MovieLens-100K.

    Attributes:
        regularization: λ, in units of XᵀX; 100 is best on the validation part of MovieLens-100K.
        activity_power: each x_u is divided by d_u to this power; 0 is Steck's EASE, ½ gives every user's x_u x_uᵀ the
            norm 1.
        head: share of the catalogue, its most popular part, that is related at all; 1 relates all items.
        count_clip: norm that the query for popularity is clipped to under a guarantee; 1 weighs all users alike.
        count_share: share of a guarantee's budget that the query for popularity takes.
        clip: norm that x_u x_uᵀ is clipped to under a guarantee. A clip of 1 makes it x_u x_uᵀ/d_u, whatever
            `activity_power` is up to ½, and XᵀX and λ shrink accordingly.
        noise_margin: λ is at least this many times the spectral radius of the noise.
        bulk: share of the eigenvalues below that radius that is kept; 1 leaves all eigenvalues as they are.
        attributes: public columns of the items that explain part of a noisy matrix; "auto" takes those whose values
            recur.
        attribute_weight: weight of that part beside the matrix itself.
        popularity_power: an item's scores are divided by how popular it is to this power. A large λ leaves little of B
            but popularity.
    """

    regularization: float = Field(100.0, gt=0)
    activity_power: float = Field(0.0, ge=0, le=0.5)
    head: float = Field(1.0, gt=0, le=1)
    count_clip: float = Field(1.0, gt=0)
    count_share: float = Field(0.05, gt=0, lt=1)
    clip: float = Field(1.0, gt=0)
    noise_margin: float = Field(1.5, gt=0)
    bulk: float = Field(0.3, ge=0, le=1)
    attributes: Columns = ()
    attribute_weight: float = Field(1.0, gt=0)
    popularity_power: float = Field(0.0, ge=0, le=1)

    space: ClassVar[Mapping[str, Space]] = {"regularization": LogUniform(10, 1000)}

    @model_validator(mode="after")
    def _inverse_exists(self) -> Self:
        if self.noise_margin <= self.bulk:
            raise ValueError(
                f"noise_margin = {self.noise_margin} is not above bulk = {self.bulk}, and the matrix to invert may be "
                "singular; raise noise_margin"
            )
        return self


@METHODS.register("ease")
class EASE:
    """Item-item weights in closed form, from one sum."""

    config_class: ClassVar[type[Config]] = EASEConfig
    rounds: int = 1
    stopping: Stopping = NO_STOPPING

    def __init__(self, config: EASEConfig) -> None:
        self.config = config

    def releases(self) -> tuple[PlannedRelease, ...]:
        """One matrix, and before it perhaps how popular items are."""
        config = self.config
        if config.head == 1:
            return (PlannedRelease(query="gram", draws=1, clip=config.clip),)
        return (
            PlannedRelease(query="count", draws=1, clip=config.count_clip, share=config.count_share),
            PlannedRelease(query="gram", draws=1, clip=config.clip, share=1 - config.count_share),
        )

    def start(self, federation: Federation) -> Tensors:
        """No item says anything about another.

        Raises:
            ConfigError: if the items have no such attributes.
        """
        config, n_items = self.config, federation.n_items
        size = max(1, round(config.head * n_items))
        known = encode(federation.item_attributes, config.attributes, n_items, "method.attributes").matrix.toarray()
        return {
            "weights": torch.zeros(size, size, dtype=federation.dtype, device=federation.device),
            "head": torch.arange(size, device=federation.device),
            "counts": torch.zeros(n_items, dtype=torch.float64, device=federation.device),
            "features": torch.from_numpy(known).to(federation.device, torch.float64),
        }

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        """XᵀX from the users, of the most popular items; B from its inverse."""
        counts, head, features = state["counts"], state["head"], state["features"]
        if self.config.head < 1:
            counts = ask(Count(len(counts))).sums["count"].squeeze(1)
            head = most_popular(counts, len(head))
        asked = torch.zeros(len(counts), dtype=state["weights"].dtype, device=counts.device)
        asked[head] = 1.0
        totals = ask(Gram(asked, self.config.activity_power))
        gram, regularization = totals.sums["gram"].double(), self.config.regularization
        radius = noise_radius(gram) if totals.noised else 0.0
        users = row_sums(gram, radius)
        if totals.noised:
            regularization = max(regularization, self.config.noise_margin * radius)
            if features.shape[1]:
                gram = gram + self.config.attribute_weight * within_attributes(gram, features[head], users)
            gram = shrink_spectrum(gram, radius, self.config.bulk)
        weights = item_weights(gram, regularization) / (users / users.mean()).pow(self.config.popularity_power)
        return {"weights": weights.to(asked.dtype), "head": head, "counts": counts, "features": features}

    def memory(self, state: Tensors) -> Query | None:
        """Devices remember nothing beside their histories."""
        return None

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        """x_u B, [n, n_items]; whatever is outside the head comes after it."""
        weights, head = state["weights"], state["head"]
        known = histories(cohort, head, weights.dtype)
        scores = known @ weights
        return scores if len(head) == cohort.n_items else over_catalogue(scores, known, head, state["counts"])


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
