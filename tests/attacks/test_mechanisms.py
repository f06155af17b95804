"""The audit reaches every mechanism: sound ones show what accounting charges for, and their own defects are caught."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedrec.attacks import Audit, AuditConfig, Target
from fedrec.attacks import audit as auditing
from fedrec.attacks import canaries as planting
from fedrec.attacks.canaries import Planting, Scores, play
from fedrec.attacks.crowd import Crowd, OneAnswer, opposite
from fedrec.attacks.defects import Defect
from fedrec.errors import ConfigError, PrivacyError
from fedrec.federated import Answer, Devices, LocalEngine, Outer, ParticipationConfig, PopulationConfig, Rows
from fedrec.federated.queries import Count
from fedrec.federated.secure_words import contribution_to
from fedrec.privacy import BIT, Clip, PrivacyConfig
from fedrec.streams import Streams
from tests.attacks.planted import interactions, target

TRAIN = interactions(40, 50, 8)
DELTA = 1e-4
SIGMA = 3.2  # of all releases together: ε just below 1 at that δ
CANARIES = 200
EGO = {"dim": 4, "negatives": 1, "clip": 0.003}
SILOS = PopulationConfig(kind="silos", silos=8)
HALF = ParticipationConfig(sampling="cyclic", rate=0.5)


def arm(name: str) -> tuple[Target, int]:
    """An arm of a mechanism, and how many items a canary takes to exceed its clip some times over."""
    arms: dict[str, tuple[str, dict[str, Any], int, float, dict[str, Any], dict[str, Any]]] = {
        # method, settings, items, participations of a user, privacy, the rest
        "secagg": ("popularity", {"clip": 1.0}, 4, 1, {"trust": "secagg"}, {}),
        "distributed": ("popularity", {"clip": 1.0}, 4, 1, {"trust": "distributed", "answering": 1.0}, {}),
        "local": ("popularity", {"clip": 1.0}, 100, 1, {"trust": "local"}, {}),
        "local-outer": ("ease", {"clip": 0.4}, 4, 1, {"trust": "local", "executed": False}, {}),
        "adaptive": (
            "ego-lightgcn",
            EGO | {"rounds": 8, "clip": 1e-5},
            20,
            8,
            {"adaptive": {"quantile": 0.5, "rate": 1.0}},
            {},
        ),
        "bits": ("ego-lightgcn", EGO | {"rounds": 2}, 20, 2, {"adaptive": {}}, {}),
        "continual": (
            "ego-lightgcn",
            EGO | {"rounds": 14},
            20,
            7,
            {"continual": {"band": 8}},
            {"participation": HALF},
        ),
        "tables": (
            "fedncf",
            {"dim": 4, "layers": 1, "rounds": 2, "negatives": 1},
            30,
            2,
            {"clip": {"items": 5e-5, "network": 5e-5}},
            {},
        ),
        "queries": ("ease", {"head": 0.3}, 10, 1, {"clip": {"count": 1.0, "gram": 0.4}}, {}),
        "growth": (
            "ego-lightgcn",
            EGO | {"rounds": 2},
            20,
            5,
            {"growth": 4.0},
            {},
        ),  # the second counts four times
        "visible": (
            "ego-lightgcn",
            EGO | {"rounds": 2},
            20,
            2,
            {"amplification": False},
            {"participation": ParticipationConfig(rate=0.7, dropout=0.1)},
        ),
        "silo": (
            "ego-lightgcn",
            EGO | {"rounds": 1},
            20,
            1,
            {"unit": "silo"},
            {"population": SILOS},
        ),
        "validation": ("ego-lightgcn", EGO | {"rounds": 2}, 20, 2, {"validation": 0.5}, {"looks": 2}),
        "fcf": ("fcf", {"dim": 4, "rounds": 1, "clip": 1e-4}, 20, 1, {}, {}),
        "fedmf": ("fedmf", {"dim": 4, "rounds": 1, "clip": 1e-4}, 20, 1, {}, {}),
        "pfedrec": ("pfedrec", {"dim": 4, "rounds": 1, "clip": 1e-4}, 20, 1, {}, {}),
    }
    kind, settings, items, participations, privacy, rest = arms[name]
    guarantee = {"noise_multiplier": SIGMA * participations**0.5, "delta": DELTA} | privacy
    return target(kind, settings, TRAIN, PrivacyConfig.model_validate(guarantee), **rest), items


SOUND = [  # and what part of the charge canaries come up to
    ("secagg", 1.0),
    ("distributed", 1.0),
    ("local", 0.99),  # the alternative has a row less
    ("adaptive", 1.0),
    ("continual", 0.7),  # answers of later rounds have other directions
    ("tables", 1.0),
    ("queries", 1.0),
    ("growth", 1.0),
    ("visible", 1.0),
    ("silo", 1.0),
    ("validation", 0.75),  # the first round has no look, and leaves its share
    ("fcf", 1.0),
    ("fedmf", 1.0),
    ("pfedrec", 1.0),
]


def residuals(scores: Scores) -> torch.Tensor:
    """Each canary's likelihood ratio without its mean, ±½ of its strength, in its deviations: N(0, 1)."""
    mean = (scores.included.double() - 0.5) * scores.strength
    return ((scores.likelihood - mean) / scores.strength.sqrt())[scores.strength > 0]


