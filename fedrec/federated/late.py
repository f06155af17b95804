"""Answers that are on their way: what stragglers computed, kept until the round in which it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.federated.query import Query

Moment = tuple[int, int]
"""(round, phase)."""


@dataclass(frozen=True, eq=False)
class Late:
    """The sum of some answers that arrive together.

    Attributes:
        kind: of the query that they answer.
        sums: name -> [rows, width].
        answered: users whose answers they are.
    """

    kind: str
    sums: Mapping[str, Tensor]
    answered: int

    def fits(self, query: Query) -> bool:
        """Whether they answer the same question, of the same tables."""
        shapes = {name: tuple(total.shape) for name, total in self.sums.items()}
        return query.kind == self.kind and shapes == dict(query.tables)


class Pending:
    """What is on its way, by the moment at which it arrives. Asked again, a moment gets the same again."""

    def __init__(self) -> None:
        self._by_moment: dict[Moment, Late] = {}

    def send(self, arrives: Moment, late: Late) -> None:
        """Put answers on their way, in place of those of a query that is asked again."""
        self._by_moment[arrives] = late

    def arriving(self, query: Query, moment: Moment) -> Late | None:
        """What is in by now and answers the query. Answers that should have been in before are lost."""
        self._by_moment = {arrives: late for arrives, late in self._by_moment.items() if arrives >= moment}
        late = self._by_moment.get(moment)
        return late if late is not None and late.fits(query) else None

    def tensors(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint."""
        saved: dict[str, Tensor] = {}
        for (round, phase), late in self._by_moment.items():
            place = f"late/{round}/{phase}/{late.kind}"
            saved |= {f"{place}/sum/{name}": total for name, total in late.sums.items()}
            saved[f"{place}/answered/"] = torch.tensor(late.answered)
        return saved

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Roll back to a checkpoint, of which other tensors than those of `tensors` are left alone."""
        sums: dict[tuple[int, int, str], dict[str, Tensor]] = {}
        answered: dict[tuple[int, int, str], int] = {}
        for key, tensor in tensors.items():
            if not key.startswith("late/"):
                continue
            _, round, phase, kind, what, name = key.split("/", 5)
            place = (int(round), int(phase), kind)
            sums.setdefault(place, {})
            if what == "answered":
                answered[place] = int(tensor)
            else:
                sums[place][name] = tensor.clone()
        self._by_moment = {
            (round, phase): Late(kind, tables, answered[round, phase, kind])
            for (round, phase, kind), tables in sums.items()
        }
