"""What is not as it should be is refused by name and counted, and the round goes on with the others."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedrec.federated import Devices, LocalEngine
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig
from fedrec.federated.queries import Count
from fedrec.flower.internals import number_message
from fedrec.flower.requests import Request, request_to_record
from fedrec.privacy import Clip
from fedrec.streams import Streams
from tests.flower.nodes import Change, ChangedReplies, dealt, engine_on, grid_of, trained

METHOD = EgoLightGCN(EgoLightGCNConfig(dim=4))


def with_sums(**sums: np.ndarray) -> Change:
    def change(reply: Message) -> Message:
        reply.content["sums"] = ArrayRecord({name: Array(table) for name, table in sums.items()})
        return reply

    return change


def with_part(part: str, **values: str | int) -> Change:
    def change(reply: Message) -> Message:
        reply.content[part] = ConfigRecord({**dict(reply.content[part]), **values})
        return reply

    return change


def without(part: str) -> Change:
    def change(reply: Message) -> Message:
        del reply.content[part]
        return reply

    return change


def with_header(text: bytes) -> Change:
    def change(reply: Message) -> Message:
        data = np.lib.format.magic(1, 0) + len(text).to_bytes(2, "little") + text
        reply.content["sums"] = ArrayRecord({"items": Array("float64", (25, 4), "numpy.ndarray", data)})
        return reply

    return change


def crashed(reply: Message, reason: str = "ClientApp crashed\nTraceback: a line") -> Message:
    number = reply.metadata.reply_to_message_id
    lost = Message(Error(code=8, reason=reason), reply_to=reply)
    lost.metadata.__dict__["_reply_to_message_id"] = number
    lost.metadata.__dict__["_src_node_id"] = reply.metadata.src_node_id
    return lost


FAULTS: dict[str, tuple[Change, str]] = {
    "never answers": (lambda reply: None, r"no answer within 0\.3 s"),
    "NaN": (with_sums(items=np.full((25, 4), np.nan)), "values that are not finite"),
    "infinite": (with_sums(items=np.full((25, 4), np.inf)), "values that are not finite"),
    "wrong shape": (with_sums(items=np.ones((24, 4))), r"of shape \(24, 4\)"),
    "wrong type": (with_sums(items=np.ones((25, 4), dtype=np.float16)), "type torch.float16"),
    "unknown row": (
        with_sums(**{"items/rows": np.array([25]), "items/value": np.ones((1, 4))}),
        "an unknown row",
    ),
    "unknown table": (with_sums(items=np.ones((25, 4)), users=np.ones((3, 4))), "tables"),
    "too large": (with_sums(items=np.ones((1000, 1000))), "a payload of 8,000,128 bytes"),
    "old version": (with_part("answer", version=0), "version 0 of the messages"),
    "old round": (with_part("answer", round=1), "round 1 instead of 2"),
    "old attempt": (with_part("answer", attempt=5), "attempt 5 instead of"),
    "unknown kind": (with_part("answer", kind="everything"), "kind 'everything' instead of 'local-training'"),
    "too many users": (with_part("counts", answered=1000), "of a node of 13 users"),
    "no counts": (without("counts"), "no ConfigRecord 'counts'"),
    "no heading": (without("answer"), "no ConfigRecord 'answer'"),
    "crashed": (crashed, "lost: ClientApp crashed"),
    "crashed without a word": (lambda reply: crashed(reply, " \n"), "lost: error 8"),
    "more clipped than answered": (with_part("counts", clipped=1000), "of a node of 13 users"),
    "reasons without end": (with_part("counts", refused="[" * 100_000), "reasons of refusal that are no JSON"),
    "a header without end": (with_header(b"{'descr': '<f8', 'shape': (1,\n"), "cannot be read"),
    "a header that is too deep": (with_header(b"-" * 9000 + b"1\n"), "cannot be read"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_answer_is_refused_by_name_and_the_round_goes_on(
    devices: Devices, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, reason = FAULTS[name]
    grid = grid_of(devices, dealt(devices, 3))
    engine = engine_on(grid)
    state = trained(METHOD, engine, [1])  # the first round of a process may take its time
    engine.post.timeout, engine.post.largest = 0.3, 100_000
    grid.change = change
    query = METHOD.memory(state)
    with caplog.at_level(logging.WARNING):
        totals = engine.sum(query, round=2)
    assert (totals.nodes, sum(totals.failed.values()), totals.answered) == (3, 1, 27)
    assert any(record.getMessage().startswith("round 2, query 'local-training', node 2") for record in caplog.records)
    (counted,) = totals.failed
    assert re.search(reason, counted)
    others = [user for part in (0, 2) for user in dealt(devices, 3)[part]]
    local = LocalEngine(devices.take(torch.tensor(others)), Streams(3))
    trained(METHOD, local, [1])
    assert (totals.sums["items"] - local.sum(query, round=2).sums["items"]).abs().max() < 1e-13
    grid.change = None
    assert not engine.sum(query, round=3).failed


def test_a_node_moves_a_clipped_sum_by_its_users_clips_at_most(devices: Devices) -> None:
    grid = grid_of(devices, dealt(devices, 3))
    engine, clip = engine_on(grid), Clip(0.5)
    honest = engine.sum(Count(25), round=1, clip=clip)
    assert (sum(honest.failed.values()), honest.clipped) == (0, 39)  # one of the 40 has no item
    for entry, refused in ((13 * 0.5, 0), (13 * 0.51, 1), (1e300, 1)):  # of 13 users
        grid.change = with_sums(count=entry * np.eye(25, 1))
        totals = engine.sum(Count(25), round=1, clip=clip)
        assert sum(totals.failed.values()) == refused
        assert all("an answer longer than its users' clips" in reason for reason in totals.failed)


def test_an_answer_that_comes_twice_counts_once(devices: Devices, caplog: pytest.LogCaptureFixture) -> None:
    class Twice(ChangedReplies):
        """Every reply again, and once more with the next one's."""

        def pull_messages(self, message_ids):  # type: ignore[no-untyped-def]
            replies = list(super().pull_messages(message_ids))
            return [*replies, *replies]

    grid = grid_of(devices, dealt(devices, 3))
    expected = engine_on(grid).sum(Count(25), round=1)
    grid.__class__ = Twice
    with caplog.at_level(logging.WARNING):
        found = engine_on(grid).sum(Count(25), round=1)
    assert torch.equal(found.sums["count"], expected.sums["count"])
    assert found.answered == expected.answered
    assert "a reply that was not waited for" in caplog.text


