"""Sums of what devices send instead of their answers: equal to plain ones, noised as stated, opened only when safe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fedrec.errors import PrivacyError
from fedrec.federated import (
    Cohort,
    Contribution,
    Devices,
    LocalEngine,
    ParticipationConfig,
    PrivateEngine,
    Query,
    ReferenceEngine,
    Rows,
    State,
    secure_words,
)
from fedrec.federated.device_sums import DistributedNoise, LocalNoise, MaskedSums
from fedrec.federated.private_sums import PrivateSums
from fedrec.federated.queries import Count, Gram
from fedrec.privacy import (
    AdaptiveClipConfig,
    Clip,
    Gaussian,
    NoiseSource,
    PlannedRelease,
    Schedule,
    SeededNoise,
    Unit,
    bit_of,
)
from fedrec.privacy.fixed_point import FixedPoint
from fedrec.privacy.secure_round import Traffic, sparse_enough
from fedrec.privacy.secure_sum import Session
from fedrec.streams import Streams
from tests.federated.conftest import interactions

SIGMA = 1.5
PLAN = Schedule(
    (
        PlannedRelease(query="count", draws=1, clip=1.2, share=0.5),
        PlannedRelease(query="gram", draws=1, clip=0.9, share=0.5),
    )
)
GRAM = Gram(torch.linspace(0.5, 1.0, 25, dtype=torch.float64))


@dataclass(frozen=True)
class Silent:
    """No noise, so that a test can see the sum that it would be added to."""

    name: str = "none"

    def noise(
        self, shape: Sequence[int], sigma: float, clip: float, *, symmetric: bool, source: NoiseSource, purpose: str
    ) -> Tensor:
        return torch.zeros(tuple(shape), dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Spoilt(Query):
    """A count to which some users answer nonsense."""

    culprits: Tensor
    kind = "count"

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        return {"count": (25, 1)}

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        value = torch.ones(len(cohort.items), 1, dtype=torch.float64)
        value[torch.isin(cohort.keys, self.culprits)[cohort.owner]] = math.nan
        return {"count": Rows(cohort.owner, cohort.items, value)}, state


def source(seed: int = 0) -> SeededNoise:
    return SeededNoise(Streams(seed))


def private(devices: Devices, sums: PrivateSums, rate: float = 1.0, plan: Schedule = PLAN) -> PrivateEngine:
    local = LocalEngine(devices, Streams(0), ParticipationConfig(rate=rate), chunk_bytes=1 << 30)
    return PrivateEngine(local, plan, plan.noise_multipliers(SIGMA), source(), Gaussian(), sums=sums)


def exact(devices: Devices, query: Query, clip: float) -> Tensor:
    (total,) = LocalEngine(devices, Streams(0)).sum(query, round=1, clip=Clip(clip)).sums.values()
    return total


@pytest.mark.parametrize("query", [Count(25), GRAM], ids=lambda query: query.kind)
@pytest.mark.parametrize("executed", [True, False], ids=["masks", "words"])
def test_a_secure_sum_is_the_plain_sum_to_the_stated_resolution(devices: Devices, query: Query, executed: bool) -> None:
    clip = {"count": 1.2, "gram": 0.9}[query.kind]
    engine = private(devices, MaskedSums(Silent(), source(), 40, answering=0.8, executed=executed))
    released = engine.sum(query, round=1).sums[query.kind]
    error = (released - exact(devices, query, clip)).abs().max()
    assert 0 < error <= FixedPoint(clip, 40).largest_error


def test_clipped_answers_of_single_precision_keep_to_the_clip_and_can_be_encoded() -> None:
    devices = Devices.of(interactions([[user % 5] for user in range(10)], 5))
    query = Gram(torch.linspace(0.5, 1.0, 5))
    for clip in (0.11, 0.17, 0.23):  # rounding to single adds to one of the five answers at each
        for answer in LocalEngine(devices, Streams(0)).answers(query, round=1, clip=Clip(clip)):
            contribution = answer.contributions["gram"]
            assert float(contribution.squared_norms(1).sqrt()) <= clip * (1 + 1e-14)
        plan = Schedule((PlannedRelease(query="gram", draws=1, clip=clip),))
        private(devices, MaskedSums(Silent(), source(), 10, 0.8, executed=False), plan=plan).sum(query, round=1)


def test_masks_change_no_bit(devices: Devices) -> None:
    ways = [MaskedSums(Gaussian(), source(), 40, 0.8, executed=executed) for executed in (True, False)]
    masked, plain = (private(devices, way).sum(GRAM, round=1).sums["gram"] for way in ways)
    assert torch.equal(masked, plain)


def test_refused_answers_are_lost_after_sharing_and_recovered(devices: Devices) -> None:
    query = Spoilt(devices.keys[:4])
    engine = private(devices, MaskedSums(Silent(), source(), 40, answering=0.9))
    honest = exact(devices.take(torch.arange(4, 40)), Count(25), 1.2)
    totals = engine.sum(query, round=1)
    torch.testing.assert_close(totals.sums["count"], honest, rtol=0, atol=FixedPoint(1.2, 40).largest_error)
    assert (totals.answered, totals.refused) == (36, {"a value that is not finite": 4})


@pytest.mark.parametrize("way", ["secagg", "distributed"])
def test_a_sum_of_too_few_is_not_opened(devices: Devices, way: str) -> None:
    sums = MaskedSums(Silent(), source(), 40, 0.9) if way == "secagg" else DistributedNoise(source(), 40, 0.9)
    engine = private(devices, sums)
    with pytest.raises(PrivacyError, match=r"35 of 40 clients answered.*opened for 36 or more.*ask again"):
        engine.sum(Spoilt(devices.keys[:5]), round=1)
    assert not engine.ledger.releases


def test_secagg_noise_covers_the_clip_and_what_rounding_adds(devices: Devices) -> None:
    asked: list[float] = []

    class Noted(Silent):
        def noise(
            self, shape: Sequence[int], sigma: float, clip: float, *, symmetric: bool, source: NoiseSource, purpose: str
        ) -> Tensor:
            asked.append(clip)
            return torch.zeros(tuple(shape), dtype=torch.float64)

    private(devices, MaskedSums(Noted(), source(), 40, 0.8, executed=False)).sum(GRAM, round=1)
    assert asked == [FixedPoint(0.9, 40).sensitivity(625)]
    assert 0.9 < asked[0] < 0.9 * 1.0001


def variance_of(devices: Devices, query: Query, clip: float, sums: Sequence[PrivateSums]) -> Tensor:
    """[entries] mean square of what was released beyond the exact sum."""
    truth = exact(devices, query, clip)
    noise = [private(devices, way).sum(query, round=1).sums[query.kind] - truth for way in sums]
    return torch.stack(noise).square().mean(dim=0)


@pytest.mark.parametrize(("executed", "seeds"), [(True, 12), (False, 120)], ids=["devices", "sum"])
def test_distributed_noise_of_all_devices_together_is_what_is_stated(
    devices: Devices, executed: bool, seeds: int
) -> None:
    """40 answer where 36 must, on rows that users touch and on the one that nobody does."""
    shifted = Devices(devices.keys, devices.indptr, devices.items + 1, 26)
    found = variance_of(
        shifted, Count(26), 1.2, [DistributedNoise(source(seed), 40, 0.9, executed) for seed in range(seeds)]
    )
    deviation = SIGMA * math.sqrt(2) * 1.2 * math.sqrt(40 / 36)
    # Mean squares of `seeds` normals deviate by √(2/seeds); six of these on 26 entries: 1 false alarm in 10 million.
    assert ((found / deviation**2 - 1).abs() < 6 * math.sqrt(2 / seeds)).all()
    assert abs(float(found.mean()) / deviation**2 - 1) < 6 * math.sqrt(2 / seeds / 26)


def test_the_least_number_of_devices_has_the_stated_noise(devices: Devices) -> None:
    """Four of forty are lost after sharing, and take their noise with them: what is left is just enough."""
    query, seeds = Spoilt(devices.keys[:4]), 60
    truth = exact(devices.take(torch.arange(4, 40)), Count(25), 1.2)
    ways = [DistributedNoise(source(seed), 40, 0.9, executed=False) for seed in range(seeds)]
    noise = torch.stack([private(devices, way).sum(query, round=1).sums["count"] - truth for way in ways])
    deviation = SIGMA * math.sqrt(2) * 1.2
    assert abs(float(noise.square().mean()) / deviation**2 - 1) < 6 * math.sqrt(2 / seeds / 25)


@pytest.mark.parametrize(("executed", "seeds"), [(True, 30), (False, 120)], ids=["devices", "sum"])
def test_local_noise_is_that_of_every_answer_at_twice_the_clip(devices: Devices, executed: bool, seeds: int) -> None:
    found = variance_of(
        devices, Count(25), 1.2, [LocalNoise(Gaussian(), source(seed), executed) for seed in range(seeds)]
    )
    deviation = SIGMA * math.sqrt(2) * 2 * 1.2 * math.sqrt(40)
    assert ((found / deviation**2 - 1).abs() < 6 * math.sqrt(2 / seeds)).all()
    assert abs(float(found.mean()) / deviation**2 - 1) < 6 * math.sqrt(2 / seeds / 25)


@pytest.mark.parametrize("way", ["distributed", "local"])
def test_noise_of_devices_is_symmetrised(devices: Devices, way: str) -> None:
    sums: list[PrivateSums] = [
        DistributedNoise(source(seed), 40, 1.0, False) if way == "distributed" else LocalNoise(Gaussian(), source(seed))
        for seed in range(20)
    ]
    released = private(devices, sums[0]).sum(GRAM, round=1).sums["gram"]
    assert torch.equal(released, released.T)
    found = variance_of(devices, GRAM, 0.9, sums)
    deviation = SIGMA * math.sqrt(2) * 0.9 * (1.0 if way == "distributed" else 2 * math.sqrt(40))
    on = torch.eye(25, dtype=torch.bool)
    # 20 × 25 values on the diagonal, 20 × 300 different ones off it: six deviations each.
    assert abs(float(found[on].mean()) / deviation**2 - 1) < 6 * math.sqrt(2 / 500)
    assert abs(float(found[~on].mean()) / (deviation**2 / 2) - 1) < 6 * math.sqrt(2 / 6000)


def test_a_silo_noises_one_symmetric_answer(devices: Devices) -> None:
    """8 silos of 5 users, each clipped as one: two of its answers differ by twice the clip in Frobenius norm.

    Noise of that proportion on all 625 entries, and then the symmetric part, which is post-processing.
    """
    silo = torch.arange(40) % 8
    silos = Devices(devices.keys, devices.indptr, devices.items, 25, silo)
    plan, truth = Schedule((PlannedRelease(query="gram", draws=1, clip=0.9),)), exact(silos, GRAM, 0.9)
    engine = LocalEngine(silos, Streams(0))
    found = []
    for seed in range(20):
        sums = LocalNoise(Gaussian(), source(seed))
        one = PrivateEngine(engine, plan, {"gram": SIGMA}, source(), Gaussian(), sums=sums, unit="silo")
        released = one.sum(GRAM, round=1).sums["gram"]
        assert torch.equal(released, released.T)
        found.append((released - truth).square())
    for answer in engine.answers(GRAM, round=1, clip=Clip(0.9)):
        assert float(answer.contributions["gram"].squared_norms(1).sqrt()) <= 0.9 * (1 + 1e-12)
    mean, variance, on = torch.stack(found).mean(dim=0), (SIGMA * 2 * 0.9) ** 2 * 8, torch.eye(25, dtype=torch.bool)
    # 20 × 25 values on the diagonal, 20 × 300 different ones off it: six deviations each.
    assert abs(float(mean[on].mean()) / variance - 1) < 6 * math.sqrt(2 / 500)
    assert abs(float(mean[~on].mean()) / (variance / 2) - 1) < 6 * math.sqrt(2 / 6000)


def test_who_answers_nonsense_sends_noise_alone_and_moves_nobody_elses(devices: Devices) -> None:
    """Absent noise would tell who it was. Noise follows the user's key, not its place among those who answer."""
    with_it, without = (
        private(some, LocalNoise(Gaussian(), source())).sum(query, round=1)
        for some, query in ((devices, Spoilt(devices.keys[:1])), (devices.take(torch.arange(1, 40)), Count(25)))
    )
    assert (with_it.answered, with_it.refused) == (39, {"a value that is not finite": 1})
    noise = Gaussian().noise(
        (25, 1),
        SIGMA * math.sqrt(2),
        2 * 1.2,
        symmetric=False,
        source=source(),
        purpose=f"1/0/count/count/{int(devices.keys[0])}",
    )
    torch.testing.assert_close(with_it.sums["count"] - without.sums["count"], noise)


