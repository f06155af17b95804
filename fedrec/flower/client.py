"""`client_app`: a node as Flower's ClientApp. Two messages reach it: a greeting, and a query."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.flower.node import Holding, Node, Payloads
from fedrec.flower.records import LARGEST
from fedrec.flower.stores import ContextStore, FolderStore, Store

GREET, SUM = "query.greet", "query.sum"
"""The types of the messages."""

Values = Mapping[str, bool | float | int | str]
"""A configuration, as Flower has it."""

HoldingOf = Callable[[Values, Values], Holding]
"""(the node's configuration, the run's) -> what that node holds."""


def client_app(holding_of: HoldingOf) -> ClientApp:
    """The ClientApp of nodes that hold what a function says.

    A node's private state is in the folder that its operator named as `state` in the node's configuration, or else in
    the context. `largest` there bounds the bytes of a message that are read.

    Args:
        holding_of: is called for each message, and had better remember what it read.
    """
    app = ClientApp()
    payloads = Payloads()

    def node(context: Context) -> Node:
        config = context.node_config
        folder = config.get("state")
        store: Store = FolderStore(Path(str(folder))) if folder is not None else ContextStore(context)
        return Node(
            partial(holding_of, config, context.run_config),
            store,
            payloads,
            largest=int(config.get("largest", LARGEST)),
        )

    def greet(message: Message, context: Context) -> Message:
        return Message(node(context).greet(message.content), reply_to=message)

    def answer(message: Message, context: Context) -> Message:
        return Message(node(context).answer(message.content), reply_to=message)

    app.query("greet")(greet)
    app.query("sum")(answer)
    return app