@pytest.mark.parametrize(("name", "filled"), SOUND)
def test_a_sound_mechanism_shows_what_it_is_charged_for(name: str, filled: float) -> None:
    found, items = arm(name)
    scores = play(found, Planting(CANARIES, items, members=5))
    # 1/σ² of all that a user takes part in is the most there is, and canaries that fill their clip come up to it.
    assert filled / SIGMA**2 * 0.99 <= float(scores.strength.max()) <= 1.01 / SIGMA**2
    # 200 normals tell their variance to 10%: beyond four of these once in 16,000. Where canaries share rows the ratio
    # has a little less.
    assert 0.6 < float(residuals(scores).square().mean()) < 1.4
    assert bool((scores.untouched == 0).all())


PLANTED: list[tuple[str, Defect]] = [
    ("secagg", "weak-noise"),
    ("secagg", "touched-rows"),
    ("distributed", "weak-noise"),
    ("distributed", "thin-shares"),
    ("local", "weak-noise"),
    ("local", "no-clip"),
    ("local", "touched-rows"),
    ("adaptive", "weak-noise"),
    ("adaptive", "no-clip"),
    ("adaptive", "first-clip"),
    ("continual", "weak-noise"),
    ("continual", "one-participation"),
    ("tables", "weak-noise"),
    ("tables", "no-clip"),
    ("queries", "weak-noise"),
    ("visible", "weak-noise"),
    ("silo", "no-clip"),
    ("silo", "users-clipped"),
    ("validation", "weak-noise"),
    ("fcf", "no-clip"),
    ("fedmf", "no-clip"),
    ("pfedrec", "no-clip"),
]


@pytest.mark.parametrize(("name", "defect"), PLANTED)
def test_a_planted_defect_is_caught(name: str, defect: Defect) -> None:
    found, items = arm(name)
    result = Audit(AuditConfig(canaries=CANARIES, items=items)).audit(found, defect)
    assert 0.7 < result.claimed < 1.15  # RDP gives discrete noise more
    assert result.bound > max(1.0, result.claimed)


def test_of_an_outer_product_the_opposite_is_as_far_as_can_be() -> None:
    found, items = arm("local-outer")
    scores = play(found, Planting(30, items))
    # Of four equal entries c, −c without the last: ‖ccᵀ − other‖² is 4 on 9 of 16 entries and 1 on 7, 43/16 in clips.
    assert float(scores.strength.min()) == pytest.approx(43 / 16 / 4 / SIGMA**2, rel=1e-3)


def test_opposite_answers_by_hand() -> None:
    zero = torch.zeros(3, dtype=torch.int64)
    rows = Rows(zero, torch.tensor([1, 4, 6]), torch.tensor([[1.0], [2.0], [2.0]]))
    answer = Answer(0, 7, {"count": rows})
    (clipped,) = OneAnswer(answer, otherwise=True).answers(Count(9), round=1, clip=Clip(1.5))
    assert clipped.clipped
    assert clipped.contributions["count"].index.tolist() == [1, 4]
    assert clipped.contributions["count"].value.flatten().tolist() == [-0.5, -1.0]
    only = opposite(Rows(zero[:1], zero[:1], torch.tensor([[3.0]])), 1)
    assert only.value.tolist() == [[-3.0]]
    square = opposite(Outer(zero[:2], torch.tensor([0, 2]), torch.tensor([2.0, 5.0])), 3)
    assert (square.index.tolist(), square.value.tolist()) == ([0], [[-4.0, 0.0, 0.0]])


