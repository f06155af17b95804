"""The audit passes every sound method at ε = 1 and catches every planted defect, at 95% confidence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from fedrec.attacks import Audit, AuditConfig, AuditResult
from fedrec.attacks.audit import accuracy, separation
from fedrec.attacks.bounds import gaussian_epsilon
from fedrec.attacks.canaries import Planting, Scores, play
from fedrec.attacks.defects import Defect
from fedrec.attacks.repeated import Repeated
from fedrec.errors import ConfigError
from fedrec.federated import Devices, LocalEngine, ParticipationConfig
from fedrec.federated.participation import participants
from fedrec.federated.queries import Count, Gram
from fedrec.privacy import Clip, PrivacyConfig
from fedrec.streams import Streams, keys_of
from tests.attacks.planted import interactions, target

TRAIN = interactions(40, 50, 8)
DELTA = 1e-4
SIGMA = 3.2  # of all releases together: ε just below 1 at that δ

# Clips that a canary's answer exceeds some ten times, so that not clipping shows; σ of a draw is SIGMA · √rounds.
ARMS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "popularity": ("popularity", {"clip": 1.0}, 100, 1),
    "ease": ("ease", {"clip": 0.4}, 4, 1),
    "spectral": ("spectral", {"factors": 4}, 2, 1),
    "ials": ("ials", {"dim": 3, "rounds": 2, "clip": 0.005, "count_clip": 1.0}, 20, 2),
    "ego": ("ego-lightgcn", {"dim": 4, "rounds": 2, "clip": 0.005, "negatives": 1}, 30, 2),
    "exact": (
        "exact-lightgcn",
        {"dim": 4, "layers": 1, "rounds": 2, "propagate_clip": 0.02, "loss_clip": 0.1, "count_clip": 1.0},
        30,
        2,
    ),
}
DEFECTS: tuple[Defect, ...] = ("weak-noise", "no-clip", "unmerged", "touched-rows")


def audit(arm: str, defect: Defect, *, seed: int = 0, canaries: int = 300) -> AuditResult:
    kind, settings, items, rounds = ARMS[arm]
    privacy = PrivacyConfig(noise_multiplier=SIGMA * rounds**0.5, delta=DELTA)
    if arm == "spectral" and defect == "no-clip":  # nobody's answer is larger than the method's own clip, which is 1
        privacy = PrivacyConfig(noise_multiplier=SIGMA, delta=DELTA, clip=0.1)
    found = target(kind, settings, TRAIN, privacy, seed=seed)
    return Audit(AuditConfig(canaries=canaries, items=items)).audit(found, defect)


@pytest.mark.parametrize("arm", ARMS)
def test_a_sound_method_stays_below_its_epsilon(arm: str) -> None:
    found = audit(arm, "none")
    assert 0.9 < found.claimed <= 1.0  # shares of the first round are left over in later ones
    assert found.holds
    # A canary's answer reaches its clip: μ = 1/3.2, and 300 canaries estimate it to .12. Within four of these.
    assert 0.0 <= found.estimate < 3.5


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("arm", ARMS)
def test_a_planted_defect_is_caught(arm: str, defect: Defect) -> None:
    found = audit(arm, defect)
    assert found.claimed <= 1.0
    assert found.bound > 1.0
    assert not found.holds


def test_sound_popularity_never_alarms() -> None:
    # 20 audits of a bound that is wrong once in 20, where the true ε of a guess about one canary is far below 1.
    assert all(audit("popularity", "none", seed=seed, canaries=100).holds for seed in range(20))


def test_a_sampled_arm_is_audited_over_its_whole_transcript() -> None:
    settings = {"dim": 4, "rounds": 20, "clip": 0.005, "negatives": 1}
    privacy = PrivacyConfig(noise_multiplier=4.0, delta=DELTA)
    found = target("ego-lightgcn", settings, TRAIN, privacy, rate=0.25)
    sound = play(found, Planting(200, 20))
    assert sound.releases == 20
    weak = play(found, Planting(200, 20, defect="weak-noise"))
    assert accuracy(weak.likelihood, weak.included) > accuracy(sound.likelihood, sound.included) + 0.15
    held = Audit(AuditConfig(canaries=200, items=20)).audit(found, "none")
    assert held.holds
    assert held.gaussian_bound is None  # it may be hidden whether a canary was there, which is no Gaussian
    assert {finding.measure for finding in Audit(AuditConfig(canaries=20)).run(found)} == {
        "claimed-epsilon",
        "epsilon-bound",
        "epsilon-estimate",
        "right-guesses",
    }
    assert not Audit(AuditConfig(canaries=200, items=20)).audit(found, "weak-noise").holds


def test_of_many_runs_each_draws_a_sample_of_its_own() -> None:
    # With so little noise the ratio tells whether the canary was drawn: of those who are in, a quarter of the time.
    privacy = PrivacyConfig(noise_multiplier=0.05, delta=DELTA)
    arm = target("popularity", {"clip": 1.0}, TRAIN, privacy, rate=0.25)
    scores = Scores.together([play(arm, Planting(1, 4, known=10, run=number)) for number in range(160)])
    drawn = scores.likelihood > 0
    assert not bool(drawn[~scores.included].any())
    # Of some 80 who are in .25, with a deviation of .05: within four of these.
    assert float(drawn[scores.included].double().mean()) == pytest.approx(0.25, abs=0.2)


@pytest.mark.parametrize("trust", ["secagg", "distributed"])
def test_many_runs_of_masked_sums_of_a_sample_have_users_enough(trust: str) -> None:
    # Of ten users and a canary less than two take part in every fifth round, and no sum is opened for them.
    privacy = PrivacyConfig.model_validate(
        {"noise_multiplier": SIGMA, "delta": DELTA, "trust": trust, "executed": False}
    )
    found = Audit(AuditConfig(runs=40, items=4)).audit(target("popularity", {"clip": 1.0}, TRAIN, privacy, rate=0.25))
    assert found.canaries == 40
    assert found.holds


def test_amplification_holds_over_many_runs() -> None:
    # N(0, 1) or N(2, 1), of a canary that one in five runs draws: ε = .32 at δ = .1. Were the arm's own sample that of
    # all runs, a canary that is in it would show 1.0 or more.
    sampled = ParticipationConfig(rate=0.2)
    seed = next(s for s in range(50) if len(participants(sampled, keys_of(["canary 0"]), Streams(s).at(1)).on_time))
    privacy = PrivacyConfig(noise_multiplier=0.5, delta=0.1)
    arm = target("popularity", {"clip": 1.0}, TRAIN.take(np.arange(80)), privacy, rate=0.2, seed=seed)
    found = Audit(AuditConfig(runs=200, items=4)).audit(arm)
    amplified = math.log1p(0.2 * math.expm1(gaussian_epsilon(2.0, 0.1 / 0.2)))
    assert found.claimed == pytest.approx(amplified, abs=0.01)
    assert found.holds


def test_untouched_rows_are_those_that_only_an_absent_canary_would_have_touched() -> None:
    kind, settings, _, _ = ARMS["popularity"]
    privacy = PrivacyConfig(noise_multiplier=SIGMA, delta=DELTA)
    scores = play(target(kind, settings, TRAIN, privacy), Planting(50, 3, defect="touched-rows"))
    assert scores.untouched.tolist() == torch.where(scores.included, 0.0, -3.0).tolist()
    assert play(target(kind, settings, TRAIN, privacy), Planting(50, 3)).untouched.abs().sum() == 0


def test_the_likelihood_ratio_is_that_of_the_noise() -> None:
    # Without noise to speak of, ⟨r, c⟩ is ‖c‖² for those who are in and 0 for the others: ±½‖c‖²/s², ‖c‖ the clip.
    privacy = PrivacyConfig(noise_multiplier=0.5, delta=DELTA)
    arm = target("popularity", {"clip": 1.0}, TRAIN, privacy)
    scores = play(arm, Planting(400, 4))
    # Four items and a clip of 1: mean ±2 and deviation 2 at s = ½. Within five deviations of the mean over some 190.
    assert scores.likelihood[scores.included].mean() == pytest.approx(2.0, abs=0.75)
    assert scores.likelihood[~scores.included].mean() == pytest.approx(-2.0, abs=0.75)
    assert scores.likelihood.std() < 4


def test_repeated_interactions_are_clipped_only_if_they_are_merged() -> None:
    devices = Devices(torch.tensor([5, 6]), torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), 16)
    for query in (Count(16), Gram(torch.ones(16))):
        name = next(iter(query.tables))
        one = LocalEngine(devices.take(torch.tensor([0])), Streams(0))
        sound = one.sum(Repeated(query, 9, merged=True), round=1, clip=Clip(1.0)).sums[name]
        assert float(sound.norm()) == pytest.approx(1.0)
        broken = one.sum(Repeated(query, 9, merged=False), round=2, clip=Clip(1.0)).sums[name]
        assert float(broken.norm()) == pytest.approx(3.0 if name == "count" else 9.0)
        whole = one.sum(Repeated(query, 9, merged=True), round=3).sums[name]
        assert torch.allclose(whole, one.sum(Repeated(query, 9, merged=False), round=4).sums[name])


@pytest.mark.parametrize(
    ("ratios", "included", "expected"),
    [
        ([1.0, 3.0, -1.0, -3.0], [True, True, False, False], 4 / 2**0.5),
        ([1.0, 2.0, 3.0], [True, False, False], 0.0),  # one alone has no deviation
        ([1.0, 2.0, 3.0], [False, False, False], 0.0),
        ([0.0, 0.0, 0.0, 0.0], [True, True, False, False], 0.0),
        ([1.0, 1.0, 0.0, 0.0], [True, True, False, False], 1e9),
    ],
)
def test_the_estimate_is_a_number_whatever_the_coins(
    ratios: list[float], included: list[bool], expected: float
) -> None:
    found, nothing = torch.tensor(ratios, dtype=torch.float64), torch.zeros(len(ratios))
    apart = separation(Scores(found, found, nothing, torch.tensor(included), 1, nothing))
    assert apart == pytest.approx(expected)
    assert math.isfinite(gaussian_epsilon(apart, DELTA))


def test_an_arm_without_a_guarantee_has_nothing_to_audit() -> None:
    with pytest.raises(ConfigError, match="the arm has none"):
        Audit(AuditConfig()).run(target("popularity", {}, TRAIN))
