"""A `privacy` section keeps what it says: every trust and mechanism trains, resumes with its ledger, and is stated."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fedrec.components import build_config
from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError, PrivacyError
from fedrec.federated import (
    Devices,
    FederatedMethod,
    FederatedRecommender,
    LocalEngine,
    ParticipationConfig,
    PopulationConfig,
    PrivateEngine,
    ReferenceEngine,
)
from fedrec.federated.methods import (
    EgoLightGCN,
    EgoLightGCNConfig,
    FedNCF,
    FedNCFConfig,
    Popularity,
    PopularityConfig,
    Spectral,
    SpectralConfig,
)
from fedrec.federated.queries import Count
from fedrec.privacy import (
    AdaptiveClipConfig,
    Clip,
    ContinualConfig,
    Correlation,
    Gaussian,
    Ledger,
    PlannedRelease,
    PrivacyConfig,
    Schedule,
    SeededNoise,
    bit_of,
)
from fedrec.recommenders.recommender import Training
from fedrec.recommenders.trainer import Stopping
from fedrec.streams import Streams
from tests.federated.test_recommender import Kept

NO_PATIENCE = Stopping(every=1, patience=0)
CYCLES = {"sampling": "cyclic", "rate": 0.5}


def ego(rounds: int = 6) -> EgoLightGCN:
    return EgoLightGCN(EgoLightGCNConfig(dim=4, rounds=rounds, stopping=NO_PATIENCE))


def arm(
    privacy: dict[str, Any],
    method: FederatedMethod | None = None,
    participation: dict[str, Any] | None = None,
    population: dict[str, Any] | None = None,
) -> FederatedRecommender:
    section = build_config(PrivacyConfig, {"noise_multiplier": 2.0, "delta": 1e-3} | privacy, "privacy")
    assert isinstance(section, PrivacyConfig)
    return FederatedRecommender(
        method or ego(),
        privacy=section,
        participation=ParticipationConfig(**participation or {}),
        population=PopulationConfig(**population or {}),
    )


PRIVACY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adaptive": ({"adaptive": {"rate": 0.5, "share": 0.2}}, {"rate": 0.5}),
    "growing": ({"growth": 4.0}, {}),
    "correlated": ({"continual": {}}, CYCLES),
    "secagg": ({"trust": "secagg"}, {}),
    "secagg, summed": ({"trust": "secagg", "executed": False, "adaptive": {}}, {}),
    "distributed": ({"trust": "distributed", "adaptive": {}}, {"rate": 0.9}),
    "distributed, summed": ({"trust": "distributed", "executed": False}, {}),
    "local": ({"trust": "local", "growth": 2.0}, CYCLES),
}


@pytest.mark.parametrize("name", PRIVACY)
def test_an_interrupted_run_continues_with_the_same_bytes_ledger_clips_and_noise(
    train: Interactions, name: str
) -> None:
    privacy, participation = PRIVACY[name]
    whole, logged = arm(privacy, participation=participation), list[tuple[int, str, float, str]]()
    whole.fit(train, Training(device="cpu", log=lambda *row: logged.append(row)))
    kept = Kept(until=3)
    with pytest.raises(KeyboardInterrupt):
        arm(privacy, participation=participation).fit(train, Training(checkpoints=kept, device="cpu"))
    kept.until = None
    resumed, again = arm(privacy, participation=participation), list[tuple[int, str, float, str]]()
    resumed.fit(train, Training(checkpoints=kept, device="cpu", log=lambda *row: again.append(row)))
    assert whole.tensors().keys() == resumed.tensors().keys()
    assert all(torch.equal(tensor, resumed.tensors()[key]) for key, tensor in whole.tensors().items())
    assert not any("noise" in key for key in whole.tensors())  # it is no part of a model
    assert whole.guarantee is not None
    assert resumed.guarantee is not None
    assert whole.guarantee.as_dict() == resumed.guarantee.as_dict()
    assert whole.guarantee.made == resumed.guarantee.made
    assert [row[:4] for row in logged] == [tuple(row) for row in again]
    released = {row[1] for row in logged if row[3] == "released"}
    assert released == ({"clip of local-training"} if "adaptive" in privacy else set())


def test_noise_follows_the_clip_and_the_clip_follows_the_bits(train: Interactions) -> None:
    devices = Devices.of(train)
    config = AdaptiveClipConfig(quantile=0.9, rate=1.0, share=0.5)
    schedule = Schedule(
        (
            PlannedRelease(query="count", draws=4, clip=1.0, share=0.5, adaptive=True),
            PlannedRelease(query=bit_of("count"), draws=4, clip=0.5, share=0.5),
        )
    )
    asked: list[tuple[float, float]] = []

    class Noted(Gaussian):
        def noise(self, shape: Any, sigma: float, clip: float, **rest: Any) -> torch.Tensor:
            asked.append((sigma, clip))
            return torch.zeros(tuple(shape), dtype=torch.float64)

    engine = PrivateEngine(
        LocalEngine(devices, Streams(0)),
        schedule,
        schedule.noise_multipliers(1.0),
        SeededNoise(Streams(0)),
        Noted(),
        adaptive=config,
    )
    norm = 1.0
    for round in (1, 2, 3, 4):
        released = engine.sum(Count(25), round=round).sums["count"]
        exact = LocalEngine(devices, Streams(0)).sum(Count(25), round=1, clip=Clip(norm))
        torch.testing.assert_close(released, exact.sums["count"])
        assert asked[-2:] == [(math.sqrt(2), norm), (math.sqrt(2), 0.5)]
        assert engine.ledger.draws()[round][0].clip == norm
        norm *= math.exp(-((40 - exact.clipped) / 40 - 0.9))
        assert engine.clips["count"] == pytest.approx(norm)
    assert norm > 1.2  # nine in ten are to stay whole, and at first one in three does
    assert engine.ledger.matches(engine.planned())


def test_clips_that_do_not_match_the_ledger_are_refused(train: Interactions) -> None:
    privacy, kept = {"adaptive": {"rate": 0.5}}, Kept(until=3)
    with pytest.raises(KeyboardInterrupt):
        arm(privacy).fit(train, Training(checkpoints=kept, device="cpu"))
    assert kept.saved is not None
    kept.saved[1]["learner"]["clips"]["local-training"][1] *= 2.0
    with pytest.raises(PrivacyError, match="ledger, checkpoint or configuration was changed"):
        arm(privacy).fit(train, Training(checkpoints=kept, device="cpu"))


def test_in_cycles_every_user_takes_part_once_in_each(devices: Devices) -> None:
    config = ParticipationConfig(sampling="cyclic", rate=0.25)
    for engine in (LocalEngine(devices, Streams(0), config), ReferenceEngine(devices, Streams(0), config)):
        rounds = [engine.sum(Count(25), round=round) for round in range(1, 9)]
        everyone = LocalEngine(devices, Streams(0)).sum(Count(25), round=1).sums["count"]
        for start in range(5):
            cycle = rounds[start : start + 4]
            assert torch.equal(torch.stack([totals.sums["count"] for totals in cycle]).sum(dim=0), everyone)
        assert all(0 < totals.answered < 40 for totals in rounds)
        assert engine.expected == 10.0
        secret = type(engine)(devices, Streams(0), config, sample=Streams(1))
        assert torch.equal(secret.sum(Count(25), round=1).sums["count"], rounds[0].sums["count"])  # whoever resumes
    with pytest.raises(ConfigError, match=r"rate = 0\.3 is not one over a whole number of rounds"):
        build_config(ParticipationConfig, {"sampling": "cyclic", "rate": 0.3}, "participation")


def test_correlated_noise_counts_on_every_round(train: Interactions) -> None:
    recommender = arm({"continual": {"band": 2}}, participation=CYCLES)
    assert recommender.privacy is not None
    recommender.fit(train, Training(device="cpu"))
    assert recommender.guarantee is not None
    # Three of the six rounds are a user's: six releases of σ = 2 cost what one of 2/√3 does.
    (draws,) = Ledger(recommender.guarantee.planned).history()
    assert (draws.rate, draws.number) == (1.0, 1)
    assert draws.noise_multiplier == pytest.approx(2 / math.sqrt(3))
    assert "correlated over 6 rounds" in recommender.guarantee.in_words()
    schedule = Schedule((PlannedRelease(query="count", draws=4, clip=1.0),), rate=0.5, sampling="cyclic")
    local = LocalEngine(Devices.of(train), Streams(0), ParticipationConfig(sampling="cyclic", rate=0.5))
    engine = PrivateEngine(
        local,
        schedule,
        {"count": 1.0},
        SeededNoise(Streams(0)),
        Gaussian(),
        correlation=Correlation.of(ContinualConfig(), schedule),
    )
    engine.sum(Count(25), round=1)
    with pytest.raises(PrivacyError, match="draw 2 was left out"):
        engine.sum(Count(25), round=3)


def test_silos_are_promised_as_silos(train: Interactions) -> None:
    silos = {"kind": "silos", "silos": 8}
    recommender = arm({"unit": "silo", "delta": 0.1}, Popularity(PopularityConfig()), population=silos)
    recommender.fit(train, Training(device="cpu"))
    assert recommender.guarantee is not None
    words = recommender.guarantee.in_words()
    assert "Unit: one silo: everything all of its users did" in words
    assert "Neighbours: add or remove one silo, of 8" in words
    assert "differ in one user move a sum by up to two clips, which this epsilon does not cover" in words
    with pytest.raises(PrivacyError, match=r"delta = 0\.2 is not below 1/silos = 1/8, so one silo's data"):
        arm({"unit": "silo", "delta": 0.2}, Popularity(PopularityConfig()), population=silos).check(train)


def test_a_clip_of_silos_that_adapts_is_refused_by_the_engine_itself(train: Interactions) -> None:
    bits = PlannedRelease(query=bit_of("count"), draws=2, clip=0.5, share=0.5)
    schedule = Schedule((PlannedRelease(query="count", draws=2, clip=1.0, share=0.5, adaptive=True), bits))
    engine = LocalEngine(Devices.of(train, silo=torch.arange(40) % 8), Streams(0))
    sigmas, source = schedule.noise_multipliers(1.0), SeededNoise(Streams(0))
    with pytest.raises(PrivacyError, match="follows the norms of users, by a bit of each; the unit is one silo"):
        PrivateEngine(engine, schedule, sigmas, source, Gaussian(), adaptive=AdaptiveClipConfig(), unit="silo")


@pytest.mark.parametrize(
    ("privacy", "method", "participation", "population", "message"),
    [
        ({"unit": "silo"}, ego, {}, {}, "set population.kind = 'silos'"),
        ({}, ego, {}, {"kind": "silos", "silos": 4}, r"set privacy\.unit = 'silo' to promise that"),
        (
            {"unit": "silo"},
            ego,
            {},
            {"kind": "silos", "silos": 2, "rule": "louvain"},
            "who is in which silo follows from everyone's data",
        ),
        ({"unit": "silo", "adaptive": {}}, ego, {}, {"kind": "silos", "silos": 8}, "clips follow the norms of users"),
        (
            {"unit": "silo", "delta": 0.01},
            ego,
            {"sampling": "fixed"},
            {"kind": "silos", "silos": 8},
            "sampling 'fixed'",
        ),
        ({}, ego, {"sampling": "fixed", "rate": 0.5}, {}, "adding one user may change who else takes part"),
        ({"amplification": True}, ego, CYCLES, {}, "sampling = 'cyclic' hides nobody"),
        ({"continual": {}}, ego, {"rate": 0.5}, {}, r"set participation\.sampling = 'cyclic'"),
        ({"continual": {}, "growth": 2.0}, ego, {}, {}, "only at one scale"),
        ({"continual": {}, "adaptive": {}}, ego, {}, {}, "in several rounds there are"),
        ({"clip": {"itmes": 1.0}}, lambda: FedNCF(FedNCFConfig(rounds=1)), {}, {}, "set patience = 0"),
        ({"adaptive": {}}, lambda: Popularity(PopularityConfig()), {}, {}, "in several rounds there are: none"),
        (
            {"shares": {"count": 1.0}},
            lambda: Spectral(SpectralConfig(factors=3, weight="degree")),
            {},
            {},
            "count, gram",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_training(
    train: Interactions,
    privacy: dict[str, Any],
    method: Any,
    participation: dict[str, Any],
    population: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises((ConfigError, PrivacyError), match=message):
        arm(privacy, method(), participation, population).check(train)


def test_clips_of_other_tables_are_refused_before_anything_is_released(train: Interactions) -> None:
    method = FedNCF(FedNCFConfig(rounds=1, stopping=NO_PATIENCE))
    with pytest.raises(PrivacyError, match="clips for the tables itmes, network of a query of items, network"):
        arm({"clip": {"itmes": 1.0, "network": 1.0}}, method).fit(train, Training(device="cpu"))


def test_clips_by_table_are_stated(train: Interactions) -> None:
    method = FedNCF(FedNCFConfig(rounds=1, stopping=NO_PATIENCE))
    recommender = arm({"clip": {"items": 3.0, "network": 4.0}}, method)
    recommender.fit(train, Training(device="cpu"))
    assert recommender.guarantee is not None
    assert recommender.guarantee.clips == {"neural-training": 5.0}
    assert "clip 5 by table (items 3, network 4; noise in proportion to each" in recommender.guarantee.in_words()