def test_who_is_out_of_shared_noise_answers_zeros_clip_bit_included() -> None:
    def engine(keys: list[int], items: list[int]) -> LocalEngine:
        indptr = torch.arange(len(keys) + 1) * (len(items) // len(keys))
        return LocalEngine(Devices(torch.tensor(keys), indptr, torch.tensor(items), 9), Streams(0))

    crowd = Crowd(
        engine([1], [0, 1, 2, 3]),
        engine([2, 3], [4, 5, 6, 7]),
        engine([1], [0, 1, 2, 3]).devices,
        expected=2.0,
        zeros=torch.tensor([True, False]),
        members=1,
    )
    found = list(crowd.answers(Count(9), round=1, clip=Clip(1.5)))
    assert [float(contribution_to(answer, BIT).value) for answer in found] == [-0.5, 0.0, 0.5]  # of norm 2, 0 and √2
    assert [float(answer.contributions["count"].value.norm()) for answer in found] == pytest.approx([1.5, 0, 2**0.5])
    assert float(crowd.sums[BIT]) == -0.5
    assert crowd.sums["count"].flatten().tolist() == [0.75] * 4 + [0.0] * 5


def test_noise_that_is_whitened_wrongly_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    found, items = arm("continual")
    monkeypatch.setattr(planting, "square_root", lambda band: np.eye(band)[0])  # as if it were not correlated
    scores = play(found, Planting(CANARIES, items))
    # Rounds add up in what is charged, and by themselves show a fraction of it: well below the .7 of the sound arm.
    assert float(scores.strength.max()) < 0.4 / SIGMA**2


def test_a_clip_that_adapts_is_read_as_it_was_in_each_round() -> None:
    # It grows by some e^½ a round: canaries that fill it in every round have the same strength in each.
    found, items = arm("adaptive")
    strengths = play(found, Planting(20, items)).strength
    # 5% of each draw's budget pays for the bits, whose ½ fills their clip as well.
    assert strengths.tolist() == pytest.approx([1 / SIGMA**2] * 20, rel=1e-6)


@pytest.mark.parametrize(("name", "defect"), [("bits", "bare-bits"), ("validation", "bare-looks")])
def test_what_hides_canaries_from_each_other_hides_no_single_one(name: str, defect: Defect) -> None:
    found, items = arm(name)
    assert Audit(AuditConfig(canaries=CANARIES, items=items)).audit(found, defect).holds
    runs = Audit(AuditConfig(runs=60, items=items))
    # A sum without noise tells all: of 30 runs that count some 15 are in, at least .025^(1/15) = .78 of whom are told.
    assert runs.audit(found, defect).bound > 1.0
    assert runs.audit(found).holds


def test_half_of_the_noise_shows_as_gaussian_noise_and_not_at_a_delta() -> None:
    found, _ = arm("local")
    audit = Audit(AuditConfig(runs=3000, items=1))  # of one row the opposite has all
    half = audit.audit(found, "single-clip")
    # μ = 2/3.2 where 1/3.2 is claimed. 1,500 of the runs count, so that the bound on it has a deviation of some .07.
    assert half.canaries == 3000
    assert half.gaussian_bound is not None
    assert half.gaussian_bound > 1.0 > half.bound
    assert not half.holds
    sound = audit.audit(found)
    assert sound.gaussian_bound is not None
    assert sound.gaussian_bound < sound.claimed
    assert sound.holds


@pytest.mark.parametrize(("name", "together"), [("local", 100), ("secagg", 1)])
def test_runs_are_played_at_once_where_no_canary_can_tell_of_another(
    name: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[tuple[int, int]] = []

    def counted(target: Target, planting: Planting) -> Scores:
        played.append((planting.run, planting.canaries))
        return play(target, planting)

    monkeypatch.setattr(auditing, "play", counted)
    monkeypatch.setattr(auditing, "_TOGETHER", 100)
    result = Audit(AuditConfig(runs=120, items=2)).audit(arm(name)[0])
    assert result.canaries == 120
    assert played == ([(0, 100), (100, 20)] if together == 100 else [(run, 1) for run in range(120)])


@pytest.mark.parametrize(("name", "gaussian"), [("growth", True), ("visible", True), ("distributed", False)])
def test_gaussian_noise_is_promised_where_it_is(name: str, gaussian: bool) -> None:
    found, items = arm(name)
    assert (Audit(AuditConfig(canaries=20, items=items)).audit(found).gaussian_bound is not None) == gaussian


@pytest.mark.parametrize(
    ("name", "defect", "reason"),
    [
        ("secagg", "unmerged", "one number an entry"),
        ("silo", "unmerged", "added up before its norm is taken"),
        ("fcf", "first-clip", "of a clip that adapts"),
        ("fcf", "bare-bits", "of a clip that adapts"),
        ("fcf", "bare-looks", "of early stopping"),
        ("fcf", "one-participation", "set privacy.continual"),
        ("local", "thin-shares", "set privacy.trust = 'distributed'"),
        ("secagg", "single-clip", "set privacy.trust = 'local'"),
        ("local", "users-clipped", "of sums of silos"),
    ],
)
def test_a_defect_of_another_mechanism_is_refused(name: str, defect: Defect, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"defects: '{defect}' .*{reason}"):
        Audit(AuditConfig(defects=(defect,))).check(arm(name)[0])


def test_fixed_point_refuses_what_was_not_clipped() -> None:
    found = target(
        "popularity",
        {"clip": 0.5},
        TRAIN,
        PrivacyConfig(noise_multiplier=SIGMA, delta=DELTA, trust="secagg", executed=False),
    )
    with pytest.raises(PrivacyError, match="clip the answer before encoding"):
        play(found, Planting(10, 4, defect="no-clip"))
