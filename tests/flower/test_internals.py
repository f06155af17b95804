"""The canary: what is used of Flower beyond its public interface is as it was when this was written."""

from __future__ import annotations

import inspect
from importlib import metadata

from flwr.app import Message, RecordDict
from flwr.simulation import run_simulation

from fedrec.flower import internals


def test_the_version_is_the_one_that_was_checked() -> None:
    """If this fails, look whether the others still hold, and write the new version into the module."""
    assert metadata.version("flwr").startswith(f"{internals.CHECKED_WITH}.")


def test_a_message_can_be_numbered_and_its_reply_repeats_the_number() -> None:
    internals.stand_in_for_a_task()
    message = internals.number_message(Message(RecordDict(), 7, "query.sum"), "number")
    assert message.metadata.message_id == "number"
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "number"
    assert reply.metadata.src_node_id == 7


def test_the_simulation_takes_what_it_is_given() -> None:
    parameters = set(inspect.signature(run_simulation).parameters)
    assert {"server_app", "client_app", "num_supernodes", "backend_config"} <= parameters
