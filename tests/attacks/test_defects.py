"""Each defect is what it says, and has an ε above the one that is claimed: by what one canary moves, noise left out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrec.attacks import Audit, AuditConfig, Target
from fedrec.attacks.canaries import Planting, play
from fedrec.attacks.defects import Defect, with_defect
from fedrec.attacks.transcript import Transcript
from fedrec.errors import ConfigError
from fedrec.federated import Devices, Engine, LocalEngine, ParticipationConfig, PopulationConfig, Totals
from fedrec.federated.private_sums import Asked
from fedrec.federated.queries import Count
from fedrec.privacy import (
    BIT,
    Clip,
    ContinualConfig,
    Correlation,
    Draws,
    Gaussian,
    NoiseSource,
    Part,
    PrivacyConfig,
    Trust,
    epsilon,
)
from fedrec.streams import Streams
from tests.attacks.planted import interactions, target

TRAIN = interactions(40, 50, 8)
DELTA = 1e-4
SIGMA = 3.2  # ε just below 1
EGO = {"dim": 4, "negatives": 1, "clip": 0.003}


class Recorder:
    """Makes no release, and keeps what it was asked for."""

    name = "recorder"
    trust: Trust = "central"

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """Nothing."""
        self.asked.append(asked)
        return Totals({})


def factors(defect: Defect, sharing: float = 1.0, correlation: Correlation | None = None) -> dict[str, float]:
    """Table -> the deviation of the noise that a defect asks for, over the one that it should have."""
    recorder = Recorder()
    sums = with_defect(defect, recorder, times=1, sharing=sharing, correlation=correlation)
    parts = (Part(("count", "other"), 2.0, 3.0), Part(("metrics",), 2.0, 4.0), Part((BIT,), 0.5, 5.0))
    nobody = torch.zeros(0, dtype=torch.int64)
    engine = LocalEngine(Devices(nobody, torch.zeros(1, dtype=torch.int64), nobody, 9), Streams(0))
    sums.sum(engine, Asked(Count(9), 1, 0, Clip(2.0), parts))
    (asked,) = recorder.asked
    return {
        name: part.noise_multiplier * part.clip / (meant.noise_multiplier * meant.clip)
        for part, meant in zip(asked.parts, parts, strict=True)
        for name in part.tables
    }


def test_noise_is_weakened_by_what_is_said_on_the_tables_that_are_meant() -> None:
    every = ("count", "other", "metrics", BIT)
    assert factors("none") == dict.fromkeys(every, 1.0)
    assert factors("weak-noise") == pytest.approx(dict.fromkeys(every, 0.1))
    # 25 clients with 1/25² of the variance each, in place of 1/25: a 25th together.
    assert factors("thin-shares", sharing=25.0) == pytest.approx(dict.fromkeys(every, 0.2))
    assert factors("single-clip") == pytest.approx(dict.fromkeys(every, 0.5))
    for defect, bare in (("bare-bits", BIT), ("bare-looks", "metrics")):
        found = factors(defect)  # type: ignore[arg-type]
        assert found.pop(bare) < 1e-20
        assert set(found.values()) == {1.0}


@pytest.mark.parametrize(("rounds", "cycle", "band"), [(7, 2, 4), (6, 1, 3), (8, 4, 4), (5, 2, 1)])
def test_one_participation_is_the_sensitivity_of_the_worst_single_round(rounds: int, cycle: int, band: int) -> None:
    column = [math.comb(2 * lag, lag) / 4**lag if lag < band else 0.0 for lag in range(rounds)]
    matrix = np.array([[column[i - j] if i >= j else 0.0 for j in range(rounds)] for i in range(rounds)])
    patterns = [
        list(chosen)
        for size in range(1, rounds + 1)
        for chosen in itertools.combinations(range(rounds), size)
        if all(after - before >= cycle for before, after in itertools.pairwise(chosen))
    ]
    whole = max(float(np.linalg.norm(matrix[:, pattern].sum(axis=1))) for pattern in patterns)
    once = max(float(np.linalg.norm(matrix[:, [number]])) for number in range(rounds))
    found = factors("one-participation", correlation=Correlation(rounds, cycle, band))
    assert found["count"] == pytest.approx(once / whole)
    assert epsilon([Draws(SIGMA * found["count"], 1.0, 1)], DELTA) > 1.3


def test_the_noise_is_shared_by_those_who_take_part() -> None:
    half = ParticipationConfig(sampling="cyclic", rate=0.5)
    privacy = PrivacyConfig(noise_multiplier=SIGMA, delta=DELTA, trust="distributed", answering=1.0)
    arm = target("popularity", {"clip": 1.0}, TRAIN, privacy, participation=half)
    seen: list[float] = []
    read = Transcript._read

    def measured(self: Transcript, asked: Asked, released: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> None:
        seen.append(float((released["count"] - known["count"]).square().mean().sqrt()))
        read(self, asked, released, known)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transcript, "_read", measured)
        play(arm, Planting(24, 100, defect="thin-shares"))
    # Of 64 clients 32 are expected in a round. 2,450 entries tell a deviation to 1.4%: within seven of these, where by
    # the whole population it would be less by √2.
    assert seen == pytest.approx([SIGMA / 32**0.5], rel=0.1)


def arm_of(name: str) -> Target:
    arms: dict[str, tuple[str, dict[str, Any], float, dict[str, Any], dict[str, Any]]] = {
        "counts": ("popularity", {"clip": 1.0}, 1, {}, {}),
        "products": ("ease", {"clip": 0.4}, 1, {}, {}),
        "steps": ("ego-lightgcn", EGO | {"rounds": 2}, 2, {}, {}),
        "adaptive": ("ego-lightgcn", EGO | {"rounds": 8, "clip": 1e-5}, 8, {"adaptive": {"rate": 1.0}}, {}),
        "tables": (
            "fedncf",
            {"dim": 4, "layers": 1, "rounds": 2, "negatives": 1},
            2,
            {"clip": {"items": 5e-5, "network": 5e-5}},
            {},
        ),
        "silos": (
            "ego-lightgcn",
            EGO | {"rounds": 1},
            1,
            {"unit": "silo"},
            {"population": PopulationConfig(kind="silos", silos=8)},
        ),
    }
    kind, settings, draws, own, rest = arms[name]
    guarantee = {"noise_multiplier": SIGMA * draws**0.5, "delta": DELTA} | own
    return target(kind, settings, TRAIN, PrivacyConfig.model_validate(guarantee), **rest)


def moved(arm: Target, planting: Planting, patch: pytest.MonkeyPatch) -> float:
    """How many deviations of the noise one canary moves all releases by, the noise being left out."""
    deviations: dict[str, float] = {}
    squares: list[float] = []
    read = Transcript._read

    def silent(
        self: Gaussian,
        shape: Sequence[int],
        sigma: float,
        clip: float,
        *,
        symmetric: bool,
        source: NoiseSource,
        purpose: str,
    ) -> Tensor:
        deviations[purpose] = sigma * clip
        return torch.zeros(tuple(shape), dtype=torch.float64)

    def measured(self: Transcript, asked: Asked, released: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> None:
        for part in asked.parts:
            for name in part.tables:
                added = released[name].double() - known[name].double()
                squares.append(float(added.square().sum()) / deviations[asked.purpose(name)] ** 2)
        read(self, asked, released, known)

    patch.setattr(Gaussian, "noise", silent)
    patch.setattr(Transcript, "_read", measured)
    for run in range(20):
        squares.clear()
        if bool(play(arm, Planting(**vars(planting) | {"run": run})).included):
            return math.sqrt(sum(squares))
    raise AssertionError("twenty coins that show the same side")


@pytest.mark.parametrize(
    ("name", "items", "defects"),
    [
        ("counts", 100, ("weak-noise", "no-clip", "unmerged")),
        ("products", 4, ("weak-noise", "no-clip", "unmerged")),
        ("steps", 30, ("weak-noise", "no-clip", "unmerged")),
        ("adaptive", 20, ("weak-noise", "no-clip", "first-clip")),
        ("tables", 30, ("weak-noise", "no-clip", "unmerged")),
        ("silos", 20, ("weak-noise", "no-clip", "users-clipped")),
    ],
)
def test_a_sound_mechanism_has_the_epsilon_that_is_claimed_and_a_defect_a_larger_one(
    name: str, items: int, defects: tuple[Defect, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = arm_of(name)
    assert arm.schedule is not None
    claimed = arm.schedule.epsilon(arm.noise_multipliers(), DELTA)
    assert 0.99 < claimed <= 1.0

    def truth(defect: Defect) -> float:
        times = 100 if defect == "unmerged" else 1
        with monkeypatch.context() as patch:
            return moved(arm, Planting(1, items, 5, defect, times, known=10), patch)

    # A canary that fills its clip in every release is the worst case: ε of its Gaussian is the claim itself.
    assert epsilon([Draws(1 / truth("none"), 1.0, 1)], DELTA) == pytest.approx(claimed, rel=1e-3)
    for defect in defects:
        assert epsilon([Draws(max(0.5, 1 / truth(defect)), 1.0, 1)], DELTA) > 1.5


def test_defects_that_would_change_nothing_are_refused() -> None:
    cyclic = ParticipationConfig(sampling="cyclic", rate=0.5)
    privacy = PrivacyConfig(noise_multiplier=SIGMA, delta=DELTA, continual=ContinualConfig(band=2))
    once = target("ego-lightgcn", EGO | {"rounds": 2}, TRAIN, privacy, participation=cyclic)
    with pytest.raises(ConfigError, match="nobody takes part twice in 2 rounds"):
        Audit(AuditConfig(defects=("one-participation",))).check(once)
    with pytest.raises(ConfigError, match="changes nothing of a silo of 1 user"):
        Audit(AuditConfig(defects=("users-clipped",), members=1)).check(arm_of("silos"))
