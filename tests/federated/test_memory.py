"""Private state: committed, replayed, taken back and restored, dense and ragged alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated import Cohort, Contribution, Devices, LocalEngine, ParticipationConfig, Query, Rows, State
from fedrec.federated.memory import PrivateMemory, _RaggedTable
from fedrec.federated.queries import Count
from fedrec.streams import Streams

Tables = dict[int, dict[int, list[float]]]
"""By user: row -> value."""


def rows_of(tables: Tables) -> Rows:
    """The rows of users 0, 1, ..., in the order given."""
    entries = [(place, row, table[row]) for place, table in enumerate(tables.values()) for row in sorted(table)]
    owner, index, value = zip(*entries, strict=True) if entries else ((), (), ())
    shape = (len(entries), 2)
    return Rows(
        torch.tensor(owner, dtype=torch.int64),
        torch.tensor(index, dtype=torch.int64),
        torch.tensor(value, dtype=torch.float64).view(shape),
    )


def read(memory: PrivateMemory, users: list[int]) -> Tables:
    """What the memory holds; users without state start with row 7."""

    def initial() -> State:
        return State(ragged={"own": rows_of({user: {7: [float(user), 0.5]} for user in users})})

    rows = memory.read(torch.tensor(users), ["own"], initial).ragged["own"]
    found: Tables = {user: {} for user in users}
    for owner, index, value in zip(rows.owner.tolist(), rows.index.tolist(), rows.value.tolist(), strict=True):
        found[users[owner]][index] = value
    return found


def write(memory: PrivateMemory, tables: Tables) -> None:
    read(memory, list(tables))
    memory.write(torch.tensor(list(tables)), State(ragged={"own": rows_of(tables)}))


def drawn(users: list[int], generator: torch.Generator) -> Tables:
    """A random table of up to five rows for each user."""
    tables: Tables = {}
    for user in users:
        size = int(torch.randint(6, (1,), generator=generator))
        index = torch.randperm(50, generator=generator)[:size].tolist()
        tables[user] = {row: torch.randn(2, dtype=torch.float64, generator=generator).tolist() for row in index}
    return tables


def test_ragged_state_is_what_was_written_last_whatever_was_done_meanwhile() -> None:
    """Against a plain dictionary, over 60 transactions of which some are asked again and some fail."""
    generator, memory = torch.Generator().manual_seed(3), PrivateMemory(20)
    truth: Tables = {}
    before: Tables = {}
    saved: tuple[Mapping[str, Tensor], Tables] | None = None
    for number in range(1, 61):
        again, fails = number % 5 == 0, number % 7 == 0
        moment = (number - again, 0)
        truth = dict(before) if again else truth
        before = dict(truth)
        order = torch.randperm(20, generator=generator)[: 20 if number % 3 else 6].tolist()
        chunks = [drawn(sorted(order[:4]), generator), drawn(sorted(order[4:]), generator)]
        try:
            with memory.transaction(moment):
                for tables in chunks:
                    write(memory, tables)
                    truth |= tables
                if fails:
                    raise ArithmeticError
        except ArithmeticError:
            truth = dict(before)
        fresh = {user: {7: [float(user), 0.5]} for user in range(20)}
        assert read(memory, list(range(20))) == fresh | truth
        if number == 30:
            saved = {name: tensor.clone() for name, tensor in memory.tensors().items()}, dict(truth)
    assert saved is not None
    memory.restore(saved[0])
    assert read(memory, list(range(20))) == fresh | saved[1]
    assert memory.committed == (29, 0)  # the thirtieth was the twenty-ninth again


def test_rounds_of_everyone_need_the_room_of_two() -> None:
    """Forty writes of the same size, in four chunks each, fill two halves in turn."""
    memory, rows = PrivateMemory(8), rows_of({user: {1: [0.0, 0.0], 2: [1.0, 1.0]} for user in range(2)})
    for number in range(1, 41):
        with memory.transaction((number, 0)):
            for first in range(0, 8, 2):
                users = torch.tensor([first, first + 1])
                memory.read(users, ["own"], lambda: State(ragged={"own": rows}))
                memory.write(users, State(ragged={"own": Rows(rows.owner, rows.index, rows.value + number)}))
    table = memory._ragged["own"]
    assert isinstance(table, _RaggedTable)
    assert 16 * 2 <= len(table.index) <= 16 * 3
    assert read(memory, [5]) == {5: {1: [40.0, 40.0], 2: [41.0, 41.0]}}


def test_state_that_does_not_fit_is_refused() -> None:
    memory = PrivateMemory(3)
    write(memory, {0: {1: [1.0, 2.0]}, 1: {}})
    wider = Rows(torch.tensor([0]), torch.tensor([0]), torch.zeros(1, 3))
    with pytest.raises(DataError, match="'own' is ragged of width 2 and the query asks for ragged of width 3"):
        memory.read(torch.tensor([2]), ["own"], lambda: State(ragged={"own": wider}))
    with pytest.raises(DataError, match="ragged of width 2 and the query asks for dense of width 2"):
        memory.read(torch.tensor([2]), ["own"], lambda: State({"own": torch.zeros(1, 2)}))
    for owner, index in (([0, 0], [4, 4]), ([0, 0], [4, 3]), ([1, 0], [3, 4])):
        rows = Rows(torch.tensor(owner), torch.tensor(index), torch.zeros(2, 2))
        with pytest.raises(DataError, match="unique and sorted"):
            memory.write(torch.tensor([0, 1]), State(ragged={"own": rows}))


def test_taking_users_renumbers_their_rows() -> None:
    rows = Rows(torch.tensor([0, 2, 2, 3]), torch.tensor([5, 1, 2, 0]), torch.arange(8.0).view(4, 2))
    taken = State({"user": torch.arange(4.0).view(4, 1)}, {"own": rows}).take(torch.tensor([1, 2]))
    assert taken.dense["user"].tolist() == [[1.0], [2.0]]
    assert taken.ragged["own"].owner.tolist() == [1, 1]
    assert taken.ragged["own"].index.tolist() == [1, 2]
    assert taken.ragged["own"].value.tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert not len(rows.take(torch.tensor([], dtype=torch.int64)).owner)


@dataclass(frozen=True, eq=False)
class Visits(Query):
    """Count, by users who keep a tally for each of their items; user 5 answers a number that is none."""

    kind = "visits"
    private = ("tally",)
    broken: bool = False

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        return {"count": (25, 1)}

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        return State(ragged={"tally": Rows(cohort.owner, cohort.items, torch.zeros(len(cohort.items), 1))})

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        tally = state.ragged["tally"]
        counts, _ = Count(25).contribute(cohort, state, draw)
        rows = counts["count"]
        assert isinstance(rows, Rows)
        bad = cohort.keys[rows.owner] == torch.tensor(self.broken) * 5
        value = rows.value.masked_fill(bad.unsqueeze(1), torch.nan)
        return {"count": Rows(rows.owner, rows.index, value)}, State(
            ragged={"tally": Rows(tally.owner, tally.index, tally.value + 1)}
        )


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 30])
def test_an_engine_keeps_ragged_state_of_those_whose_answer_counts(devices: Devices, chunk_bytes: int) -> None:
    numbered = Devices(torch.arange(40), devices.indptr, devices.items, devices.n_items)
    engine = LocalEngine(numbered, Streams(0), ParticipationConfig(rate=0.5), chunk_bytes=chunk_bytes)
    asked = torch.zeros(40)
    for number in (1, 2, 3):
        asked[engine._participants(Visits(), number).on_time] += 1
        engine.sum(Visits(), round=number)
        engine.sum(Visits(), round=number)  # asked again, nothing is stepped twice
    _, state = engine.look(torch.arange(40), Visits())
    tally = state.ragged["tally"]
    assert torch.equal(tally.index, numbered.items)
    assert torch.equal(tally.value[:, 0], asked[tally.owner])
    everyone = LocalEngine(numbered, Streams(0), chunk_bytes=chunk_bytes)
    totals = everyone.sum(Visits(broken=True), round=1)
    assert totals.answered == 39
    _, state = everyone.look(torch.arange(40), Visits())
    tally = state.ragged["tally"]
    assert set(tally.owner[tally.value[:, 0] == 0].tolist()) == {5}
