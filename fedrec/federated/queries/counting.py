"""Count: how many users have each item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows
from fedrec.federated.query import Query, allow
from fedrec.streams import Streams


@allow("count")
@dataclass(frozen=True, eq=False)
class Count(Query):
    """1 to each item of the user's own. The contribution's norm is √d_u.

    Attributes:
        n_items: size of the catalogue.
    """

    n_items: int

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`count`: [n_items, 1]."""
        return {"count": (self.n_items, 1)}

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """One row of value 1 an item, in double precision: counts are exact."""
        ones = torch.ones(len(cohort.items), 1, dtype=torch.float64, device=cohort.items.device)
        return {"count": Rows(cohort.owner, cohort.items, ones)}, state
