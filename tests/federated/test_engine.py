"""The engine's promises: batching, dealing, order, clipping, replay, refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fedrec.errors import ConfigError
from fedrec.federated import Cohort, Contribution, Devices, LocalEngine, ParticipationConfig, Query, Rows, State
from fedrec.federated.participation import participants
from fedrec.federated.queries import Count, Gram, LocalTraining
from fedrec.privacy import Clip
from fedrec.streams import Streams


def training_query(seed: int = 1) -> LocalTraining:
    items = torch.randn(25, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return LocalTraining(items, "bce", 2, 0.3, 0.7, 3, 0.5, 0.5)


def run(engine: LocalEngine, rounds: int = 5) -> tuple[Tensor, Tensor]:
    """Plain averaging for some rounds: the item table and the user vectors."""
    query = training_query()
    for round in range(1, rounds + 1):
        change = engine.sum(query, round=round).sums["items"]
        query = LocalTraining(query.items + change / engine.expected, "bce", 2, 0.3, 0.7, 3, 0.5, 0.5)
    _, state = engine.look(torch.arange(len(engine.devices)), query)
    return query.items, state.dense["user"]


def test_one_user_at_a_time_equals_all_at_once(devices: Devices) -> None:
    together = run(LocalEngine(devices, Streams(0), chunk_bytes=1 << 30))
    alone = run(LocalEngine(devices, Streams(0), chunk_bytes=1))
    for batched, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batched, single, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "query", [training_query(), Count(25), Gram(torch.linspace(0.1, 1.0, 25))], ids=lambda q: q.kind
)
@pytest.mark.parametrize("clip", [None, Clip(0.05)], ids=["free", "clipped"])
def test_neither_threads_nor_chunks_change_a_bit(devices: Devices, query: Query, clip: Clip | None) -> None:
    torch_threads = torch.get_num_threads()
    found = []
    for threads, chunk_bytes in ((1, 1 << 30), (1, 1), (3, 1), (2, 2000)):
        engine = LocalEngine(devices, Streams(0), chunk_bytes=chunk_bytes, threads=threads)
        sums = [engine.sum(query, round=round, clip=clip) for round in (1, 2)]
        found.append((sums, engine.look(torch.arange(40), query)[1]))
    (first, first_state), *others = found
    for sums, state in others:
        for one, other in zip(first, sums, strict=True):
            assert (one.answered, one.clipped, one.bytes_up) == (other.answered, other.clipped, other.bytes_up)
            for name in query.tables:
                if query.kind == "gram":  # one product of matrices a chunk
                    torch.testing.assert_close(one.sums[name], other.sums[name])
                else:
                    assert torch.equal(one.sums[name], other.sums[name])
        assert all(torch.equal(first_state.dense[name], state.dense[name]) for name in query.private)
    assert torch.get_num_threads() == torch_threads


def test_a_catalogue_of_few_items_is_folded_in_chunks(devices: Devices) -> None:
    """A row of 3 numbers a user is less than a byte of working memory for each of its interactions."""
    few = Devices(devices.keys, torch.arange(41), torch.arange(40) % 3, 3)
    query = Gram(torch.ones(3))
    assert query.bytes_per_interaction == 0
    found = LocalEngine(few, Streams(0), chunk_bytes=1).sum(query, round=1).sums["gram"]
    assert torch.equal(found, torch.diag(torch.tensor([14.0, 13.0, 13.0])))


def test_any_dealing_of_users_to_nodes_gives_the_same_sums(devices: Devices) -> None:
    everyone = LocalEngine(devices, Streams(0), ParticipationConfig(rate=0.6))
    deal = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    nodes = [
        LocalEngine(devices.take(part), Streams(0), ParticipationConfig(rate=0.6)) for part in (deal[:7], deal[7:])
    ]
    query = training_query()
    for round in range(1, 6):
        whole = everyone.sum(query, round=round)
        parts = [node.sum(query, round=round) for node in nodes]
        torch.testing.assert_close(whole.sums["items"], parts[0].sums["items"] + parts[1].sums["items"])
        assert whole.answered == parts[0].answered + parts[1].answered


def test_a_clipped_user_moves_the_sum_by_at_most_the_clip(devices: Devices) -> None:
    clip, query, everyone = Clip(0.05), training_query(), torch.arange(40)
    whole = LocalEngine(devices, Streams(0)).sum(query, round=1, clip=clip)
    assert whole.clipped > 0
    for user in range(40):
        without = LocalEngine(devices.take(everyone[everyone != user]), Streams(0)).sum(query, round=1, clip=clip)
        influence = (whole.sums["items"] - without.sums["items"]).norm()
        assert influence <= 0.05 * (1 + 1e-12)


def test_a_replayed_query_returns_the_same_sum_and_steps_nothing_twice(devices: Devices) -> None:
    engine, query = LocalEngine(devices, Streams(0)), training_query()
    engine.sum(query, round=1)
    first = engine.sum(query, round=2).sums["items"]
    _, state = engine.look(torch.arange(40), query)
    again = engine.sum(query, round=2).sums["items"]
    _, replayed = engine.look(torch.arange(40), query)
    assert torch.equal(first, again)
    assert torch.equal(state.dense["user"], replayed.dense["user"])
    with pytest.raises(ConfigError, match="round 1, phase 0 was asked for after round 2"):
        engine.sum(query, round=1)


def test_a_restored_engine_continues_as_if_never_stopped(devices: Devices) -> None:
    engine, query = LocalEngine(devices, Streams(0)), training_query()
    engine.sum(query, round=1)
    saved = {name: tensor.clone() for name, tensor in engine.tensors().items()}
    second = engine.sum(query, round=2).sums["items"]
    fresh = LocalEngine(devices, Streams(0))
    fresh.restore(saved)
    assert torch.equal(fresh.sum(query, round=2).sums["items"], second)
    engine.restore(saved)
    assert torch.equal(engine.sum(query, round=2).sums["items"], second)


def test_a_users_data_reaches_no_other_users_state(devices: Devices) -> None:
    query, everyone = training_query(), torch.arange(40)
    engine = LocalEngine(devices, Streams(0))
    engine.sum(query, round=1)
    other = Devices(devices.keys, devices.indptr, devices.items.clone(), devices.n_items)
    other.items[devices.indptr[20] : devices.indptr[21]] = torch.arange(int(devices.indptr[20:22].diff()))
    changed = LocalEngine(other, Streams(0))
    changed.sum(query, round=1)
    before, after = (e.look(everyone, query)[1].dense["user"] for e in (engine, changed))
    assert (before != after).any(dim=1).nonzero().flatten().tolist() == [20]


def test_answers_add_up_to_the_sum(devices: Devices) -> None:
    query = training_query()
    total = torch.zeros(25, 4, dtype=torch.float64)
    users = []
    for answer in LocalEngine(devices, Streams(0), ParticipationConfig(rate=0.5)).answers(query, round=1):
        answer.contributions["items"].add_to(total, None)
        users.append(answer.user)
    whole = LocalEngine(devices, Streams(0), ParticipationConfig(rate=0.5)).sum(query, round=1)
    torch.testing.assert_close(total, whole.sums["items"])
    assert len(users) == whole.answered


def test_participation_is_poisson_drawn_once_a_round_and_free_of_order() -> None:
    keys = torch.arange(20_000) * 7919
    config = ParticipationConfig(rate=0.1, dropout=0.2)
    drawn = participants(config, keys, Streams(0, round=4)).on_time
    # 20,000 trials at .08: mean 1,600, deviation 38; five deviations are wrong once in 1.7 million seeds.
    assert abs(len(drawn) - 1600) < 5 * 38
    backwards = participants(config, keys.flip(0), Streams(0, round=4)).on_time
    assert torch.equal((19_999 - backwards).sort().values, drawn)
    assert not torch.equal(drawn, participants(config, keys, Streams(0, round=5)).on_time)
    assert len(participants(ParticipationConfig(), keys, Streams(0, round=1)).on_time) == 20_000


@dataclass(frozen=True, eq=False)
class Faulty(Query):
    """Count, but two users misbehave."""

    fault: str
    kind = "faulty"
    private = ("memory",)

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        return {"count": (25, 1)}

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        return State({"memory": torch.zeros(len(cohort), 1)})

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        contributions, _ = Count(25).contribute(cohort, State(), draw)
        rows = contributions["count"]
        assert isinstance(rows, Rows)
        value, index = rows.value.clone(), rows.index.clone()
        for user in (5, 9):
            first = int(torch.nonzero(rows.owner == user)[0])
            if self.fault == "unknown row":
                index[first] = 25
            else:
                value[first] = float(self.fault)
        return {"count": Rows(rows.owner, index, value)}, State({"memory": state.dense["memory"] + 1})


@pytest.mark.parametrize(
    ("fault", "reason"), [("nan", "not finite"), ("inf", "not finite"), ("unknown row", "unknown row")]
)
@pytest.mark.parametrize("clip", [None, Clip(1e9)])
def test_a_faulty_answer_is_refused_and_counted_and_the_round_goes_on(
    devices: Devices, fault: str, reason: str, clip: Clip | None
) -> None:
    engine = LocalEngine(devices, Streams(0), chunk_bytes=1 << 30)
    totals = engine.sum(Faulty(fault), round=1, clip=clip)
    assert totals.answered == 38
    assert [(reason in why, count) for why, count in totals.refused.items()] == [(True, 2)]
    honest = torch.tensor([user for user in range(40) if user not in (5, 9)])
    expected = LocalEngine(devices.take(honest), Streams(0)).sum(Count(25), round=1)
    assert torch.equal(totals.sums["count"], expected.sums["count"])
    _, state = engine.look(torch.arange(40), Faulty(fault))
    assert torch.nonzero(state.dense["memory"][:, 0] == 0).flatten().tolist() == [5, 9]


def test_a_query_that_fails_leaves_every_state_as_it_was(devices: Devices) -> None:
    @dataclass(frozen=True, eq=False)
    class Breaks(Faulty):
        def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
            if (cohort.keys == devices.keys[39]).any():
                raise ArithmeticError("the last user breaks")
            return super().contribute(cohort, state, draw)

    engine = LocalEngine(devices, Streams(0), chunk_bytes=1 << 30)
    engine.sum(Faulty("nan"), round=1)
    with pytest.raises(ArithmeticError):
        engine.sum(Breaks("nan"), round=2)
    _, state = engine.look(torch.arange(40), Faulty("nan"))
    assert state.dense["memory"].sum() == 38


def test_bytes_are_those_of_the_rows_that_were_sent(devices: Devices) -> None:
    totals = LocalEngine(devices, Streams(0)).sum(Count(25), round=1)
    assert totals.bytes_up == len(devices.items) * (4 + 8)  # a row number and one double each
    assert totals.bytes_down == 0
    query = training_query()
    assert LocalEngine(devices, Streams(0)).sum(query, round=1).bytes_down == 40 * 25 * 4 * 8


def test_failures_that_are_refused_are_those_of_the_clients_whose_answers_fail(
    devices: Devices, caplog: pytest.LogCaptureFixture
) -> None:
    """Items without a weight: who has one of them cannot answer, and the others do as if all could."""
    short, clip = Gram(torch.ones(20)), Clip(1.2)
    with pytest.raises(IndexError):
        LocalEngine(devices, Streams(3)).sum(short, round=1, clip=clip)
    owner = torch.repeat_interleave(devices.indptr.diff())
    unable = torch.unique(owner[devices.items >= 20])
    able = torch.tensor([user for user in range(len(devices)) if user not in unable.tolist()])
    assert 0 < len(unable) < len(devices)
    found = LocalEngine(devices, Streams(3), refuses_failures=True).sum(short, round=1, clip=clip)
    assert dict(found.refused) == {"no answer could be computed": len(unable)}
    expected = LocalEngine(devices.take(able), Streams(3)).sum(short, round=1, clip=clip)
    torch.testing.assert_close(found.sums["gram"], expected.sums["gram"])
    assert "query 'gram', round 1: an answer cannot be computed" in caplog.text
