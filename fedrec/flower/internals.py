"""Everything of Flower that is not its public interface, in one place. `tests/flower/test_internals.py` is the canary.

Checked with Flower 1.41.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping

from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.supercore.task_identity import TaskIdentity

from fedrec.errors import ConfigError

CHECKED_WITH = "1.41"
"""The version of Flower that the tests of this module passed with."""


def number_message(message: Message, number: str) -> Message:
    """Give a message its number, which a SuperLink would do and which replies to it repeat."""
    message.metadata.__dict__["_message_id"] = number  # a property without a setter
    return message


def stand_in_for_a_task() -> None:
    """Let this process make messages, which Flower otherwise allows to those alone that a SuperLink started."""
    for name in ("_task_id", "_run_id", "_node_id"):
        if getattr(TaskIdentity, name) is None:
            setattr(TaskIdentity, name, 1)


class _Told(logging.Filter):
    """Lets pass every record but those of exceptions that have been told.

    Args:
        of: their type.
    """

    def __init__(self, of: type[Exception]) -> None:
        super().__init__()
        self.of = of

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        return not (record.exc_info and isinstance(record.exc_info[1], self.of))


def keep_to_a_line(of: type[Exception]) -> None:
    """Keep Flower from logging the traceback of an app's exception of a type that the app has told in a line itself.

    A ServerApp that raises ends its run as failed, and Flower's logger shows the exception with all that led to it.
    """
    flower = logging.getLogger("flwr")
    if not any(isinstance(known, _Told) and known.of is of for known in flower.filters):
        flower.addFilter(_Told(of))


def run_on_ray(server: ServerApp, client: ClientApp, nodes: int, backend: Mapping[str, Mapping[str, object]]) -> None:
    """Flower's simulation from Python, which Flower would rather have started by `flwr run`.

    Raises:
        ConfigError: if Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("engine.kind = 'ray' and Ray is not installed; install fedrec[ray]")
    from flwr.simulation import run_simulation  # slow to import, and a SuperNode starts a process for each message

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns that it will be so
    flower = logging.getLogger("flwr")
    level = flower.level
    flower.setLevel(logging.ERROR)  # it says at length that `run_simulation` is deprecated
    try:
        run_simulation(server, client, num_supernodes=nodes, backend_config={**backend})
    finally:
        flower.setLevel(level)
