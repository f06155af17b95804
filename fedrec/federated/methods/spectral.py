"""Spectral filter: a federated low-pass filter of the item graph (GF-CF; Shen et al. 2021).

LightGCN is a low-pass filter, so its ideal form needs no training. With c_u = x_u W / √d_u, the server finds the top-k
eigenspace V of M = Σ_u c_u c_uᵀ, and a user scores s_u = x_u W V Vᵀ W⁻¹ (+ a linear filter, x_u M) on the device. M
comes from one Gram release. Where the catalogue is too large for that, V comes from products of M with a few columns a
round, by subspace iteration or block Lanczos, and M is never formed. Subspaces are compared by V Vᵀ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedrec.components import Config
from fedrec.errors import ConfigError
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.head import histories, most_popular, over_catalogue
from fedrec.federated.method import METHODS, NO_STOPPING, Ask, Federation
from fedrec.federated.queries import Count, Gram, Subspace
from fedrec.federated.query import Query
from fedrec.graph.lanczos import next_block, project, ritz_vectors
from fedrec.privacy import PlannedRelease
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import Choice, Integers, LogUniform, Space


class SpectralConfig(Config):
    """Settings of `Spectral`.

    Attributes:
        factors: k, the dimension of the eigenspace.
        release: "gram", one release of the whole matrix; "subspace", subspace iteration, one product of the matrix with
            the basis a round; or "lanczos", one product with a block of new directions a round, all of them kept, which
            takes a fraction of the products for the same eigenspace.
        iterations: rounds of "subspace" and "lanczos".
        block: directions in a round of "lanczos"; block · iterations is at least `factors`, better twice as many.
        weight: W; "none" is the identity, "degree" is D_I^{-1/2} as in the paper, counted by one more query.
        linear: weight of the linear filter beside the ideal one; the paper weighs the ideal one instead, by 1/linear.
            It needs the Gram matrix, which "subspace" and "lanczos" ask for in the last round, without its zeros: not
            under a guarantee.
        head: share of the catalogue, its most popular part, whose items are related at all, by a Gram release; 1
            relates all items. It takes the degree query, as a weight does.
        count_clip: norm that the degree query is clipped to under a guarantee.
        count_share: share of a guarantee's budget, in the first round, that the degree query takes.
    """

    factors: int = Field(64, ge=1)
    release: Literal["gram", "subspace", "lanczos"] = "gram"
    iterations: int = Field(10, ge=1)
    block: int = Field(64, ge=1)
    weight: Literal["none", "degree"] = "none"
    linear: float = Field(0.0, ge=0)
    head: float = Field(1.0, gt=0, le=1)
    count_clip: float = Field(10.0, gt=0)
    count_share: float = Field(0.2, gt=0, lt=1)

    space: ClassVar[Mapping[str, Space]] = {
        "factors": Integers(8, 256, log=True),
        "weight": Choice(("none", "degree")),
        "linear": LogUniform(0.03, 10),  # data differ: .06 was chosen on MovieLens-100K, 5 on Gowalla
    }

    @model_validator(mode="after")
    def _enough_directions(self) -> Self:
        if self.release == "lanczos" and self.factors > self.block * self.iterations:
            raise ValueError(
                f"factors = {self.factors} is more than block · iterations = {self.block * self.iterations} "
                "directions; raise iterations"
            )
        if self.head < 1 and (self.release, self.weight, self.linear) != ("gram", "none", 0.0):
            raise ValueError(
                f"head = {self.head} is a Gram release of equal weights alone; leave out release, weight and linear, "
                "or set head = 1"
            )
        return self


@METHODS.register("spectral")
class Spectral:
    """An ideal low-pass filter of the item graph, from sums."""

    config_class: ClassVar[type[Config]] = SpectralConfig
    stopping: Stopping = NO_STOPPING

    def __init__(self, config: SpectralConfig) -> None:
        self.config = config

    @property
    def rounds(self) -> int:
        """One for a Gram release; one an iteration otherwise."""
        return 1 if self.config.release == "gram" else self.config.iterations

    def releases(self) -> tuple[PlannedRelease, ...]:
        """The matrix or its products, of norm at most 1 since weights are at most 1, and perhaps the degrees.

        Raises:
            ConfigError: if a linear term needs the matrix beside its products.
        """
        config, left = self.config, 1.0
        if config.linear > 0 and config.release != "gram":
            raise ConfigError(
                f"spectral: linear = {config.linear} with release = '{config.release}' takes the item-item matrix "
                "without its zeros, which noise cannot hide; under a guarantee set release = 'gram' or linear = 0"
            )
        releases: list[PlannedRelease] = []
        if config.weight == "degree" or config.head < 1:
            left -= config.count_share
            releases += [PlannedRelease(query="count", draws=1, clip=config.count_clip, share=config.count_share)]
        query = "gram" if config.release == "gram" else "subspace"
        releases += [PlannedRelease(query=query, draws=self.rounds, clip=1.0, share=left)]
        return tuple(releases)

    def start(self, federation: Federation) -> Tensors:
        """Equal weights and a random orthonormal basis.

        Raises:
            ConfigError: if there are not as many items as factors, or as directions that are asked for.
        """
        config = self.config
        width = config.block if config.release == "lanczos" else config.factors
        needed = width * (config.iterations if config.release == "lanczos" else 1)
        size = round(config.head * federation.n_items)
        if needed > size:
            what = "block · iterations" if config.release == "lanczos" else "factors"
            raise ConfigError(f"spectral: {what} = {needed} is more than the {size} items of the catalogue; lower it")
        basis = federation.random_items(width, "basis")
        weight = torch.ones(federation.n_items, dtype=federation.dtype, device=federation.device)
        state = {"weight": weight, "basis": torch.linalg.qr(basis).Q}
        return state if config.head == 1 else state | {"counts": torch.zeros_like(weight, dtype=torch.float64)}

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        """The eigenspace from the Gram matrix, or one more product towards it."""
        weight = state["weight"]
        if self.config.head < 1:
            return self._of_head(weight, ask)
        if self.config.weight == "degree" and ask.round == 1:
            degrees = ask(Count(len(weight))).sums["count"].squeeze(1).to(weight.dtype)
            weight = degrees.clamp(min=1).rsqrt()
        if self.config.release != "gram":
            step = self._extend if self.config.release == "lanczos" else self._iterate
            found = {"weight": weight, **step(state, weight, ask)}
            if self.config.linear and ask.round == self.rounds:
                found |= _pack(ask(Gram(weight, without_zeros=True)).sums["gram"])
            return found
        gram = ask(Gram(weight)).sums["gram"]
        # In single precision LAPACK may fail to converge where many eigenvalues are equal, as those of few users are.
        vectors = torch.linalg.eigh(gram.double()).eigenvectors
        state = {"weight": weight, "basis": vectors[:, -self.config.factors :].to(weight.dtype)}
        return state | {"gram": gram} if self.config.linear else state

    def _of_head(self, weight: Tensor, ask: Ask) -> Tensors:
        """The eigenspace of the most popular items, the others having weight 0 and no row in the basis."""
        counts = ask(Count(len(weight))).sums["count"].squeeze(1)
        head = most_popular(counts, round(self.config.head * len(weight)))
        weight = torch.zeros_like(weight).index_fill(0, head, 1.0)
        gram = ask(Gram(weight)).sums["gram"]
        vectors = torch.linalg.eigh(gram.double()).eigenvectors
        return {"weight": weight, "basis": vectors[:, -self.config.factors :].to(weight.dtype), "counts": counts}

    def _iterate(self, state: Tensors, weight: Tensor, ask: Ask) -> dict[str, Tensor]:
        """One more step of subspace iteration."""
        return {"basis": torch.linalg.qr(ask(Subspace(weight, state["basis"])).sums["product"]).Q}

    def _extend(self, state: Tensors, weight: Tensor, ask: Ask) -> dict[str, Tensor]:
        """Another block of the Krylov basis, or after the last product the eigenspace within it."""
        basis, block = state["basis"], self.config.block
        product = ask(Subspace(weight, basis[:, -block:].contiguous())).sums["product"]
        projected = project(state.get("projected", basis.new_zeros(0, 0)), basis, product)
        if ask.round == self.rounds:
            return {"basis": ritz_vectors(projected, basis, self.config.factors)}
        return {"basis": torch.cat([basis, next_block(basis, product)], dim=1), "projected": projected}

    def memory(self, state: Tensors) -> Query | None:
        """Devices remember nothing beside their histories."""
        return None

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        """x_u (W V Vᵀ W⁻¹ + linear · M), [n, n_items]."""
        weight, basis = state["weight"], state["basis"]
        if "counts" in state:
            head = torch.nonzero(weight).flatten()
            known = histories(cohort, head, weight.dtype)
            return over_catalogue((known @ basis) @ basis.T, known, head, state["counts"])
        projection = cohort.sum_by_user(weight[cohort.items].unsqueeze(1) * basis[cohort.items])
        scores = (projection @ basis.T).div_(weight)
        if self.config.linear and "gram" in state:
            history = torch.zeros_like(scores)
            history[cohort.owner, cohort.items] = 1.0
            scores += self.config.linear * (history @ state["gram"])
        elif self.config.linear and "gram.value" in state:
            from fedrec.graph.kernels import add_sparse_product  # numba takes a while to import

            gram = state["gram.indptr"], state["gram.item"], state["gram.value"]
            ones = torch.ones(len(cohort.items), dtype=scores.dtype, device=scores.device)
            add_sparse_product((cohort.indptr, cohort.items, ones), gram, self.config.linear, scores)
        return scores


def _pack(gram: Tensor) -> dict[str, Tensor]:
    """A Gram matrix as a state holds it: dense as it is, a sparse one in CSR."""
    if not gram.is_sparse:
        return {"gram": gram}
    row, item = gram.indices()
    indptr = torch.searchsorted(row, torch.arange(len(gram) + 1, device=row.device))
    return {"gram.indptr": indptr, "gram.item": item.int(), "gram.value": gram.values()}
