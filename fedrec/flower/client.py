"""`client_app`: a node as Flower's ClientApp.

What reaches it: a greeting, the draw of a round's participants, a query, the steps of a secure sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.flower.node import Holding, Node, Payloads
from fedrec.flower.records import LARGEST
from fedrec.flower.stores import ContextStore, FolderStore, Store

GREET, DRAW, SUM, SECURE = "query.greet", "query.draw", "query.sum", "query.secure"
"""The types of the messages."""

Values = Mapping[str, bool | float | int | str]
"""A configuration, as Flower has it."""

HoldingOf = Callable[[Values, Values], Holding]
"""(the node's configuration, the run's) -> what that node holds."""

_payloads = Payloads()  # what this process read last, for whichever of its nodes


def client_app(holding_of: HoldingOf, state_of: Callable[[Values], Path | None] | None = None) -> ClientApp:
    """The ClientApp of nodes that hold what a function says.

    A node's private state is in a folder, or else in the context. `largest` in the node's configuration bounds the
    bytes of a message that are read; with `plain` false it sends no sum that is neither masked nor noised by its users.

    Args:
        holding_of: is called for each message, and had better remember what it read.
        state_of: the node's configuration -> the folder; None is the one that its operator named as `state`.
    """
    node = partial(_node, holding_of, state_of or _named)
    app = ClientApp()
    app.query("greet")(partial(_greet, node))
    app.query("draw")(partial(_draw, node))
    app.query("sum")(partial(_answer, node))
    app.query("secure")(partial(_secure, node))
    return app


# Ray sends the app to another process with every message. What it names by module is not sent, but found there.


def _named(config: Values) -> Path | None:
    return Path(str(config["state"])) if "state" in config else None


def _node(holding_of: HoldingOf, state_of: Callable[[Values], Path | None], context: Context) -> Node:
    config = context.node_config
    folder = state_of(config)
    store: Store = ContextStore(context) if folder is None else FolderStore(folder)
    holding = partial(holding_of, config, context.run_config)
    largest, plain = int(config.get("largest", LARGEST)), bool(config.get("plain", True))
    return Node(holding, store, _payloads, largest=largest, plain=plain)


def _greet(node: Callable[[Context], Node], message: Message, context: Context) -> Message:
    return Message(node(context).greet(message.content), reply_to=message)


def _draw(node: Callable[[Context], Node], message: Message, context: Context) -> Message:
    return Message(node(context).draw(message.content), reply_to=message)


def _answer(node: Callable[[Context], Node], message: Message, context: Context) -> Message:
    return Message(node(context).answer(message.content), reply_to=message)


def _secure(node: Callable[[Context], Node], message: Message, context: Context) -> Message:
    return Message(node(context).secure(message.content), reply_to=message)
