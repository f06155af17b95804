"""The test of a deployment under masks: the plain sums to the stated resolution, and of no single node anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Message
from torch import Tensor

from fedrec.components import build_config
from fedrec.errors import ConfigError, PrivacyError, RunError
from fedrec.evaluation import poisson_weights, secret_weights
from fedrec.federated import METHODS, Ask, FederatedMethod, Federation, Query, measure
from fedrec.federated.queries import Census, Count, Evaluate, Measure
from fedrec.flower import secure
from fedrec.flower.masked_engine import MaskedEngine
from fedrec.flower.records import size, tensors
from fedrec.flower.requests import refused
from fedrec.flower.secure_messages import Panel
from fedrec.privacy import Clip
from fedrec.recommenders.recommender import Tensors
from fedrec.streams import Streams
from tests.federated.test_measure import CONFIG, LABELS, small
from tests.federated.test_measure import dealt as devices_of
from tests.flower.nodes import ChangedReplies, dealt, engine_on, grid_of
from tests.flower.test_faults import crashed

SPLIT = small()
DEVICES = devices_of(SPLIT)
SHORT = CONFIG.model_copy(update={"bootstrap": 100})
Sums = Mapping[str, Tensor]


class Kept:
    """An engine that remembers the queries and their sums."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.asked: list[tuple[Query, Sums]] = []

    def sum(self, query: Query, **moment: Any) -> Any:
        totals = self.engine.sum(query, **moment)
        self.asked.append((query, totals.sums))
        return totals


def model() -> tuple[FederatedMethod, Tensors]:
    method = METHODS["popularity"](build_config(METHODS["popularity"].config_class, {}, ""))
    start = method.start(Federation(90, 60, Streams(0)))
    return method, method.round(start, Ask(engine_on(grid_of(DEVICES, dealt(DEVICES, 2))), 1))


METHOD, STATE = model()


def sums_of(engine: Any) -> list[tuple[Query, Sums]]:
    """The queries of a test after the last round, and their sums."""
    kept = Kept(engine)
    kept.sum(Evaluate.of(METHOD, STATE, "test", ["ndcg@8"], 3, everyone=True), round=2)
    items = SPLIT.train.item_attributes
    measure(kept, METHOD, STATE, 60, items, LABELS, SHORT, seed=3, resampling=0, round=3, small=False)  # type: ignore[arg-type]
    return kept.asked


def on(nodes: int, look: Callable[[Message], None] = lambda message: None) -> ChangedReplies:
    return grid_of(DEVICES, dealt(DEVICES, nodes), look=look)


def masked(grid: ChangedReplies, answering: float = 0.9, panel: Panel | None = None, **settings: Any) -> MaskedEngine:
    engine = engine_on(grid, timeout=60.0, **settings)
    return MaskedEngine(engine, answering, panel)


@pytest.mark.parametrize("nodes", [2, 5, 30])
def test_every_sum_of_a_test_is_the_plain_one_to_the_resolution_and_counts_are_whole(nodes: int) -> None:
    engine = masked(on(nodes))
    plain = sums_of(engine_on(on(nodes)))
    assert [query.kind for query, _ in plain] == ["evaluate", "census", "membership", "measure"]
    for (query, there), (_, here) in zip(plain, sums_of(engine), strict=True):
        errors = engine.layout(query).largest_errors
        for name, expected in there.items():
            error = errors[name]
            # An entry is half a step a node away at most; a ten-millionth of what users can add up to is finer.
            assert bool((error <= 1e-7 * nodes * 90 * torch.tensor([query.bounds[name]])).all())
            assert bool(((here[name] - expected).abs() <= error + 1e-12 * expected.abs()).all())
            whole = (expected == expected.round()).all(dim=0)
            assert torch.equal(here[name][:, whole], expected[:, whole])
            assert expected.abs().max() > 0


