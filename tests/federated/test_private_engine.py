"""Privacy attaches to the sum: clipped, noised on every entry, planned and accounted for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fedrec.errors import PrivacyError
from fedrec.federated import (
    Ask,
    Cohort,
    Contribution,
    Devices,
    LocalEngine,
    ParticipationConfig,
    PrivateEngine,
    Query,
    Rows,
    State,
)
from fedrec.federated.queries import Count, Gram, LocalTraining
from fedrec.privacy import Clip, Gaussian, PlannedRelease, Schedule, SeededNoise, SystemNoise
from fedrec.streams import Streams

PLAN = (
    PlannedRelease(query="count", draws=3, clip=1.5, share=0.25),
    PlannedRelease(query="gram", draws=3, clip=1.0, share=0.75),
)


def private(devices: Devices, seed: int = 0, rate: float = 1.0, sigma: float = 2.0) -> PrivateEngine:
    schedule = Schedule(PLAN, rate=rate)
    local = LocalEngine(devices, Streams(seed), ParticipationConfig(rate=rate))
    return PrivateEngine(local, schedule, schedule.noise_multipliers(sigma), SeededNoise(Streams(seed)), Gaussian())


def noise_of(devices: Devices, query: Count | Gram, table: str, seeds: int) -> Tensor:
    """[seeds, rows, width] noise that was added to the first round's sum."""
    clip = Clip(PLAN[0].clip if isinstance(query, Count) else PLAN[1].clip)
    exact = LocalEngine(devices, Streams(0)).sum(query, round=1, clip=clip).sums[table]
    released = [private(devices, seed).sum(query, round=1).sums[table] for seed in range(seeds)]
    return torch.stack(released) - exact


def test_noise_is_on_every_entry_with_the_deviation_that_is_stated(devices: Devices) -> None:
    """Rows that nobody touches are noised like the others: the population has no item 0 here."""
    shifted = Devices(devices.keys, devices.indptr, devices.items + 1, 26)
    noise = noise_of(shifted, Count(26), "count", seeds=400)[:, :, 0]
    deviation = 2.0 * math.sqrt(1 / 0.25) * 1.5
    # The variance of 400 normals deviates by √(2/400) = 7%; six of these on 26 entries: 1 false alarm in 10 million.
    assert ((noise.var(dim=0) / deviation**2 - 1).abs() < 6 * math.sqrt(2 / 400)).all()
    assert (noise.mean(dim=0).abs() < 6 * deviation / math.sqrt(400)).all()


def test_gram_noise_is_symmetrised(devices: Devices) -> None:
    noise = noise_of(devices, Gram(torch.ones(25, dtype=torch.float64)), "gram", seeds=60)
    assert torch.equal(noise, noise.transpose(1, 2)) or (noise - noise.transpose(1, 2)).abs().max() < 1e-12
    variance = 4.0 / 0.75
    on, off = torch.eye(25, dtype=torch.bool), ~torch.eye(25, dtype=torch.bool)
    # 60 × 25 diagonal and 60 × 300 other values: relative deviations 3.7% and 1.1%, six of each.
    assert abs(noise[:, on].var() / variance - 1) < 6 * math.sqrt(2 / 1500)
    assert abs(noise[:, off].var() / (variance / 2) - 1) < 6 * math.sqrt(2 / 18000)


def test_rounds_phases_and_tables_have_noise_of_their_own(devices: Devices) -> None:
    engine = private(devices)
    first, second = (engine.sum(Count(25), round=number).sums["count"] for number in (1, 2))
    assert not torch.equal(first, second)
    phased = private(devices).sum(Count(25), round=1, phase=1).sums["count"]
    assert not torch.equal(first, phased)


def test_asking_again_is_answered_from_memory_and_costs_nothing(devices: Devices) -> None:
    schedule = Schedule(PLAN)
    engine = PrivateEngine(
        LocalEngine(devices, Streams(0)), schedule, schedule.noise_multipliers(1.0), SystemNoise(), Gaussian()
    )
    first, again = (engine.sum(Count(25), round=1) for _ in range(2))
    assert torch.equal(first.sums["count"], again.sums["count"])
    assert len(engine.ledger.releases) == 1


