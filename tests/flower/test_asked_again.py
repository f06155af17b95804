"""What a node does that is asked for a sum another time: never other noise on it, and never its noise on another sum.

Two noised sums of the same users have a mean with less noise, and two sums with the same noise a difference with none.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from fedrec.errors import PrivacyError, RunError
from fedrec.federated import Devices, PrivateEngine
from fedrec.federated.protection import protect
from fedrec.federated.queries import Census, Count, Gram, LocalTraining
from fedrec.flower import secure
from fedrec.flower.adding import empty_sums
from fedrec.flower.masked_engine import MaskedEngine
from fedrec.flower.own_noise import OwnNoise
from fedrec.flower.requests import refused, request_to_record
from fedrec.flower.stores import FolderStore, Kept
from fedrec.privacy import Clip, Part, PlannedRelease, PrivacyConfig, Schedule, SystemNoise, Trust
from fedrec.privacy.secure_sum import Masked, Summand
from tests.flower.nodes import ChangedReplies, dealt, engine_on, grid_of

COUNT = Schedule((PlannedRelease(query="count", draws=4, clip=1.2),))


def private(grid: ChangedReplies, trust: Trust, session: str = "run.arm.0") -> PrivateEngine:
    """As a server that was just started has it, back at the beginning."""
    over = engine_on(grid, session=session, randomness="os")
    over.restore({"moment": torch.tensor([0, 0]), "kept": torch.zeros(0, 2, dtype=torch.int64)})
    section = PrivacyConfig(noise_multiplier=1.5, delta=1e-3, trust=trust)
    return protect(over, COUNT, section, SystemNoise(), 40)


def count(over: PrivateEngine, round: int = 1) -> torch.Tensor:
    return over.sum(Count(25), round=round).sums["count"]


def nodes(devices: Devices, state: Path, **more: Any) -> ChangedReplies:
    return grid_of(devices, dealt(devices, 4), state=state, **more)


LATER = 4 * 10**18  # than the clock


@pytest.mark.parametrize(
    "request_of",
    [{"round": 0, "phase": 1, "clip": 0.0, "attempt": LATER}, {"attempt": LATER}, {"session": "run.x"}],
    ids=["moment", "attempt", "session"],
)
def test_the_last_step_of_a_sum_is_of_the_moment_that_was_masked(
    devices: Devices, tmp_path: Path, request_of: dict[str, Any]
) -> None:
    """Or a node would remember that another sum was opened, and add other noise to this one when it is asked again."""
    seen: list[Message] = []
    grid = nodes(devices, tmp_path, look=seen.append)
    push = grid.push_messages

    def changed(messages: Any) -> Any:
        found = list(messages)
        for message in found:
            if "step" in message.content and secure.step_from(message.content) == secure.UNMASK:
                message.content["request"].update(request_of)
        return push(found)

    grid.push_messages = changed  # type: ignore[method-assign]
    with pytest.raises(PrivacyError, match="4 of 4 nodes answered, and too many were lost then"):
        count(private(grid, "distributed"))
    assert sum("no secure sum" in (refused(message.content) or "") for message in seen) == 4
    assert not any("shares" in message.content for message in seen if message.metadata.reply_to_message_id)


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_a_session_that_was_left_for_another_is_not_gone_on_with(
    devices: Devices, tmp_path: Path, trust: Trust
) -> None:
    """What was noised in it is not remembered; and its users' state is not, of which the same noise would tell."""
    grid = nodes(devices, tmp_path)
    count(private(grid, trust, "run.a.0"))
    count(private(grid, trust, "run.b.0"))
    for again in (private(grid, trust, "run.a.0"), private(grid, trust, "run.a.0")):
        with pytest.raises((RunError, PrivacyError), match=r"session 'run\.a\.0' was left for another of its run"):
            count(again)
    engine_on(grid, session="run.a.0", randomness="os").sum(Count(25), round=1)  # which is no release
    with pytest.raises((RunError, PrivacyError), match=r"session 'run\.a\.0' was left for another of its run"):
        count(private(grid, trust, "run.a.0"))
    count(private(grid, trust, "run.c.0"))
    count(private(grid, trust, "another.a.0"))


