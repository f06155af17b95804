"""Secure sums over messages: the sum of plain answers to the stated resolution, and nothing else for the server."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from flwr.app import Message

from fedrec.errors import PrivacyError
from fedrec.federated import Devices, LocalEngine, PrivateEngine, Query
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig
from fedrec.federated.private_sums import Asked
from fedrec.federated.protection import protect
from fedrec.federated.queries import Count
from fedrec.flower import secure
from fedrec.flower.masked import MaskedNodes
from fedrec.flower.records import tensors
from fedrec.flower.requests import refused
from fedrec.privacy import Clip, Gaussian, Part, PlannedRelease, PrivacyConfig, Schedule, SeededNoise
from fedrec.streams import Streams
from tests.flower.nodes import ChangedReplies, dealt, engine_on, grid_of, trained

METHOD = EgoLightGCN(EgoLightGCNConfig(dim=4))
CLIP = Clip(0.05)


class NoNoise(Gaussian):
    """So that what is opened can be seen."""

    def noise(self, shape: Any, *_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float64)


def opened(grid: ChangedReplies, answering: float = 0.9, query: Query | None = None) -> tuple[Any, Any, float]:
    """A secure sum without noise, what it cost, and its resolution."""
    engine = engine_on(grid, timeout=60.0 if grid.change is None else 0.5)
    query = query or METHOD.memory(trained(METHOD, LocalEngine(_all(grid), Streams(3)), [1]))
    asked = Asked(query, 1, 0, CLIP, (Part(tuple(query.tables), CLIP.norm, 1.0),))
    sums = MaskedNodes(engine, NoNoise(), SeededNoise(Streams(3)), answering)
    totals = sums.sum(engine, asked)
    return totals, query, max(point.largest_error for point in sums.layout(asked).points)


def _all(grid: ChangedReplies) -> Devices:
    return _everyone[id(grid)]


_everyone: dict[int, Devices] = {}


def grid(devices: Devices, nodes: int, **settings: Any) -> ChangedReplies:
    made = grid_of(devices, dealt(devices, nodes), **settings)
    _everyone[id(made)] = devices
    return made


def plain(devices: Devices, query: Query, parts: list[list[int]]) -> torch.Tensor:
    users = torch.tensor(sorted(user for part in parts for user in part))
    return LocalEngine(devices.take(users), Streams(3)).sum(query, round=1, clip=CLIP).sums["items"]


@pytest.mark.parametrize("nodes", [2, 3, 8, 40])
def test_the_sum_is_that_of_plain_answers_to_the_stated_resolution(devices: Devices, nodes: int) -> None:
    totals, query, error = opened(grid(devices, nodes))
    expected = plain(devices, query, dealt(devices, nodes))
    assert error < 1e-6
    assert (totals.sums["items"] - expected).abs().max() <= error
    assert expected.abs().max() > 1000 * error
    assert (totals.nodes, totals.failed, totals.answered) == (nodes, {}, 0)  # of users nobody tells the server


@pytest.mark.parametrize("step", [secure.ADVERTISE, secure.SHARE, secure.MASK, secure.UNMASK])
def test_a_node_that_is_lost_at_any_step_takes_nothing_with_it(devices: Devices, step: str) -> None:
    """Lost after the key exchange, it is recovered from shares; lost after it has answered, its answer counts."""
    nodes = grid(devices, 6)

    def lost(reply: Message) -> Message | None:
        heading = reply.content.get("answer")
        return None if heading is not None and heading["kind"] == f"secure-{step}" else reply

    nodes.change = lost
    totals, query, error = opened(nodes, answering=0.8)
    there = [part for number, part in enumerate(dealt(devices, 6), start=1) if number != 2 or step == secure.UNMASK]
    assert (totals.sums["items"] - plain(devices, query, there)).abs().max() <= error
    assert totals.failed == {f"{step}: no answer within 0.5 s": 1}


def test_a_server_that_was_killed_within_a_round_can_sum_again(devices: Devices) -> None:
    nodes, found = grid(devices, 3), []
    for phases in (2, 1):  # killed after the second phase, and back at the first
        engine = engine_on(nodes, timeout=60.0)
        engine.restore({"moment": torch.tensor([0, 0]), "kept": torch.zeros(0, 2, dtype=torch.int64)})
        sums = MaskedNodes(engine, NoNoise(), SeededNoise(Streams(3)), 0.9)
        for phase in range(phases):
            asked = Asked(Count(25), 1, phase, CLIP, (Part(("count",), CLIP.norm, 1.0),))
            found.append(sums.sum(engine, asked).sums["count"])
    assert torch.equal(found[0], found[2])


def test_keys_that_agree_on_nothing_stop_nobody_else(devices: Devices) -> None:
    def change(reply: Message) -> Message:
        if "keys" in reply.content:
            reply.content["keys"]["mask"] = [bytes(32)]  # a point of small order: X25519 refuses what comes of it
        return reply

    nodes = grid(devices, 6)
    nodes.change = change
    totals, query, error = opened(nodes, answering=0.8)
    there = [part for number, part in enumerate(dealt(devices, 6), start=1) if number != 2]
    assert (totals.sums["items"] - plain(devices, query, there)).abs().max() <= error
    assert totals.failed == {"advertise: a public key that no secret can be agreed on by": 1}


def test_what_a_server_is_to_noise_is_clipped(devices: Devices) -> None:
    """Or one user might move the sum by any amount, whatever the noise."""
    engine = engine_on(grid(devices, 3), timeout=60.0)
    sums = MaskedNodes(engine, NoNoise(), SeededNoise(Streams(3)), 0.9)
    asked = Asked(Count(25), 1, 0, None, (Part(("count",), 1.0, 1.0),))  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match="query 'count' without a clip, for a sum that a server is to noise"):
        sums.sum(engine, asked)


def test_too_few_answers_open_nothing(devices: Devices) -> None:
    nodes = grid(devices, 3)
    nodes.change = lambda reply: None if "words" in reply.content else reply
    with pytest.raises(PrivacyError, match=r"secure sum of .* 2 of 3 nodes answered .* opened for 3 or more"):
        opened(nodes, answering=0.9)
    nodes.change = lambda reply: None if "shares" in reply.content else reply
    with pytest.raises(PrivacyError, match=r"3 of 3 nodes answered, and too many were lost then .* then resume$"):
        opened(nodes, answering=0.9)


def test_the_server_sees_words_that_look_uniform_and_no_table(devices: Devices) -> None:
    """Of 100 words of each of 4 nodes the mean is 2^31 to within six deviations: 1 false alarm in 500 million."""
    seen: list[Message] = []
    opened(grid(devices, 4, look=seen.append))
    words = []
    for message in seen:
        if message.metadata.message_type != "query.secure":
            continue
        assert "sums" not in message.content
        assert "counts" not in message.content
        if "words" in message.content and message.metadata.reply_to_message_id:
            words.append(tensors(message.content["words"])["words"].double() / 2**32)
    assert len(words) == 4
    drawn = torch.cat(words)
    assert len(drawn) == 400
    assert abs(float(drawn.mean())) < 6 * (1 / 12 / 400) ** 0.5
    assert abs(float(drawn.var()) - 1 / 12) < 6 * (1 / 180 / 400) ** 0.5


def test_a_node_masks_once_and_reveals_once(devices: Devices) -> None:
    seen: list[Message] = []
    nodes = grid(devices, 3, look=seen.append)
    opened(nodes)
    steps = [
        message
        for message in seen
        if not message.metadata.reply_to_message_id
        and message.metadata.message_type == "query.secure"
        and message.metadata.dst_node_id == 1
    ]
    by_step = {secure.step_from(message.content): message for message in steps}
    for step, reason in ((secure.MASK, "has answered the secure sum"), (secure.UNMASK, "has revealed its shares")):
        reply = nodes._app(by_step[step], nodes._contexts[1])
        assert reason in str(refused(reply.content))
    other = json.loads(str(nodes._contexts[1].state.config_records["fedrec"]["header"]))
    assert json.loads(other["summand"])["masked"]


def test_a_step_of_another_sum_is_refused(devices: Devices) -> None:
    seen: list[Message] = []
    nodes = grid(devices, 3, look=seen.append)
    opened(nodes)
    message = next(m for m in seen if m.metadata.message_type == "query.secure" and "step" in m.content)
    content = message.content
    content["step"]["step"] = secure.UNMASK
    content["session"]["label"] = "another"
    reply = nodes._app(message, nodes._contexts[message.metadata.dst_node_id])
    assert "no secure sum 'another' was begun here" in str(refused(reply.content))


@pytest.mark.parametrize("change", [{"threshold": 4}, {"length": 24}, {"users": [1, 2, 3, 4]}, {"number": 2}])
def test_what_was_agreed_on_does_not_change_between_steps(devices: Devices, change: dict[str, Any]) -> None:
    """A smaller threshold, or fewer nodes, would let a server that has one neighbour's masks do without the others."""
    nodes = grid(devices, 5)
    push = nodes.push_messages

    def changed(messages: Any) -> Any:
        found = list(messages)
        for message in found:
            if message.metadata.dst_node_id == 1 and "boxes" in message.content:
                message.content["session"].update(change)
        return push(found)

    nodes.push_messages = changed  # type: ignore[method-assign]
    totals, query, error = opened(nodes, answering=0.8)
    others = dealt(devices, 5)[1:]
    assert (totals.sums["items"] - plain(devices, query, others)).abs().max() <= error
    (reason,) = totals.failed
    assert reason.startswith("mask: refused: no secure sum")


@pytest.mark.parametrize("nodes", [3, 10])
def test_a_guarantee_over_masked_nodes_is_that_over_plain_ones(devices: Devices, nodes: int) -> None:
    """The same noise, in proportion to a clip that counts the rounding; the sums differ by that and the resolution."""
    schedule = Schedule((PlannedRelease(query="count", draws=2, clip=1.5),), rate=1.0)
    found = []
    for trust in ("central", "secagg"):
        privacy = PrivacyConfig(noise_multiplier=2.0, delta=1e-3, trust=trust, answering=0.9)
        engine = engine_on(grid(devices, nodes))
        private = protect(engine, schedule, privacy, SeededNoise(Streams(3)), 40)
        found.append(torch.stack([private.sum(Count(25), round=round).sums["count"] for round in (1, 2)]))
        assert isinstance(private, PrivateEngine)
        assert private.sums.trust == trust
    assert (found[0] - found[1]).abs().max() < 1e-5
    assert not torch.equal(*found)
