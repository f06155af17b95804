"""`Post` and `Roll`: messages to the nodes of a federation and back, and who they are."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedrec.errors import ConfigError, DataError, RunError
from fedrec.flower.client import GREET
from fedrec.flower.records import LARGEST, size
from fedrec.flower.requests import (
    Greeting,
    Request,
    greeting_from_record,
    greeting_request,
    refused,
    require_heading,
)

T = TypeVar("T")

log = logging.getLogger(__name__)

_PAUSE = 0.05  # seconds between two looks for replies; a look costs a request to the SuperLink


@dataclass(frozen=True)
class Roll:
    """The nodes of a federation, and what they said of themselves.

    Attributes:
        nodes: id -> greeting.
    """

    nodes: Mapping[int, Greeting]

    @property
    def n_users(self) -> int:
        """Of all nodes together."""
        return sum(greeting.users for greeting in self.nodes.values())

    @property
    def n_items(self) -> int:
        """Of the catalogue, which is the same everywhere."""
        return next(iter(self.nodes.values())).items

    @property
    def parts(self) -> frozenset[str]:
        """The held-out parts that every node brings."""
        return frozenset.intersection(
            *(frozenset(filter(None, greeting.parts.split(","))) for greeting in self.nodes.values())
        )


class Post:
    """Messages to nodes and back, over a Grid.

    Args:
        grid: Flower's.
        timeout: seconds that an answer is waited for.
        largest: bytes of an answer's arrays that are read.
    """

    def __init__(self, grid: Grid, timeout: float = 600.0, largest: int = LARGEST) -> None:
        self.grid = grid
        self.timeout = timeout
        self.largest = largest

    def ask(self, sort: str, contents: Mapping[int, RecordDict]) -> Iterator[tuple[int, RecordDict | DataError]]:
        """Send each node its message and give what comes back as it comes, or what is wrong with it.

        A node that answers twice, late or for another one is not heard: only the first reply to a message counts.

        Args:
            sort: type of the messages.
            contents: by node.
        """
        asked = {node: Message(content, node, sort, ttl=max(1.0, self.timeout)) for node, content in contents.items()}
        numbers = list(self.grid.push_messages(list(asked.values())))
        waiting = {number: node for number, node in zip(numbers, asked, strict=False) if number}
        for node in asked.keys() - set(waiting.values()):
            yield node, DataError("the message could not be sent")
        end = time.monotonic() + self.timeout
        while waiting:
            replies = list(self.grid.pull_messages(list(waiting)))
            for reply in replies:
                number = reply.metadata.reply_to_message_id
                if number not in waiting:
                    log.warning("a reply that was not waited for, from node %s: left out", reply.metadata.src_node_id)
                    continue
                node = waiting.pop(number)
                yield node, self._open(reply, node)
            if waiting and not replies:  # one that came while others were read is taken, whatever the time
                if time.monotonic() > end:
                    break
                time.sleep(_PAUSE)
        for node in waiting.values():
            yield node, DataError(f"no answer within {self.timeout:g} s")

    def hear(
        self,
        sort: str,
        contents: Mapping[int, RecordDict],
        read: Callable[[int, RecordDict], T],
        *,
        question: str,
        request: Request,
        place: str,
        failed: Counter[str],
    ) -> Iterator[tuple[int, T, RecordDict]]:
        """Send each node its message and give what is read of the answers as they come; log who is left out.

        Args:
            sort: type of the messages.
            contents: by node.
            read: (node, answer) -> what it says; raises a DataError for an answer that is not to be taken.
            question: what an answer says that it answers.
            request: the circumstances of the question.
            place: of the question, for the log.
            failed: is added to: what was wrong, by its first words without the numbers of the single case.
        """
        for node, reply in self.ask(sort, contents):
            try:
                if isinstance(reply, DataError):
                    raise reply
                require_heading(reply, question, request)
                found = read(node, reply)
            except DataError as wrong:
                failed[str(wrong).partition(";")[0][:100]] += 1
                log.warning("round %d, %s, node %d left out: %s", request.round, place, node, wrong)
            else:
                yield node, found, reply

    def _open(self, reply: Message, node: int) -> RecordDict | DataError:
        """The content of a reply, or what is wrong with it."""
        if reply.has_error():
            reason = (reply.error.reason or "").strip() or f"error {reply.error.code}"
            return DataError(f"lost: {reason.splitlines()[0]}")
        if reply.metadata.src_node_id not in (node, reply.metadata.dst_node_id):
            return DataError(f"answered by node {reply.metadata.src_node_id} in its place")
        content = reply.content
        if size(content) > self.largest:
            return DataError(f"a payload of {size(content):,} bytes; at most {self.largest:,} are read")
        reason = refused(content)
        return content if reason is None else DataError(f"refused: {reason}")


def greet(post: Post, nodes: int, patience: float) -> Roll:
    """Wait for the nodes of a federation and ask what they hold.

    Args:
        post: carries the messages.
        nodes: that are waited for; those beyond take part as well.
        patience: seconds that they are waited for.

    Raises:
        RunError: if fewer come, or one of them cannot take part.
        ConfigError: if two nodes have different catalogues.
    """
    end = time.monotonic() + patience
    while len(here := sorted(post.grid.get_node_ids())) < nodes:
        if time.monotonic() > end:
            raise RunError(
                f"{len(here)} of {nodes} nodes are connected after {patience:g} s; start the others, or lower "
                "engine.nodes"
            )
        time.sleep(min(1.0, patience / 10))
    found = {}
    for node, reply in post.ask(GREET, {node: greeting_request() for node in here}):
        if isinstance(reply, DataError):
            raise RunError(f"node {node} cannot take part: {reply}; mend it, or stop it and run again")
        found[node] = greeting_from_record(reply)
    catalogues = {greeting.catalogue for greeting in found.values()}
    if len(catalogues) > 1:
        raise ConfigError(f"the nodes have {len(catalogues)} different catalogues of items; give all of them the same")
    return Roll(dict(sorted(found.items())))