@pytest.mark.parametrize(("first", "second"), [("local", "distributed"), ("distributed", "local")])
def test_a_moment_is_noised_in_one_way(devices: Devices, tmp_path: Path, first: Trust, second: Trust) -> None:
    grid = nodes(devices, tmp_path)
    count(private(grid, first))
    with pytest.raises(
        (RunError, PrivacyError), match=r"round 1, phase 0 (may have been opened|was noised for another)"
    ):
        count(private(grid, second))
    over = private(grid, second)
    assert torch.isfinite(count(over, 2)).all()


def test_the_same_noise_is_not_added_to_what_users_hold_by_now(devices: Devices, tmp_path: Path) -> None:
    """A node whose shard was replaced: the difference of the two answers would be that of the shards, exactly."""
    first = count(private(nodes(devices, tmp_path), "local"))
    assert torch.equal(count(private(nodes(devices, tmp_path), "local")), first)
    others = Devices(devices.keys, devices.indptr, (devices.items + 1) % 25, 25)
    with pytest.raises(RunError, match="round 1, phase 0 was noised for another question"):
        count(private(nodes(others, tmp_path), "local"))


def test_noise_is_that_of_a_rounds_participants_and_of_nobody_else(
    devices: Devices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Count, "everyone", True)
    grid = nodes(devices, tmp_path)
    engine = engine_on(grid, randomness="os")
    request = engine.request((1, 0), Clip(1.2))
    record = request_to_record(Count(25), request)
    OwnNoise((Part(("count",), 1.2, 1.5),), "", True).write(record)
    with pytest.raises(RunError, match="query 'count' asks everyone, and noise is that of a round's participants"):
        engine.gather(Count(25), request, record, {}, lambda answer: None)


class Killed(BaseException):
    """What ends a server: nothing that it could answer to."""


@pytest.mark.parametrize(("trust", "messages"), [("local", 4), ("distributed", 20)])
def test_wherever_a_server_is_killed_it_comes_by_one_noise_of_a_sum(
    devices: Devices, tmp_path: Path, trust: Trust, messages: int
) -> None:
    """Killed once so many of its messages were answered, started again, and killed after the same number again.

    Of each node's answers to a query there is one, byte by byte. Of secure sums one at most has been opened, or can be:
    by as many nodes as recover a secret.
    """
    for number in range(1, messages + 1):
        seen: list[Message] = []
        grid = nodes(devices, tmp_path / str(number), look=seen.append)
        deliver, answered = grid._app, [0]

        def counted(message: Message, context: Any, deliver: Any = deliver, answered: Any = answered) -> Message:
            if "greeting" not in message.content and answered[0] == number:  # noqa: B023 (it is called in this turn)
                raise Killed
            answered[0] += "greeting" not in message.content
            return deliver(message, context)

        grid._app, released = counted, []
        for _ in range(2):
            answered[0] = 0
            with contextlib.suppress(Killed, PrivacyError):
                released.append(count(private(grid, trust)))
        answered[0] = -messages
        with contextlib.suppress(PrivacyError):
            released.append(count(private(grid, trust)))
        answers: dict[int, set[bytes]] = {}
        revealed = Counter[str]()
        label = {m.metadata.message_id: str(m.content["session"]["label"]) for m in seen if "session" in m.content}
        for message in seen:
            if "sums" in message.content:
                told = message.content["sums"]
                answers.setdefault(message.metadata.src_node_id, set()).add(
                    b"".join(told[n].data for n in sorted(told))
                )
            if "shares" in message.content and message.metadata.reply_to_message_id:
                revealed[label[message.metadata.reply_to_message_id]] += 1
        assert all(len(of_node) == 1 for of_node in answers.values())
        assert len([label for label, shares in revealed.items() if shares >= 2]) <= 1  # of three neighbours
        assert len(released) <= 1 or trust == "local"
        assert all(torch.equal(one, released[0]) for one in released)
        if trust == "local":
            assert set(answers) == {1, 2, 3, 4}
        assert released or revealed


@pytest.mark.parametrize("trust", ["secagg", "distributed"])
def test_two_messages_at_once_are_answered_one_after_the_other(
    devices: Devices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: Trust
) -> None:
    """Flower starts a process for each. Two answers under one mask differ by what they are without it."""
    grid, asked, seen = nodes(devices, tmp_path), list[Message](), list[Message]()
    look, mask, deliver = seen.append, Summand.mask, grid._app

    def slow(summand: Summand, *words: Any) -> Masked:
        time.sleep(0.3)  # so that the other message finds what this one did
        return mask(summand, *words)

    def at_once(message: Message, context: Any) -> Message:
        twice = "step" in message.content and secure.step_from(message.content) == secure.MASK
        if not (twice and message.metadata.dst_node_id == 1):
            return deliver(message, context)
        asked.append(message)
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda _: deliver(message, context), range(2))
        look(first)
        look(second)
        return first if "words" in first.content else second

    monkeypatch.setattr(Summand, "mask", slow)
    grid._app = at_once
    count(private(grid, trust))
    assert len(asked) == 1
    assert len([m for m in seen if "words" in m.content]) == 1
    assert [r for m in seen if (r := refused(m.content)) and "has answered the secure sum" in r]


