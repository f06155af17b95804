"""FlowerEngine: how users are dealt to nodes changes nothing, and what nodes remember follows the server."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedrec.errors import ConfigError, PrivacyError, RunError
from fedrec.federated import Devices, LocalEngine, ParticipationConfig, PrivateEngine
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig, Popularity, PopularityConfig
from fedrec.federated.queries import Count, Gram
from fedrec.flower import Node, Post, greet
from fedrec.flower.adding import CompensatedSum
from fedrec.flower.records import Part
from fedrec.flower.requests import Request, refused, request_to_record
from fedrec.flower.stores import FolderStore
from fedrec.privacy import Clip, Gaussian, PlannedRelease, Schedule, SeededNoise
from fedrec.streams import Streams
from tests.flower.nodes import SOMETIMES, dealt, engine_on, grid_of, trained

METHOD = EgoLightGCN(EgoLightGCNConfig(dim=4))
CLIP = Clip(1.0)


@pytest.mark.parametrize("nodes", [1, 3, 40])
def test_how_users_are_dealt_to_nodes_changes_nothing(devices: Devices, nodes: int) -> None:
    local = LocalEngine(devices, Streams(3), SOMETIMES)
    remote = engine_on(grid_of(devices, dealt(devices, nodes)), participation=SOMETIMES)
    assert remote.expected == pytest.approx(local.expected)
    expected, found = (trained(METHOD, engine, range(1, 5))["items"] for engine in (local, remote))
    assert (expected - found).abs().max() < 1e-12
    query = METHOD.memory({"items": expected})
    one, other = (engine.sum(query, round=5, clip=Clip(0.01)) for engine in (local, remote))
    assert (one.answered, one.clipped, one.refused) == (other.answered, other.clipped, other.refused)
    assert one.clipped > 0
    assert (one.sums["items"] - other.sums["items"]).abs().max() < 1e-15
    assert other.nodes == nodes
    assert not other.failed
    assert other.bytes_up > 0
    assert other.bytes_down == pytest.approx(nodes * (25 * 4 * 8 + 128))


def test_it_makes_no_difference_who_comes_first(devices: Devices) -> None:
    """Bit by bit. Plain sums of these numbers differ in their last digits."""
    found = []
    for backwards in (False, True):
        grid = grid_of(devices, dealt(devices, 40))
        grid.backwards = backwards
        found.append(trained(METHOD, engine_on(grid), range(1, 4))["items"])
    assert torch.equal(*found)


def test_a_compensated_sum_is_that_of_the_exact_numbers() -> None:
    numbers = [1e16, 1.0, -1e16, 3.0, 1e-3]
    for order in (numbers, numbers[::-1], sorted(numbers)):
        total = CompensatedSum((2, 1))
        for number in order:
            total.add(Part(torch.tensor([[number], [number]], dtype=torch.float64)))
            total.add(Part(torch.tensor([[number]], dtype=torch.float64), torch.tensor([1])))
        assert total.total().flatten().tolist() == pytest.approx([4.001, 8.002], rel=1e-15)


def test_a_sparse_sum_is_the_dense_one(devices: Devices) -> None:
    query = Gram(torch.ones(25, dtype=torch.float64), without_zeros=True)
    engine = engine_on(grid_of(devices, dealt(devices, 7)))
    found = engine.sum(query, round=1).sums["gram"]
    assert found.is_sparse
    expected = LocalEngine(devices, Streams(3)).sum(query, round=1).sums["gram"]
    assert (found.to_dense() - expected.to_dense()).abs().max() < 1e-12


def test_a_query_asked_again_steps_nothing_twice(devices: Devices) -> None:
    engine, local = engine_on(grid_of(devices, dealt(devices, 3))), LocalEngine(devices, Streams(3))
    state = trained(METHOD, engine, [1])
    query = METHOD.memory(state)
    first, second = (engine.sum(query, round=2).sums["items"] for _ in range(2))
    assert torch.equal(first, second)
    third = engine.sum(query, round=3).sums["items"]
    trained(METHOD, local, [1])
    local.sum(query, round=2)
    assert (local.sum(query, round=3).sums["items"] - third).abs().max() < 1e-13


@pytest.mark.parametrize("on_disk", [False, True])
def test_nodes_are_rolled_back_to_a_checkpoint(devices: Devices, tmp_path: Path, on_disk: bool) -> None:
    """By the same server, and by one that was started anew and knows the checkpoint alone."""
    grid = grid_of(devices, dealt(devices, 3), state=tmp_path if on_disk else None)
    engine = engine_on(grid)
    early = trained(METHOD, engine, [1, 2])
    best = engine.tensors()
    state = trained(METHOD, engine, [3], early)
    saved = engine.tensors()
    expected = trained(METHOD, engine, [4, 5, 6], state)
    again = engine_on(grid)
    for server in (engine, again):
        server.restore(saved)
        assert torch.equal(trained(METHOD, server, [4, 5, 6], state)["items"], expected["items"])
    again.restore(best)
    assert torch.equal(trained(METHOD, again, range(3, 7), early)["items"], expected["items"])
    with pytest.raises(ConfigError, match="round 2, phase 0 was asked for after round 6"):
        again.sum(METHOD.memory(state), round=2)


def test_a_node_that_was_away_goes_on_from_what_it_has(devices: Devices) -> None:
    """As users do who took no part in a round."""
    grid = grid_of(devices, dealt(devices, 3))
    engine = engine_on(grid, timeout=0.2)
    state = trained(METHOD, engine, [1])
    query = METHOD.memory(state)
    local = LocalEngine(devices, Streams(3))
    trained(METHOD, local, [1])
    here = [user for part in (0, 2) for user in dealt(devices, 3)[part]]
    there = LocalEngine(devices.take(torch.tensor(here)), Streams(3))
    trained(METHOD, there, [1])
    grid.away.add(2)
    lost = engine.sum(query, round=2)
    assert (lost.sums["items"] - there.sum(query, round=2).sums["items"]).abs().max() < 1e-13
    assert sum(lost.failed.values()) == 1
    grid.away.clear()
    back = engine.sum(query, round=3).sums["items"] - there.sum(query, round=3).sums["items"]
    absent = LocalEngine(devices.take(torch.tensor(dealt(devices, 3)[1])), Streams(3))
    trained(METHOD, absent, [1])
    assert (back - absent.sum(query, round=3).sums["items"]).abs().max() < 1e-13


def test_an_old_query_is_refused_by_a_node(devices: Devices, tmp_path: Path) -> None:
    node = Node(lambda: pytest.fail("nobody's data are looked at"), FolderStore(tmp_path))
    engine_on(grid_of(devices, [list(range(40))], state=tmp_path.parent)).sum(Count(25), round=1)
    grid = grid_of(devices, [list(range(40))], state=tmp_path)
    engine = engine_on(grid)
    engine.sum(Count(25), round=4)
    record = request_to_record(Count(25), engine.request((5, 0), None))
    old = Request(**{**engine.request((6, 0), None).__dict__, "round": 3, "base_round": 2, "keep": ""})
    node = Node(node._holding, FolderStore(tmp_path / "1"))
    assert "an old query: round 3, phase 0" in str(refused(node.answer(request_to_record(Count(25), old))))
    earlier = Request(**{**engine.request((7, 0), None).__dict__, "attempt": engine._attempt - 1})
    assert "an old query" in str(refused(node.answer(request_to_record(Count(25), earlier))))
    assert "request" in record


def test_a_release_that_was_shown_is_not_noised_anew(devices: Devices) -> None:
    """A server that was killed and lost its journal is answered again where a seed repeats the noise, else not."""
    for randomness, phases, again in (("os", 2, False), ("os", 1, True), ("seeded", 2, True)):
        grid = grid_of(devices, dealt(devices, 2))
        killed = engine_on(grid, randomness=randomness)
        saved = killed.tensors()
        for phase in range(phases):
            killed.sum(Count(25), round=1, phase=phase, clip=CLIP)
        resumed = engine_on(grid, randomness=randomness)
        resumed.restore(saved)
        if again:
            assert resumed.sum(Count(25), round=1, clip=CLIP).answered == 40
        else:
            with pytest.raises(RunError, match=r"none of 2 nodes answered \(refused: round 1, phase 0 was released"):
                resumed.sum(Count(25), round=1, clip=CLIP)
            assert resumed.sum(Count(25), round=1).answered == 40  # exact sums of a test are no releases


def test_a_damaged_store_and_a_full_disk_are_said(devices: Devices, tmp_path: Path) -> None:
    grid = grid_of(devices, dealt(devices, 2), state=tmp_path)
    engine = engine_on(grid)
    engine.sum(Count(25), round=1)
    (tmp_path / "1" / "test.state.safetensors").write_bytes(b"nothing")
    totals = engine.sum(Count(25), round=2)
    assert totals.answered == 20
    assert any("damaged" in reason for reason in totals.failed)


def test_a_folder_holds_several_runs_at_a_time_and_forgets_old_ones(
    devices: Devices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs take turns on the same nodes, and each finds its users as it left them."""
    monkeypatch.setattr("fedrec.flower.stores.RUNS", 2)
    grid, alone = grid_of(devices, dealt(devices, 2), state=tmp_path), LocalEngine(devices, Streams(3))
    one, other = (engine_on(grid, session=f"{run}.arm.3") for run in ("one", "other"))
    state = trained(METHOD, alone, [1])
    for engine in (one, other):
        trained(METHOD, engine, [1])
    query = METHOD.memory(state)
    expected = [alone.sum(query, round=round).sums["items"] for round in (2, 3)]
    for round, wanted in zip((2, 3), expected, strict=True):
        for engine in (one, other):
            assert (engine.sum(query, round=round).sums["items"] - wanted).abs().max() < 1e-12
    engine_on(grid, session="later.arm.3").sum(Count(25), round=1)
    assert {path.name.partition(".")[0] for path in (tmp_path / "1").iterdir()} == {"other", "later"}