def test_no_message_of_a_test_holds_a_nodes_table_and_what_travels_looks_uniform() -> None:
    """Each bit of a word is one half, over the words of a node that are zero or small without masks.

    Of n words the share of ones deviates by 1/(2√n): six deviations, for 32 bits of 3 nodes, are wrong once in five
    million. Two nodes' words agree in as many bits as chance has it.
    """
    seen: list[Message] = []
    sums_of(masked(on(3, look=seen.append)))
    answers = [m for m in seen if m.metadata.reply_to_message_id and m.metadata.message_type == "query.secure"]
    assert {m.metadata.message_type for m in seen} == {"query.greet", "query.secure"}
    assert all({"sums", "counts"}.isdisjoint(message.content) for message in seen)
    arrays = {name for m in answers for name, held in m.content.items() if isinstance(held, ArrayRecord)}
    assert arrays == {"words"}
    words = [tensors(m.content["words"])["words"].long() & 0xFFFFFFFF for m in answers if "words" in m.content]
    long = [drawn for drawn in words if len(drawn) > 5000]  # of `measure`
    assert len(words) == 12
    assert len(long) == 3
    for drawn, other in zip(long, long[1:] + long[:1], strict=True):
        limit = 6 * 0.5 / len(drawn) ** 0.5
        for bit in range(32):
            assert abs(float((drawn >> bit & 1).double().mean()) - 0.5) < limit
            assert abs(float(((drawn ^ other) >> bit & 1).double().mean()) - 0.5) < limit


def test_a_message_has_a_word_an_entry() -> None:
    """And each node's has as many as any other's, however few users it has."""
    seen: list[Message] = []
    engine = masked(on(3, look=seen.append))
    (query, _) = sums_of(engine)[-1]
    entries = sum(rows * width for rows, width in query.tables.values())
    sizes = [size(m.content) for m in seen if "words" in m.content][-3:]
    assert engine.layout(query).length == entries
    assert all(4 * entries <= found <= 4 * entries + 200 for found in sizes)


