"""Membership: how many users each group has, which is known before anything else is asked of groups."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.errors import DataError
from fedrec.evaluation.fairness import ACTIVITY
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows
from fedrec.federated.queries.evaluate import ranking_of
from fedrec.federated.query import Query, Setting, allow
from fedrec.streams import Streams


@allow("membership")
@dataclass(frozen=True, eq=False)
class Membership(Query):
    """Numbers of users, of those with training and held-out items: those whom `Measure` tests.

    Attributes:
        part: the held-out part, "test".
        groups: of users, name -> labels.
        activity: bounds of the terciles of activity, `fairness.tercile_bounds`.
    """

    part: str
    groups: Mapping[str, tuple[str, ...]]
    activity: tuple[int, int]
    everyone = True

    @property
    def held_out(self) -> str:  # type: ignore[override]
        """The part that it is handed."""
        return self.part

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """`members`: [1 + groups, 1] a row for all and for each group, in the order of their labels."""
        return {"members": (1 + sum(map(len, self.groups.values())), 1)}

    @property
    def bounds(self) -> Mapping[str, tuple[float, ...]]:
        """1."""
        return {"members": (1.0,)}

    @property
    def settings(self) -> Mapping[str, Setting]:
        """Everything, as plain words."""
        return {"part": self.part, "groups": json.dumps(dict(self.groups)), "activity": json.dumps(self.activity)}

    @classmethod
    def build(cls, broadcast: Mapping[str, Tensor], settings: Mapping[str, Setting]) -> Membership:
        """The query of a message.

        Raises:
            DataError: if the settings are not its own.
        """
        try:
            groups = {str(name): tuple(map(str, of)) for name, of in json.loads(str(settings["groups"])).items()}
            first, second = (int(bound) for bound in json.loads(str(settings["activity"])))
            return cls(str(settings["part"]), groups, (first, second))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"query 'membership' does not fit its definition: {error}") from error

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """1 in the row of all and in those of the user's groups."""
        users = ranking_of(cohort, self.part, 0).warm_users
        member, row = places_of(groups_of(cohort, users, self.groups, self.activity))
        device = cohort.keys.device
        one = torch.ones(len(row), 1, dtype=torch.float64, device=device)
        return {"members": Rows(users[member].to(device), row.to(device), one)}, State()


def groups_of(
    cohort: Cohort, users: Tensor, groups: Mapping[str, tuple[str, ...]], activity: tuple[int, int]
) -> Tensor:
    """The group of each user in each grouping, numbered through all groupings: [users, groupings]; negative is none.

    Args:
        cohort: with held-out items, which know the attributes.
        users: [users] positions in it.
        groups: name -> labels.
        activity: bounds of the terciles of activity, for devices that do not know theirs.

    Raises:
        DataError: if the devices do not know an attribute.
    """
    assert cohort.held_out is not None  # by `held_out`
    columns, first = [], 0
    for name, labels in groups.items():
        if name == ACTIVITY and name not in cohort.held_out.groups:
            degrees = cohort.degrees.cpu()[users]
            code = (degrees > activity[0]).long() + (degrees > activity[1]).long()
        elif name in cohort.held_out.groups:
            code = cohort.held_out.groups[name].cpu()[users]
        else:
            raise DataError(f"the devices know no attribute '{name}'; ask without it")
        columns.append(torch.where((code >= 0) & (code < len(labels)), first + code, -1))
        first += len(labels)
    return torch.stack(columns, dim=1) if columns else torch.zeros(len(users), 0, dtype=torch.int64)


def places_of(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of each user in a table with a row for all and one for each group: places among users, and rows.

    Args:
        groups: [users, groupings] as `groups_of` gives them.
    """
    rows = torch.cat([torch.zeros(len(groups), 1, dtype=torch.int64), 1 + groups], dim=1)
    member, place = (rows >= torch.tensor([0] + [1] * groups.shape[1])).nonzero(as_tuple=True)
    return member, rows[member, place]
