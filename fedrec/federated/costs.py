"""What a federation costs in messages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.federated.query import Query


@dataclass
class Communication:
    """What a run cost in messages.

    Attributes:
        rounds: rounds that were done.
        mb_up_per_user, mb_down_per_user: megabytes (10⁶ bytes) over all rounds, averaged over the population.
    """

    rounds: int = 0
    mb_up_per_user: float = 0.0
    mb_down_per_user: float = 0.0


class Broadcasts:
    """What a client has to download in one round.

    The whole of every tensor: a client that fetched only the rows it needs would tell the server its history. But each
    tensor once a round: what an earlier query of the round brought is not sent again. A tensor is known by its values.
    """

    def __init__(self) -> None:
        self._round = 0
        self._sent: list[Tensor] = []

    def bytes(self, query: Query, round: int) -> int:
        """What a query adds to the download of one client."""
        if round != self._round:
            self._round, self._sent = round, []
        new = [tensor for tensor in query.broadcast.values() if not any(_same(tensor, old) for old in self._sent)]
        self._sent += new
        return sum(tensor.numel() * tensor.element_size() for tensor in new)


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))