def test_a_column_of_two_words_stands_between_columns_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With bounds that one word has no room for, of some columns and not of others, the sums are what they were."""
    plain, bounds = sums_of(engine_on(on(3)))[-1], Measure.bounds.fget  # type: ignore[attr-defined]

    def wider(query: Measure) -> dict[str, tuple[float, ...]]:
        return {name: tuple(1e8 * b if n % 3 else b for n, b in enumerate(of)) for name, of in bounds(query).items()}

    monkeypatch.setattr(Measure, "bounds", property(wider))
    engine = masked(on(3))
    (query, found), columns = sums_of(engine)[-1], engine.layout(plain[0]).points["users"]
    assert [point.words for point in columns[:6]] == [1, 2, 2, 1, 2, 2]
    for name, error in engine.layout(query).largest_errors.items():
        assert bool(((found[name] - plain[1][name]).abs() <= error + 1e-12 * plain[1][name].abs()).all())
        assert bool((error < 1e-3).all())


def test_a_node_that_is_lost_after_it_has_answered_is_in_the_sum() -> None:
    grid = on(6)
    expected = sums_of(masked(on(6)))
    state: list[str] = []

    def lost(reply: Message) -> Message:
        kind = reply.content["answer"]["kind"] if "answer" in reply.content else ""
        state.append(kind)
        return crashed(reply) if kind == f"secure-{secure.UNMASK}" else reply

    grid.change = lost
    for (_, there), (_, here) in zip(expected, sums_of(masked(grid, answering=0.8)), strict=True):
        assert all(torch.equal(there[name], here[name]) for name in there)
    assert state.count(f"secure-{secure.UNMASK}") == 4


def test_a_node_that_is_lost_before_it_answers_is_not_in_the_sum() -> None:
    grid = on(6)
    grid.change = lambda reply: crashed(reply) if "words" in reply.content else reply
    found = masked(grid, answering=0.8).sum(Census(60), round=1)
    others = [user for place in (0, 2, 3, 4, 5) for user in dealt(DEVICES, 6)[place]]
    expected = engine_on(grid_of(DEVICES, [others])).sum(Census(60), round=1)
    assert torch.equal(found.sums["items"], expected.sums["items"])
    assert found.failed == {"mask: lost: ClientApp crashed": 1}
    with pytest.raises(PrivacyError, match=r"5 of 6 nodes answered .* opened for 6 or more .* then resume"):
        masked(grid, answering=0.9).sum(Census(60), round=1)


def test_all_sums_of_a_run_are_over_the_same_nodes() -> None:
    """A node that is in one of them and not in another would have its own told by subtraction."""
    grid, fixed = on(6), list[tuple[int, ...]]()
    panel = Panel(fix=fixed.append)
    grid.change = lambda reply: crashed(reply) if "words" in reply.content else reply  # of node 2
    one = masked(grid, answering=0.8, panel=panel).sum(Census(60), round=1)
    grid.change = None
    asked: list[Message] = []
    grid._look = asked.append
    other = masked(grid, answering=0.8, panel=panel).sum(Census(60), round=2)
    assert fixed == [(1, 3, 4, 5, 6)]
    assert torch.equal(one.sums["items"], other.sums["items"])
    assert {m.metadata.dst_node_id for m in asked if m.metadata.message_type == "query.secure"} >= set(fixed[0])
    assert 2 not in {m.metadata.dst_node_id for m in asked if m.metadata.message_type == "query.secure"}
    grid.change, grid.node, asked[:] = (lambda reply: crashed(reply) if "words" in reply.content else reply), 3, []
    with pytest.raises(PrivacyError, match=r"node 3 is in this run's earlier tests and did not answer.* then resume"):
        masked(grid, answering=0.8, panel=panel).sum(Census(60), round=3)
    assert secure.UNMASK not in {m.content["step"]["step"] for m in asked if "step" in m.content}
    with pytest.raises(PrivacyError, match="node 7 is in this run's earlier tests and not connected"):
        masked(grid, panel=Panel((1, 2, 7))).sum(Census(60), round=4)


def test_all_sums_of_a_run_are_over_the_same_data(tmp_path: Path) -> None:
    """Or the difference would be told of a node whose users hold something else by now. Another run may begin."""
    parts = dealt(DEVICES, 3)
    other = replace(DEVICES, items=(DEVICES.items + 1) % 60)
    first = masked(grid_of(DEVICES, parts, state=tmp_path), session="run.first.3").sum(Census(60), round=1)
    again = masked(grid_of(DEVICES, parts, state=tmp_path), session="run.second.3").sum(Census(60), round=1)
    assert torch.equal(first.sums["items"], again.sums["items"])
    for session in ("run.second.3", "run.third.3"):
        changed = masked(grid_of(other, parts, state=tmp_path), session=session)
        with pytest.raises(PrivacyError, match=r"this node's data are not those of the run's earlier tests"):
            changed.sum(Census(60), round=2)
    masked(grid_of(other, parts, state=tmp_path), session="another.first.3").sum(Census(60), round=1)


def test_what_a_query_did_not_say_is_refused_on_the_node_and_nothing_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node's 30 users more than 30 thousandths have an item."""
    monkeypatch.setattr(Census, "bounds", property(lambda self: {"items": (1e-3,), "activity": (1.0,)}))
    with pytest.raises(PrivacyError) as refused:
        masked(on(3)).sum(Census(60), round=1)
    said = str(refused.value)
    assert "secure sum of 'census': 0 of 3 nodes answered" in said
    assert "(mask: refused: fixed point: an entry not within ±0.03)" in said
    assert "\n" not in said


def test_sums_of_unknown_size_are_refused() -> None:
    engine = masked(on(3))
    with pytest.raises(ConfigError, match=r"query 'count' does not say how large .* give it `bounds`"):
        engine.sum(Count(60), round=1)
    with pytest.raises(ConfigError, match=r"asks for clip 1\.0, of a sum that is no release"):
        engine.sum(Census(60), round=1, clip=Clip(1.0))
    with pytest.raises(ConfigError, match="single answers"):
        engine.answers(Census(60), round=1)
    assert engine.expected == 90


def test_a_node_refuses_a_sum_that_is_not_agreed_on() -> None:
    """Of fewer users than it has itself, with a clip besides, or of no number of users at all."""
    seen: list[Message] = []
    grid = on(3, look=seen.append)
    broken: dict[str, Callable[[Message], None]] = {
        "a sum over 29 users, and this node alone has 30": lambda m: m.content["exact"].update(users=29),
        "a sum over 'all' users": lambda m: m.content["exact"].update(users="all"),
        "with a clip, for a sum that is no release": lambda m: m.content["request"].update(clip=1.0),
    }
    for reason, change in broken.items():
        engine, before = masked(grid), len(seen)
        push = grid.push_messages

        def changed(messages: Any, reason: str = reason, change: Any = change, push: Any = push) -> Any:
            found = list(messages)
            for message in found:
                if message.metadata.dst_node_id == 1 and ("exact" in message.content or "clip" in reason):
                    change(message)
            return push(found)

        grid.push_messages = changed  # type: ignore[method-assign]
        with pytest.raises(PrivacyError, match="0 of 3 nodes answered"):
            engine.sum(Census(60), round=1)
        grid.push_messages = push  # type: ignore[method-assign]
        assert [r for m in seen[before:] if (r := refused(m.content)) and reason in r]


