"""The fast engine against the slow one: sums, counts, costs and memories, whatever the federation is like."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError
from fedrec.federated import (
    Devices,
    EngineConfig,
    FederatedRecommender,
    HeldOutItems,
    LocalEngine,
    ParticipationConfig,
    Query,
    ReferenceEngine,
    State,
)
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig
from fedrec.federated.queries import Count, Evaluate, Gram, Subspace
from fedrec.privacy import Clip
from fedrec.recommenders import Training
from fedrec.recommenders.trainer import Stopping
from fedrec.streams import Streams
from tests.federated.test_engine import training_query
from tests.federated.test_memory import Visits

PARTICIPATIONS = {
    "everyone": ParticipationConfig(),
    "poisson": ParticipationConfig(rate=0.6, dropout=0.2, straggler=0.3),
    "fixed, folded late": ParticipationConfig(sampling="fixed", rate=0.45, straggler=0.4, delay=2, late="fold"),
}


def silos(devices: Devices) -> dict[str, Tensor | None]:
    drawn = torch.randint(5, (len(devices),), generator=torch.Generator().manual_seed(2))
    return {"users": None, "silos": torch.unique(drawn, return_inverse=True)[1]}


def queries(devices: Devices) -> dict[str, Query]:
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(25, dtype=torch.float64, generator=generator)
    method = EgoLightGCN(EgoLightGCNConfig(dim=4))
    state = {"items": torch.randn(25, 4, dtype=torch.float64, generator=generator)}
    evaluate = Evaluate.of(method, state, "valid", ["ndcg@5"], 0, everyone=False)
    return {
        "count": Count(25),
        "local-training": training_query(),
        "gram": Gram(weight),
        "subspace": Subspace(weight, torch.randn(25, 3, dtype=torch.float64, generator=generator)),
        "ragged": Visits(),
        "evaluate": replace(evaluate, groups={"third": 3}),
    }


def dealt(devices: Devices, train: Interactions, silo: Tensor | None) -> Devices:
    """With every user's items held out too, shifted by one, in groups of a third."""
    held_out = HeldOutItems.of(replace(train, item=(train.item + 1) % 25), groups={"third": torch.arange(40) % 4 - 1})
    return Devices.of(train, silo=silo, held_out={"valid": held_out})


def assert_same_state(one: State, other: State) -> None:
    assert set(one.dense) == set(other.dense)
    assert set(one.ragged) == set(other.ragged)
    for name in one.dense:
        torch.testing.assert_close(one.dense[name], other.dense[name], rtol=0, atol=1e-12)
    for name, rows in one.ragged.items():
        for part in ("owner", "index", "value"):
            torch.testing.assert_close(getattr(rows, part), getattr(other.ragged[name], part), rtol=0, atol=1e-12)


@pytest.mark.parametrize("clip", [None, 0.4])
@pytest.mark.parametrize("population", ["users", "silos"])
@pytest.mark.parametrize("participation", list(PARTICIPATIONS))
def test_both_engines_agree(
    devices: Devices, train: Interactions, participation: str, population: str, clip: float | None
) -> None:
    population_of = dealt(devices, train, silos(devices)[population])
    config = PARTICIPATIONS[participation]
    fast = LocalEngine(population_of, Streams(0), config, chunk_bytes=1 << 12)
    slow = ReferenceEngine(population_of, Streams(0), config)
    assert fast.expected == pytest.approx(slow.expected)
    asked = queries(population_of)
    late, rounds = 0, range(1, 3 + (config.late == "fold"))
    for round, (phase, (name, query)) in itertools.product(rounds, enumerate(asked.items())):
        bound = None if clip is None else Clip(clip)
        one, other = (engine.sum(query, round=round, phase=phase, clip=bound) for engine in (fast, slow))
        for table in query.tables:
            torch.testing.assert_close(one.sums[table], other.sums[table], rtol=0, atol=1e-10, msg=f"{name}, {table}")
        counts = [replace(totals, sums={}) for totals in (one, other)]
        assert vars(counts[0]) == vars(counts[1]), name
        late += one.late
        everyone = torch.arange(40)
        assert_same_state(fast.look(everyone, query)[1], slow.look(everyone, query)[1])
    assert (late > 0) == (config.late == "fold")


@pytest.mark.parametrize("population", ["users", "silos"])
def test_both_engines_give_the_same_single_answers(devices: Devices, train: Interactions, population: str) -> None:
    population_of = dealt(devices, train, silos(devices)[population])
    config = PARTICIPATIONS["poisson"]
    fast, slow = LocalEngine(population_of, Streams(0), config), ReferenceEngine(population_of, Streams(0), config)
    for phase, query in enumerate(queries(population_of).values()):
        found: list[list[tuple[int, Mapping[str, Tensor]]]] = []
        for engine in (fast, slow):
            found.append([])
            for answer in engine.answers(query, round=1, phase=phase, clip=Clip(0.4)):
                tables = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in query.tables.items()}
                for name, part in answer.contributions.items():
                    part.add_to(tables[name], None)
                found[-1].append((answer.user, tables))
        for (user, one), (same, other) in zip(*found, strict=True):
            assert user == same
            for name, table in one.items():
                assert table.norm() <= 0.4 * (1 + 1e-12)
                torch.testing.assert_close(table, other[name], rtol=0, atol=1e-10)
        assert_same_state(*(engine.look(torch.arange(40), query)[1] for engine in (fast, slow)))


def test_the_reference_replays_and_is_restored(devices: Devices) -> None:
    config = ParticipationConfig(rate=0.7, straggler=0.4, late="fold")
    engine, query = ReferenceEngine(devices, Streams(0), config), training_query()
    engine.sum(query, round=1)
    saved = engine.tensors()
    second = engine.sum(query, round=2)
    assert second.late > 0
    assert torch.equal(engine.sum(query, round=2).sums["items"], second.sums["items"])
    other = ReferenceEngine(devices, Streams(0), config)
    other.restore(saved)
    assert torch.equal(other.sum(query, round=2).sums["items"], second.sums["items"])
    assert torch.equal(
        other.look(torch.arange(40), query)[1].dense["user"], engine.look(torch.arange(40), query)[1].dense["user"]
    )
    with pytest.raises(ConfigError, match="round 1, phase 0 was asked for after"):
        engine.sum(query, round=1)


def test_an_experiment_can_run_on_the_reference(train: Interactions) -> None:
    scores = []
    for kind in ("local", "reference"):
        method = EgoLightGCN(EgoLightGCNConfig(dim=4, rounds=3, stopping=Stopping(every=1, patience=0)))
        engine = EngineConfig.model_validate({"kind": kind, "precision": "float64"})
        recommender = FederatedRecommender(method, participation=PARTICIPATIONS["poisson"], engine=engine)
        recommender.fit(train, Training(device="cpu"))
        scores.append(recommender.score(torch.arange(40)))
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-9)