def test_noise_goes_on_a_clipped_sum_of_nodes(devices: Devices) -> None:
    schedule = Schedule((PlannedRelease(query="count", draws=2, clip=1.5),), rate=1.0)
    sigma = schedule.noise_multipliers(2.0)
    engines = (LocalEngine(devices, Streams(3)), engine_on(grid_of(devices, dealt(devices, 3))))
    one, other = (PrivateEngine(engine, schedule, sigma, SeededNoise(Streams(3)), Gaussian()) for engine in engines)
    for round in (1, 2):
        released = [engine.sum(Count(25), round=round).sums["count"] for engine in (one, other)]
        assert (released[0] - released[1]).abs().max() < 1e-12
    assert one.ledger.matches(other.ledger)


def test_a_guarantee_about_users_is_refused_where_silos_answer(devices: Devices) -> None:
    schedule = Schedule((PlannedRelease(query="count", draws=1, clip=1.0),), rate=1.0)
    engine = engine_on(grid_of(devices, dealt(devices, 3)), silos=True)
    with pytest.raises(PrivacyError, match="a silo's answer is clipped as one"):
        PrivateEngine(engine, schedule, {"count": 1.0}, SeededNoise(Streams(3)), Gaussian())


def test_secret_samples_are_each_nodes_own(devices: Devices) -> None:
    """Poisson participants that the seed does not tell; the same ones throughout a round."""
    half = ParticipationConfig(rate=0.5)
    engine = engine_on(grid_of(devices, dealt(devices, 4)), participation=half, randomness="os")
    answered = []
    for round in range(1, 9):
        one, other = (engine.sum(Count(25), round=round, phase=phase).answered for phase in (0, 1))
        assert one == other
        answered.append(one)
    expected = [LocalEngine(devices, Streams(3), half).sum(Count(25), round=r).answered for r in range(1, 9)]
    assert answered != expected  # of 8 rounds with 12% of one number each: 1 false alarm in 20 million


