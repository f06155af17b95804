"""`client_app`: a node as Flower's ClientApp.

What reaches it: a greeting, the draw of a round's participants, a query, the steps of a secure sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedrec.errors import ConfigError, FedrecError
from fedrec.flower.node import Holding, Node, Payloads
from fedrec.flower.records import LARGEST
from fedrec.flower.requests import refusal
from fedrec.flower.spent import Account
from fedrec.flower.stores import ContextStore, FolderStore, Store
from fedrec.privacy.grant import Grant

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
    bytes of a message that are read; with `plain` false it sends no sum that is neither masked nor noised by its users;
    `epsilon`, at `delta`, bounds what those that its users noise may cost each of them, over all runs.

    Args:
        holding_of: is called for each message, and had better remember what it read.
        state_of: the node's configuration -> the folder; None is the one that its operator named as `state`.
    """
    node = partial(_node, holding_of, state_of or _named)
    app = ClientApp()
    for name, answer in (("greet", Node.greet), ("draw", Node.draw), ("sum", Node.answer), ("secure", Node.secure)):
        app.query(name)(partial(_reply, node, answer))
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
    account = _account(config, folder)
    return Node(holding, store, _payloads, largest=largest, plain=plain, account=account)


def _account(config: Values, folder: Path | None) -> Account | None:
    """Of what the node's operator grants.

    Raises:
        ConfigError: if that is no number, or there is no folder to count in, from the root.
    """
    if "epsilon" not in config:
        if "delta" in config:
            raise ConfigError("the node's configuration has `delta` and no `epsilon`; give both, or neither")
        return None
    if folder is None:
        raise ConfigError(
            'the node\'s configuration has `epsilon` and no `state`; start it with state="...", a folder in which it '
            "counts what was spent"
        )
    if not folder.is_absolute():
        raise ConfigError(
            f"the node's configuration has `epsilon` and state = {str(folder)!r}, which is another folder when it "
            "is started from another; give it from the root, as /srv/fedrec/state"
        )
    try:
        grant = Grant(float(config["epsilon"]), float(config.get("delta", Grant.delta)))
    except ValueError as error:
        raise ConfigError(f"the node's configuration: epsilon and delta are numbers ({error})") from error
    return Account(folder, grant)


def _reply(
    node: Callable[[Context], Node],
    answer: Callable[[Node, RecordDict], RecordDict],
    message: Message,
    context: Context,
) -> Message:
    """The node's answer, or a refusal if its operator's configuration is unfit."""
    try:
        found = node(context)
    except FedrecError as error:
        return Message(refusal(str(error)), reply_to=message)
    return Message(answer(found, message.content), reply_to=message)