def test_every_release_is_in_the_ledger_under_its_draw(devices: Devices) -> None:
    engine = private(devices, rate=0.5)
    for number in (1, 2):
        engine.sum(Count(25), round=number, phase=0)
        engine.sum(Gram(torch.ones(25)), round=number, phase=1)
    assert {draw: [r.query for r in releases] for draw, releases in engine.ledger.draws().items()} == {
        1: ["count", "gram"],
        2: ["count", "gram"],
    }
    assert {release.rate for release in engine.ledger.releases} == {0.5}
    assert engine.ledger.matches(engine.planned(through=2))
    assert not engine.ledger.matches(engine.planned())


def test_what_was_not_planned_is_refused(devices: Devices) -> None:
    engine = private(devices)
    with pytest.raises(PrivacyError, match="draw 4 was not planned"):
        engine.sum(Count(25), round=4)
    engine.sum(Count(25), round=1)
    with pytest.raises(PrivacyError, match="all 1 that were planned have been made"):
        engine.sum(Count(25), round=1, phase=1)
    with pytest.raises(PrivacyError, match="the schedule sets the clip"):
        engine.sum(Count(25), round=2, clip=Clip(100.0))
    with pytest.raises(PrivacyError, match="promises noised sums only"):
        engine.answers(Count(25), round=2)


def test_a_schedule_of_another_sampling_rate_is_refused(devices: Devices) -> None:
    schedule = Schedule(PLAN, rate=0.01)
    with pytest.raises(
        PrivacyError, match=r"accounted at poisson sampling of rate 0\.01 and the engine samples .* at 1"
    ):
        PrivateEngine(
            LocalEngine(devices, Streams(0)), schedule, schedule.noise_multipliers(1.0), SystemNoise(), Gaussian()
        )


def test_another_query_at_the_same_moment_is_not_answered_with_the_first(devices: Devices) -> None:
    engine = private(devices)
    engine.sum(Count(25), round=1)
    assert set(engine.sum(Gram(torch.ones(25)), round=1).sums) == {"gram"}


def test_clipped_sums_are_exact_and_releases_have_the_querys_precision(devices: Devices) -> None:
    query = Gram(torch.ones(25))
    assert LocalEngine(devices, Streams(0)).sum(query, round=1, clip=Clip(1.0)).sums["gram"].dtype == torch.float64
    assert private(devices).sum(query, round=1).sums["gram"].dtype == torch.float32


@dataclass(frozen=True, eq=False)
class Lopsided(Query):
    """Says that its table is symmetric, and answers with what is not."""

    kind = "gram"
    symmetric = frozenset({"gram"})

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        return {"gram": (2, 2)}

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        owner = torch.arange(len(cohort))
        return {"gram": Rows(owner, torch.zeros_like(owner), torch.tensor([[0.0, 1.0]]).expand(len(cohort), 2))}, state


def test_what_differs_across_the_diagonal_of_a_symmetric_table_is_not_released(devices: Devices) -> None:
    released = private(devices).sum(Lopsided(), round=1).sums["gram"]
    assert torch.equal(released, released.T)


def test_under_noise_a_method_sees_no_exact_number(devices: Devices) -> None:
    seen = Ask(private(devices), 1)(Count(25))
    assert (seen.answered, seen.clipped, seen.bytes_up, dict(seen.refused)) == (0, 0, 0, {})


def test_a_user_with_the_whole_catalogue_changes_no_release_beyond_noise(devices: Devices) -> None:
    """It has no negative to learn from; an error about it would be a release without noise."""
    everything = torch.arange(25)
    keys, items = torch.cat([devices.keys, torch.tensor([123])]), torch.cat([devices.items, everything])
    more = Devices(keys, torch.cat([devices.indptr, devices.indptr[-1:] + 25]), items, 25)
    query = LocalTraining(torch.randn(25, 4, dtype=torch.float64), "bce", 1, 0.3, 0.7, 3, 0.5, 0.5)
    without, with_it = (LocalEngine(some, Streams(0)).sum(query, round=1) for some in (devices, more))
    torch.testing.assert_close(without.sums["items"], with_it.sums["items"])
    assert (without.answered, with_it.answered) == (40, 41)


def test_sums_are_divided_by_the_expected_number(devices: Devices) -> None:
    assert private(devices, rate=0.25).expected == 10.0
    assert private(devices, rate=0.25).sum(Count(25), round=1).noised