def test_what_nodes_cannot_do_is_refused(devices: Devices) -> None:
    grid = grid_of(devices, dealt(devices, 2))
    with pytest.raises(
        ConfigError, match=r"sampling = 'fixed': nodes draw their participants alone.*set 'poisson' or 'cyclic'"
    ):
        engine_on(grid, participation=ParticipationConfig(sampling="fixed", rate=0.5))
    with pytest.raises(ConfigError, match=r"asks for single answers.*engine\.kind = 'local'"):
        engine_on(grid).answers(Count(25), round=1)


def test_nodes_are_waited_for_and_must_share_a_catalogue(devices: Devices) -> None:
    grid = grid_of(devices, dealt(devices, 2))
    with pytest.raises(RunError, match=r"2 of 3 nodes are connected after 0\.01 s"):
        greet(Post(grid), 3, patience=0.01)
    roll = greet(Post(grid), 1, patience=0.01)
    assert (len(roll.nodes), roll.n_users, roll.n_items, roll.parts) == (2, 40, 25, frozenset())


def test_if_no_node_is_left_the_run_stops_with_a_line(devices: Devices) -> None:
    grid = grid_of(devices, dealt(devices, 2))
    engine = engine_on(grid)
    grid.away |= {1, 2}
    with pytest.raises(
        RunError, match=r"round 1, query 'count': none of 2 nodes answered \(lost: ConnectionError: node 1 is away"
    ):
        engine.sum(Count(25), round=1)


def test_popularity_on_nodes_is_popularity(devices: Devices) -> None:
    method = Popularity(PopularityConfig())
    found = trained(method, engine_on(grid_of(devices, dealt(devices, 5))), [1])
    assert torch.equal(found["count"].flatten().long(), torch.bincount(devices.items, minlength=25))
