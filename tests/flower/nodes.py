"""A federation of nodes in this process, over the small population of the federated tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message

from fedrec.federated import Ask, Devices, Engine, FederatedMethod, Federation, ParticipationConfig
from fedrec.flower import FlowerEngine, Holding, InProcessGrid, Post, client_app, greet
from fedrec.recommenders.recommender import Tensors
from fedrec.streams import Streams

Change = Callable[[Message], Message | None]
"""What becomes of a reply: another one, or None if it never comes."""


class ChangedReplies(InProcessGrid):
    """A grid on which the replies of one node are not what the node sent.

    Attributes:
        change: what becomes of them.
        node: whose they are.
        backwards: whether replies come in the opposite order.
    """

    change: Change | None = None
    node: int = 2
    backwards: bool = False

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        numbers = list(message_ids)
        found = super().pull_messages(reversed(numbers) if self.backwards else numbers)
        changed = []
        for reply in found:
            mine = self.change is not None and reply.metadata.src_node_id == self.node
            other = self.change(reply) if mine and self.change is not None else reply
            changed += [] if other is None else [other]
        return changed


def dealt(devices: Devices, nodes: int) -> list[list[int]]:
    """The users of each node, one after the other."""
    return [list(range(len(devices)))[number::nodes] for number in range(nodes)]


def grid_of(
    devices: Devices,
    parts: Sequence[Sequence[int]],
    look: Callable[[Message], None] = lambda message: None,
    state: Path | None = None,
    **more: bool | float | str,
) -> ChangedReplies:
    """Nodes 1, 2, ... with the users at some positions each, and more in their operators' configuration."""
    held = [Holding(devices.take(torch.tensor(part)), "the same") for part in parts]
    app = client_app(lambda config, _: held[int(config["number"]) - 1])
    configs: dict[int, dict[str, bool | float | int | str]] = {
        n + 1: {"number": n + 1, **more} for n in range(len(parts))
    }
    for number, config in configs.items():
        if state is not None:
            config["state"] = str(state / str(number))
    return ChangedReplies(app, configs, look=look)


def engine_on(grid: InProcessGrid, timeout: float = 5.0, **settings: Any) -> FlowerEngine:
    post = Post(grid, timeout)
    roll = greet(post, len(list(grid.get_node_ids())), patience=1.0)
    return FlowerEngine(post, roll, **{"session": "test", "seed": 3, **settings})


def trained(method: FederatedMethod, engine: Engine, rounds: Iterable[int], state: Tensors | None = None) -> Tensors:
    """The server's state after some rounds, in double precision."""
    if state is None:
        state = method.start(Federation(40, 25, Streams(3), torch.float64))
    for round in rounds:
        state = method.round(state, Ask(engine, round))
    return state


SOMETIMES = ParticipationConfig(rate=0.7, dropout=0.2)
