"""Popularity: everybody is shown what most users have. One Count."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedrec.components import Config
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.method import METHODS, NO_STOPPING, Ask, Federation
from fedrec.federated.queries import Count
from fedrec.federated.query import Query
from fedrec.privacy import PlannedRelease
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.trainer import Stopping


class PopularityConfig(Config):
    """Settings of `Popularity`.

    Attributes:
        clip: norm that a user's answer is clipped to under a guarantee; a user of n items has norm √n.
    """

    clip: float = 10.0  # leaves users of up to 100 items whole, about the mean of MovieLens-100K


@METHODS.register("popularity")
class Popularity:
    """Items ranked by their number of users."""

    config_class: ClassVar[type[Config]] = PopularityConfig
    rounds: int = 1
    stopping: Stopping = NO_STOPPING

    def __init__(self, config: PopularityConfig) -> None:
        self.config = config

    def releases(self) -> tuple[PlannedRelease, ...]:
        """One count."""
        return (PlannedRelease(query="count", draws=1, clip=self.config.clip),)

    def start(self, federation: Federation) -> Tensors:
        """Nothing is popular yet."""
        return {"count": torch.zeros(federation.n_items, dtype=torch.float64, device=federation.device)}

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        """Count."""
        return {"count": ask(Count(len(state["count"]))).sums["count"].squeeze(1)}

    def memory(self, state: Tensors) -> Query | None:
        """Devices remember nothing."""
        return None

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        """The same scores for everybody."""
        return state["count"].expand(len(cohort), -1)
