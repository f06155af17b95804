"""The canary: what is used of Flower beyond its public interface is as it was when this was written."""

from __future__ import annotations

import inspect
import logging
from importlib import import_module, metadata

import pytest
from flwr.app import Message, RecordDict
from flwr.common.logger import FLOWER_LOGGER
from flwr.simulation import run_simulation

from fedrec.errors import FedrecError, RunError
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


def test_flower_shows_no_traceback_of_what_was_told_in_a_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it logs what a ServerApp raises; of any other exception all is shown."""
    run_serverapp = import_module("flwr.superlink.runtime.run_serverapp")  # the package has a function of that name
    source = inspect.getsource(run_serverapp)
    assert 'log(ERROR, "%s raised an exception", exc_entity, exc_info=ex)' in source
    monkeypatch.setattr(FLOWER_LOGGER, "filters", [])
    monkeypatch.setattr(FLOWER_LOGGER, "propagate", True)
    for _ in range(2):
        internals.keep_to_a_line(FedrecError)
    assert len(FLOWER_LOGGER.filters) == 1
    for error in (RunError("told"), ValueError("a mistake of ours")):
        try:
            raise error
        except Exception as raised:
            run_serverapp.log(logging.ERROR, "%s raised an exception", "ServerApp", exc_info=raised)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a mistake of ours"


def test_the_simulation_takes_what_it_is_given() -> None:
    parameters = set(inspect.signature(run_simulation).parameters)
    assert {"server_app", "client_app", "num_supernodes", "backend_config"} <= parameters