@pytest.mark.parametrize("silos", [False, True], ids=["users", "silos"])
def test_noise_of_devices_is_the_same_over_the_reference(devices: Devices, silos: bool) -> None:
    some = Devices(devices.keys, devices.indptr, devices.items, 25, torch.arange(40) % 8) if silos else devices
    unit: Unit = "silo" if silos else "user"
    for way in (LocalNoise(Gaussian(), source()), DistributedNoise(source(), 40, 0.9)):
        one, other = (
            PrivateEngine(
                engine(some, Streams(0)), PLAN, PLAN.noise_multipliers(SIGMA), source(), Gaussian(), sums=way, unit=unit
            ).sum(GRAM, round=1)
            for engine in (LocalEngine, ReferenceEngine)
        )
        assert (one.sums["gram"] - other.sums["gram"]).abs().max() < 1e-6
        assert one.answered == other.answered == (8 if silos else 40)


@pytest.mark.parametrize("way", ["distributed", "local"])
def test_sampling_that_the_server_sees_is_not_credited(devices: Devices, way: str) -> None:
    sums = DistributedNoise(source(), 40, 0.9) if way == "distributed" else LocalNoise(Gaussian(), source())
    plan = Schedule(PLAN.releases, rate=0.5)
    with pytest.raises(PrivacyError, match=f"trust '{way}' protects from the server.*sampling hides nobody"):
        private(devices, sums, rate=0.5, plan=plan)
    seen = private(devices, sums, rate=0.5, plan=Schedule(PLAN.releases, 0.5, "independent"))
    seen.sum(Count(25), round=1)
    assert seen.ledger.history()[0].rate == 1.0


