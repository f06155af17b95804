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
    """What clients have to download in one round.

    The whole of every tensor: a client that fetched only the rows it needs would tell the server its history. But each
    tensor once a round: what an earlier query of the round brought is not sent again. A tensor is known by its values.
    """

    def __init__(self) -> None:
        self._round = 0
        self._sent: list[tuple[Tensor, int]] = []

    def bytes(self, query: Query, round: int, receivers: int) -> int:
        """What a query adds to the downloads of all clients that it is sent to.

        Args:
            query: what is asked.
            round: of the query.
            receivers: how many clients it is sent to. A round's participants are among everyone, so that a query to
                more clients than an earlier one sends what that one brought to the others only.
        """
        if round != self._round:
            self._round, self._sent = round, []
        sent, total = self._sent, 0
        for tensor in query.broadcast.values():
            have = max((number for old, number in self._sent if _same(tensor, old)), default=0)
            if receivers > have:
                total += (receivers - have) * tensor.numel() * tensor.element_size()
                sent = [*sent, (tensor, receivers)]
        self._sent = sent
        return total


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))