def test_a_node_whose_operator_says_so_sends_nothing_plain() -> None:
    """Under masks it answers, in training as in a test; otherwise it says what would be answered."""
    grid, seen = on(3), list[Message]()
    for context in grid._contexts.values():
        context.node_config["plain"] = False
    grid._look = seen.append
    with pytest.raises(RunError, match="refused: this node's operator lets no plain sums go"):
        engine_on(grid).sum(Census(60), round=1)
    assert not any("sums" in message.content for message in seen)
    expected = engine_on(on(3)).sum(Census(60), round=1).sums["items"]
    assert torch.equal(masked(grid).sum(Census(60), round=1).sums["items"], expected)


def test_every_query_of_a_test_says_how_large_its_answers_are() -> None:
    """By table and column; and no single user's answer is larger, nor all of them far smaller."""
    for query, everyone in sums_of(engine_on(on(2))):
        for user in range(0, 90, 9):
            alone = engine_on(grid_of(DEVICES, [[user]])).sum(query, round=4).sums
            for name, table in alone.items():
                bounds = torch.tensor([query.bounds[name]], dtype=torch.float64)
                assert bounds.shape[1] == table.shape[1] == everyone[name].shape[1]
                assert bool((table.abs() <= bounds * (1 + 1e-12)).all())


def resamples(grid: ChangedReplies, session: str, seed: int = 3, randomness: str = "os") -> Tensor:
    engine = masked(grid, session=session, seed=seed, randomness=randomness)
    return sums_of(engine)[-1][1]["resamples"]


def test_weights_of_resamples_are_secrets_of_the_nodes_one_for_all_arms_and_seeds_of_a_run(tmp_path: Path) -> None:
    seen: list[Message] = []
    grid = grid_of(DEVICES, dealt(DEVICES, 3), look=seen.append, state=tmp_path)
    one = resamples(grid, "run.first.3")
    assert torch.equal(one, resamples(grid, "run.second.4", seed=4)[:, : one.shape[1]])
    other = resamples(grid, "another.first.3")
    assert not torch.equal(one[:, 0], other[:, 0])
    assert torch.equal(one, resamples(grid, "run.third.3"))  # the other run did not make the nodes forget
    public = resamples(grid, "public.first.3", randomness="seeded")
    warm = [user for user in range(90) if public[0, 0] >= 0 and _counts(user)]
    expected = poisson_weights(Streams(0), DEVICES.keys[warm], 100).sum(dim=0)
    assert torch.equal(public[:, 0], expected)
    secrets = [_kept(tmp_path / str(node), "run")["secret"] for node in (1, 2, 3)]
    assert len(set(secrets)) == 3
    assert all(len(bytes.fromhex(secret)) == 32 for secret in secrets)
    for message in seen:
        for held in message.content.values():
            for value in held.values():
                data = bytes(value.data) if isinstance(held, ArrayRecord) else str(value).encode()
                assert not any(s.encode() in data or bytes.fromhex(s) in data for s in secrets)


def _counts(user: int) -> bool:
    """Whether a user has both a training and a held-out item."""
    held = DEVICES.held_out["test"]
    return bool(DEVICES.indptr.diff()[user] > 0) and bool(held.indptr.diff()[user] > 0)


def _kept(folder: Path, run: str) -> dict[str, Any]:
    import safetensors

    with safetensors.safe_open(folder / f"{run}.state.safetensors", framework="pt") as file:
        return dict(json.loads(file.metadata()["kept"]))


