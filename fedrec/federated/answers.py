"""Looking at answers before they are added up: who is refused and why, and how large the others are.

A contribution comes by user. What is clipped, refused and counted is a client's answer, the sum of its users'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated.cohort import Cohort
from fedrec.federated.contribution import Contribution
from fedrec.federated.query import Query

MISFIT = "a shape or type that does not fit"
NOT_FINITE = "a value that is not finite"
FAILED = "no answer could be computed"


class CannotTellApart(DataError):  # noqa: N818 (it says what is the matter, and that need not be a mistake)
    """A cohort's answers break the contract in a way that hides whose they are; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Answer:
    """One client's answer, for methods, attacks and defences that need single ones.

    Attributes:
        user: position of the user; of a silo, that of its first one.
        key: of the client's random streams.
        contributions: name -> what it adds to each table, all under owner 0; none if it is refused.
        refused: why it was refused, or "".
        clipped: whether it was scaled down.
    """

    user: int
    key: int
    contributions: Mapping[str, Contribution]
    refused: str = ""
    clipped: bool = False


@dataclass(frozen=True, eq=False)
class Examined:
    """The answers of a cohort, those of refused clients left out.

    Attributes:
        contributions: name -> answers, owned by clients.
        squared_norms: table -> [m] float64 of what each client adds to it; 0 for a refused one. Empty if all are.
        users: [n] int64 positions in the cohort of the users of the clients that are not refused, ascending.
        sizes: [m] int64 number of users of each client.
        refused: reason -> number of users.
    """

    contributions: Mapping[str, Contribution]
    squared_norms: Mapping[str, Tensor]
    users: Tensor
    sizes: Tensor
    refused: Mapping[str, int] = field(default_factory=dict)


def refuse_all(cohort: Cohort, reason: str) -> Examined:
    """A cohort of which no answer is taken."""
    sizes = _sizes(cohort)
    return Examined({}, {}, sizes[:0], sizes, {reason: len(cohort)})


def examine(query: Query, cohort: Cohort, contributions: Mapping[str, Contribution]) -> Examined:
    """Check a cohort's answers against the query's contract, and take their norms.

    Args:
        query: what was asked.
        cohort: who answered.
        contributions: name -> answers, owned by the cohort's users.

    Raises:
        CannotTellApart: if tables, widths, types or owners are wrong.
    """
    if set(contributions) != set(query.tables):
        raise CannotTellApart(f"tables {sorted(contributions)} instead of {sorted(query.tables)}")
    reasons: dict[int, str] = {}
    for name, part in contributions.items():
        try:
            reasons |= part.faults(len(cohort), query.tables[name])
        except DataError as error:
            raise CannotTellApart(MISFIT) from error
    if cohort.n_clients < len(cohort):
        by_client = cohort.client.tolist() if reasons else []
        reasons = {by_client[user]: reason for user, reason in reasons.items()}
        if reasons:  # unsorted rows cannot be added up within their silo
            refused = _mask(reasons, cohort)[cohort.client]
            contributions = {name: part.without(refused) for name, part in contributions.items()}
        contributions = {
            name: part.by_client(cohort.client, query.tables[name][0]) for name, part in contributions.items()
        }
    norms = {name: part.squared_norms(cohort.n_clients) for name, part in contributions.items()}
    finite = torch.isfinite(torch.stack(list(norms.values())).sum(dim=0))
    if not bool(finite.all()):
        reasons |= dict.fromkeys(torch.nonzero(~finite).flatten().tolist(), NOT_FINITE)
    if not reasons:
        return Examined(contributions, norms, torch.arange(len(cohort), device=finite.device), _sizes(cohort))
    refused = _mask(reasons, cohort)
    sizes = _sizes(cohort)
    counts = Counter[str]()
    for client, reason in reasons.items():
        counts[reason] += int(sizes[client])
    return Examined(
        {name: part.without(refused) for name, part in contributions.items()},
        {name: squared.masked_fill(refused, 0.0) for name, squared in norms.items()},
        torch.nonzero(~refused[cohort.client]).flatten(),
        sizes,
        counts,
    )


def _sizes(cohort: Cohort) -> Tensor:
    return torch.bincount(cohort.client, minlength=cohort.n_clients)


def _mask(clients: Mapping[int, str], cohort: Cohort) -> Tensor:
    mask = torch.zeros(cohort.n_clients, dtype=torch.bool, device=cohort.keys.device)
    mask[list(clients)] = True
    return mask


def told_apart(cohort: Cohort) -> list[Tensor]:
    """The users of each client of a cohort, positions."""
    sizes: list[int] = _sizes(cohort).tolist()
    return list(torch.split(torch.arange(len(cohort), device=cohort.keys.device), sizes))
