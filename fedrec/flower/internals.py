"""Everything of Flower that is not its public interface, in one place. `tests/flower/test_internals.py` is the canary.

Checked with Flower 1.41.
"""

from __future__ import annotations

from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

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
