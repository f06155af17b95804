"""`InProcessGrid`: Flower's Grid without Flower's processes. Messages go to a ClientApp in this process, one by one.

Everything that a node does is done, and every message that a SuperLink would carry can be looked at: for tests, for
debugging a ClientApp, and for populations of one user a node that Ray would take minutes for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedrec.flower.client import Values
from fedrec.flower.internals import number_message, stand_in_for_a_task

Look = Callable[[Message], None]


def _ignore(message: Message) -> None:
    """Looks away."""


class InProcessGrid(Grid):  # type: ignore[misc]  # flwr is not typed
    """A grid of nodes that share one ClientApp. Replies come in the order of the messages.

    Args:
        app: what every node runs.
        configs: node id -> its configuration, as an operator would give it to a SuperNode.
        run_config: of the run.
        look: is shown every message and every reply.

    Attributes:
        away: nodes that do not answer at present.
    """

    def __init__(
        self,
        app: ClientApp,
        configs: Mapping[int, Values],
        *,
        run_config: Values | None = None,
        look: Look = _ignore,
    ) -> None:
        stand_in_for_a_task()
        self._app = app
        self._contexts = {
            node: Context(0, node, dict(config), RecordDict(), dict(run_config or {}))
            for node, config in configs.items()
        }
        self._numbers = itertools.count(1)
        self._waiting: dict[str, Message] = {}
        self._look = look
        self.away: set[int] = set()

    @property
    def run(self) -> NoReturn:
        """There is none."""
        raise NotImplementedError("messages in this process belong to no run")

    def set_run(self, run: object) -> None:
        """Messages in this process belong to no run."""

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message, as `Message` makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes, in the order given."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Put messages on their way; they are answered when their replies are pulled."""
        ids = []
        for message in messages:
            ids.append(f"message-{next(self._numbers)}")
            self._waiting[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The reply to the first message that has none yet."""
        for number in message_ids:
            if number in self._waiting:
                return [self._deliver(number, self._waiting.pop(number))]
        return []

    def _deliver(self, number: str, message: Message) -> Message:
        self._look(number_message(message, number))
        node = message.metadata.dst_node_id
        context = self._contexts[node]
        try:
            if node in self.away:
                raise ConnectionError(f"node {node} is away")
            reply = self._app(message, context)
        except Exception as error:  # as a SuperNode does, whatever an app raises
            reply = Message(Error(code=0, reason=f"{type(error).__name__}: {error}"), reply_to=message)
        self._look(reply)
        return reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies to all of the messages."""
        replies: list[Message] = []
        for number in self.push_messages(messages):
            replies.extend(self.pull_messages([number]))
        return replies
