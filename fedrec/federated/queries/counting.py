"""Counts of who has what: Count, how many users have each item, and Census, which also says how much users have."""

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


@allow("census")
@dataclass(frozen=True, eq=False)
class Census(Query):
    """What measuring a model takes to know of everyone: how popular items are, and how active users.

    Attributes:
        n_items: size of the catalogue.
    """

    n_items: int
    everyone = True

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`items`: [n_items, 1] users who have the item; `activity`: [n_items + 1, 1] users by number of items."""
        return {"items": (self.n_items, 1), "activity": (self.n_items + 1, 1)}

    @property
    def bounds(self) -> Mapping[str, tuple[float, ...]]:
        """1."""
        return {"items": (1.0,), "activity": (1.0,)}

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """1 to each item of the user's own, and 1 to their number."""
        one = torch.ones(1, 1, dtype=torch.float64, device=cohort.items.device)
        users = torch.arange(len(cohort), device=cohort.items.device)
        return {
            "items": Rows(cohort.owner, cohort.items, one.expand(len(cohort.items), 1).clone()),
            "activity": Rows(users, cohort.degrees, one.expand(len(users), 1).clone()),
        }, state