def test_resamples_by_secret_weights_cannot_be_solved_for_users_values() -> None:
    """By a server that knows the users' keys and the seed, and solves the sums of a run whose weights that tells."""
    users = [user for user in range(90) if _counts(user)]
    public = poisson_weights(Streams(0), DEVICES.keys[users], 200)
    query = sums_of(engine_on(on(2)))[-1][0]
    assert isinstance(query, Measure)
    column = 1 + query.layout.per_user.index("ndcg@8")
    values = [
        float(engine_on(grid_of(DEVICES, [[user]])).sum(query, round=4).sums["users"][0, column + 1]) for user in users
    ]
    off = {}
    for randomness in ("seeded", "os"):
        engine = masked(on(3), randomness=randomness)
        resampled = engine.sum(replace(query, layout=replace(query.layout, replicates=200)), round=2).sums["resamples"]
        solved = torch.linalg.lstsq(public.T, resampled[:, column : column + 1]).solution[:, 0]
        off[randomness] = float((solved - torch.tensor(values, dtype=torch.float64)).abs().max())
    assert off["seeded"] < 1e-4
    assert off["os"] > 0.1


def test_secret_weights_are_poisson_and_belong_to_the_user_and_the_secret() -> None:
    """100,000 draws: five deviations of a share (.0016 at most) are wrong once in 1.7 million."""
    keys, secret = torch.arange(-25, 25), bytes(range(32))
    weights = secret_weights(secret, keys, 2000)
    assert torch.equal(weights[3:4], secret_weights(secret, keys[3:4], 2000))
    assert not torch.equal(weights[3], weights[4])
    assert not torch.equal(weights, secret_weights(bytes(32), keys, 2000))
    for count, share in ((0, 0.36788), (1, 0.36788), (2, 0.18394), (3, 0.06131)):
        assert float((weights == count).double().mean()) == pytest.approx(share, abs=0.008)
    assert float(weights.mean()) == pytest.approx(1.0, abs=0.016)
    assert abs(float(torch.corrcoef(weights[:2])[0, 1])) < 5 / 2000**0.5


def test_a_query_with_a_secret_is_sent_as_without(tmp_path: Path) -> None:
    (query, _) = sums_of(engine_on(on(2)))[-1]
    assert isinstance(query, Measure)
    kept = query.with_secret(bytes(32))
    assert kept.settings == query.settings
    assert kept.broadcast.keys() == query.broadcast.keys()
    assert Census(3).with_secret(bytes(32)).settings == {"n_items": 3}


@pytest.mark.parametrize("small", [True, False])
def test_resamples_would_tell_a_small_groups_values_one_by_one_and_nothing_is_asked_of_it(small: bool) -> None:
    """By secret weights too: where one of five users counts, the sum is that one's value.

    Each is alone in 13 of 2,000 resamples: that one of them never is happens once in 140,000 runs.
    """
    few = [user for user in range(90) if _counts(user)][::20]
    held = DEVICES.held_out["test"]
    gender = torch.tensor([0 if user in few else 1 for user in range(90)])
    devices = replace(DEVICES, held_out={"test": replace(held, groups={"gender": gender})})
    grid = grid_of(devices, [[few[0]], [*range(few[0]), *range(few[0] + 1, 20)], list(range(20, 90))])
    kept = Kept(masked(grid, randomness="os"))
    config, items = CONFIG.model_copy(update={"bootstrap": 2000, "groups": ("gender",)}), SPLIT.train.item_attributes
    found = measure(kept, METHOD, STATE, 60, items, LABELS, config, seed=3, resampling=0, round=3, small=small)  # type: ignore[arg-type]
    query, sums = kept.asked[-1]
    place, per_user = found.layout.per_user.index("ndcg@8"), len(found.layout.per_user)
    count, total = found.resamples[:, 1 + per_user], found.resamples[:, 2 + per_user]
    alone = [engine_on(grid_of(devices, [[user]])).sum(query, round=4).sums["users"][0, 2 + place] for user in few]
    if small:
        told = {round(float(value), 4) for value in total[count == 1]}
        assert told == {round(float(value), 4) for value in alone}
        return
    assert [query.kind for query, _ in kept.asked] == ["census", "membership", "measure"]
    assert kept.asked[1][1]["members"][:, 0].tolist() == [len([u for u in range(90) if _counts(u)]), 5, 81]
    assert not sums["users"][1:].any()  # nor of the others, whom the five are what is missing of the whole
    assert not sums["resamples"][:, 1 + per_user :].any()
    assert not [row for row in found.rows if row.group.startswith("gender")]
    assert sums["users"][0, 2 + place] > 0