def test_what_a_node_remembers_is_on_the_disk_before_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file, and the folder in which it takes the place of the one before: a power cut brings back neither."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(file: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        fsync(file)

    def moved(path: Path, target: Path) -> Path:
        done.append("move")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", moved)
    FolderStore(tmp_path).save(Kept("run.arm.0", noised=((1, 0), "sum"), left=("run.a.0",), paid=("what", 0.5)))
    assert done == ["file", "move", "folder"]
    kept = FolderStore(tmp_path).load("run")
    assert kept is not None
    assert (kept.noised, kept.left, kept.paid) == (((1, 0), "sum"), ("run.a.0",), ("what", 0.5))


def test_the_same_noise_is_not_added_to_what_users_remember_by_now(devices: Devices, tmp_path: Path) -> None:
    """A server goes back and asks a test's sum, over which nodes keep another state: the difference would tell both."""
    grid, query = nodes(devices, tmp_path), LocalTraining(torch.ones(25, 4), "bce", 2, 0.3, 0.7, 3, 0.5, 0.5)
    planned = Schedule((PlannedRelease(query="local-training", draws=4, clip=1.2),))

    def train(moment: int, *rounds: int) -> None:
        over = engine_on(grid, session="run.arm.0", randomness="os")
        over.restore({"moment": torch.tensor([moment, 0]), "kept": torch.zeros(0, 2, dtype=torch.int64)})
        section = PrivacyConfig(noise_multiplier=1.5, delta=1e-3, trust="local")
        private_over = protect(over, planned, section, SystemNoise(), 40)
        for round in rounds:
            private_over.sum(query, round=round)

    train(0, 1, 2)
    train(1, 2)  # the same again
    MaskedEngine(engine_on(grid, session="run.arm.0", randomness="os"), 0.9).sum(Census(25), round=1)
    with pytest.raises(RunError, match="round 2, phase 0 was noised for another question"):
        train(1, 2)


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_noise_hides_that_an_answer_cannot_be_computed(devices: Devices, tmp_path: Path, trust: Trust) -> None:
    """A server that leaves out the last items would see by a failure whether somebody has one of them."""
    planned = Schedule((PlannedRelease(query="gram", draws=4, clip=1.2),))
    over = engine_on(nodes(devices, tmp_path), session="run.arm.0", randomness="os")
    section = PrivacyConfig(noise_multiplier=1.5, delta=1e-3, trust=trust)
    totals = protect(over, planned, section, SystemNoise(), 40).sum(Gram(torch.ones(20)), round=1)
    assert bool((devices.items >= 20).any())
    assert torch.isfinite(totals.sums["gram"]).all()
    assert not totals.failed
    assert not totals.refused


def test_noise_is_for_the_question_that_is_answered(devices: Devices, tmp_path: Path) -> None:
    """A first message of a moment is refused, and the next has other tensors of the same size: they are what counts."""
    grid = nodes(devices, tmp_path)
    engine = engine_on(grid, session="run.arm.0", randomness="os")
    request = engine.request((1, 0), Clip(1.2))

    def asked(value: float, multiplier: float) -> torch.Tensor:
        query = LocalTraining(torch.full((25, 4), value), "bce", 2, 0.3, 0.7, 3, 0.5, 0.5)
        record = request_to_record(query, request)
        OwnNoise((Part(("items",), 1.2, multiplier),), "", True).write(record)
        sums = empty_sums(query, clipped=True)
        return engine.gather(query, request, record, sums, lambda answer: None).sums["items"]

    with pytest.raises(RunError, match="noise without a finite multiplier above 0"):
        asked(-3.0, 0.0)
    first = asked(1.0, 1.5)
    count(private(grid, "local", "another.arm.0"))  # this process reads something else
    assert torch.equal(asked(1.0, 1.5), first)