def test_bits_of_an_adaptive_clip_go_under_the_masks(devices: Devices) -> None:
    plan = Schedule(
        (
            PlannedRelease(query="count", draws=2, clip=1.2, share=0.5, adaptive=True),
            PlannedRelease(query=bit_of("count"), draws=2, clip=0.5, share=0.5),
        )
    )
    local = LocalEngine(devices, Streams(0))
    whole = local.sum(Count(25), round=1, clip=Clip(1.2))
    ways: list[PrivateSums] = [MaskedSums(Silent(), source(), 40, 0.8), LocalNoise(Silent(), source())]
    for way in ways:
        engine = PrivateEngine(
            LocalEngine(devices, Streams(0)),
            plan,
            plan.noise_multipliers(SIGMA),
            source(),
            Silent(),
            sums=way,
            adaptive=AdaptiveClipConfig(rate=0.3),
        )
        released = engine.sum(Count(25), round=1)
        assert set(released.sums) == {"count"}
        unclipped = 1 - whole.clipped / 40
        assert engine.clips["count"] == pytest.approx(1.2 * math.exp(-0.3 * (unclipped - 0.5)))


def test_what_a_simulation_cannot_run_is_refused(devices: Devices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure_words, "MOST_WORDS", 1e3)
    for way in (
        MaskedSums(Gaussian(), source(), 40, 0.8),
        DistributedNoise(source(), 40, 0.9),
        LocalNoise(Gaussian(), source()),
    ):
        with pytest.raises(PrivacyError, match=r"set privacy\.executed = false"):
            private(devices, way).sum(GRAM, round=1)
    private(devices, MaskedSums(Gaussian(), source(), 40, 0.8, executed=False)).sum(GRAM, round=1)


def test_coarse_fixed_point_is_refused(devices: Devices) -> None:
    with pytest.raises(PrivacyError, match="may add more than a hundredth to the clip"):
        private(devices, MaskedSums(Gaussian(), source(), 10**8, 0.8)).sum(GRAM, round=1)


def test_a_masked_sum_costs_what_its_messages_take(devices: Devices) -> None:
    totals = private(devices, MaskedSums(Silent(), source(), 40, 0.8)).sum(Count(25), round=1)
    neighbors, threshold = sparse_enough(40, 0.8)
    traffic = Traffic.of(Session(tuple(range(1, 41)), 25, threshold, neighbors), 40)
    assert (totals.bytes_up, totals.bytes_down) == (traffic.up, traffic.down)
    assert totals.bytes_up > 40 * 25 * 4