def test_answers_that_are_there_are_taken_however_long_reading_the_others_took(devices: Devices) -> None:
    """Time is waited for answers, not for a busy server: nodes of this process answer when they are looked for."""
    grid = grid_of(devices, dealt(devices, 3))
    engine = engine_on(grid)

    def slow(reply: Message) -> Message:
        time.sleep(0.1)
        return reply

    grid.change, grid.node, engine.post.timeout = slow, 1, 0.05
    assert not engine.sum(Count(25), round=1).failed


def test_a_late_answer_is_not_in_a_later_sum(devices: Devices) -> None:
    """It comes after the time is up, while the next query waits for its own."""
    held: list[Message] = []

    def late(reply: Message) -> Message | None:
        held.append(reply)
        return held.pop(0) if len(held) > 1 else None

    grid = grid_of(devices, dealt(devices, 3))
    engine = engine_on(grid)
    assert not engine.sum(Count(25), round=1).failed  # the first answer of a process may take its time
    engine.post.timeout, grid.change = 0.3, late
    first = engine.sum(Count(25), round=2)
    second = engine.sum(Count(25), round=3)
    assert [sum(totals.failed.values()) for totals in (first, second)] == [1, 1]
    grid.change = None
    assert not engine.sum(Count(25), round=4).failed


BrokenRequest = Callable[[RecordDict], None]


def setting(part: str, **values: str | int | float) -> BrokenRequest:
    def change(record: RecordDict) -> None:
        record[part] = ConfigRecord({**dict(record[part]), **values})

    return change


def dropping(part: str) -> BrokenRequest:
    def change(record: RecordDict) -> None:
        del record[part]

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (setting("query", kind="os:system"), "not on this node's allow-list"),
        (setting("query", kind=3), "a query of kind 3"),
        (setting("request", version=1), "version 1 of the messages, where 2 is spoken"),
        (setting("request", shell="rm"), r"\['shell'\] missing or unknown"),
        (setting("request", clip="1"), "whose clip is '1'"),
        (setting("request", clip=-1.0), "with clip -1"),
        (setting("request", clip=float("nan")), "with clip nan"),
        (setting("request", session="../../x"), "a session named"),
        (setting("request", randomness="none"), "randomness 'none'"),
        (setting("request", participation="{}}"), "cannot be read"),
        (setting("request", participation='{"sampling": "fixed"}'), "set 'poisson' or 'cyclic'"),
        (setting("request", keep="9/9"), "later than"),
        (setting("request", keep="x"), "cannot be read"),
        (setting("request", base_round=7), "from"),
        (setting("settings", n_items=-1, more=2), "does not fit its definition"),
        (setting("settings", n_items=10**12), "tables of 8,000,000,000,000 bytes; this node has room for 80,000"),
        (dropping("broadcast"), "no ArrayRecord 'broadcast'"),
        (dropping("request"), "no ConfigRecord 'request'"),
        (
            lambda record: record.update(broadcast=ArrayRecord({"items": Array(np.ones(1000))})),
            "a payload of 8,128 bytes; this node reads at most 5,000",
        ),
    ],
)
def test_a_node_refuses_what_it_should_not_answer(devices: Devices, change: BrokenRequest, reason: str) -> None:
    grid = grid_of(devices, dealt(devices, 2))
    engine = engine_on(grid)
    record = request_to_record(Count(25), engine.request((1, 0), None))
    change(record)
    for context in grid._contexts.values():
        context.node_config["largest"] = 5000
    message = number_message(Message(record, 1, "query.sum"), "1")
    reply = grid._app(message, grid._contexts[1])
    assert re.search(reason, str(reply.content["refused"]["reason"]))
    assert "sums" not in reply.content
    assert not engine.sum(Count(25), round=1).failed


def test_a_refused_message_leaves_no_trace(devices: Devices) -> None:
    grid = grid_of(devices, dealt(devices, 2))
    engine = engine_on(grid)
    request = engine.request((1, 0), None)
    record = request_to_record(Count(25), Request(**{**request.__dict__, "participation": "none"}))
    grid._app(number_message(Message(record, 1, "query.sum"), "1"), grid._contexts[1])
    assert not grid._contexts[1].state
