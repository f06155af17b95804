"""What an observer sees is what was sent: single answers, their sums, and the noise of a release."""

from __future__ import annotations

import pytest
import torch

from fedrec.attacks import History, HistoryConfig, Poisoning, PoisoningConfig, case_of, observation, observe
from fedrec.errors import ConfigError, DataError
from fedrec.federated import Ask, Contribution, Devices, LocalEngine, PopulationConfig
from fedrec.privacy import Clip, PrivacyConfig
from tests.attacks.planted import interactions, target

TRAIN = interactions(30, 40, 6)
EGO = {"dim": 4, "rounds": 3}


def test_answers_add_up_to_the_sum_of_the_round_that_is_watched() -> None:
    arm = target("ego-lightgcn", EGO, TRAIN)
    (seen,) = observe(arm, after=2)
    engine = LocalEngine(Devices.of(TRAIN), arm.streams)
    state = arm.method.start(arm.federation(30, 40))
    for number in (1, 2):
        state = arm.method.round(state, Ask(engine, number))
    query = arm.method.memory(state)
    assert query is not None
    assert torch.allclose(engine.sum(query, round=3).sums["items"], seen.answers.sum(dim=0), atol=1e-6)
    assert seen.deviation == 0
    assert seen.own.sum(dim=1).tolist() == [6] * 30


def test_answers_of_several_rounds_are_added_up() -> None:
    arm = target("ego-lightgcn", EGO, TRAIN)
    (both,) = observe(arm, rounds=2)
    (first,), (second,) = observe(arm), observe(arm, after=1)
    assert torch.allclose(both.answers, first.answers + second.answers, atol=1e-7)


def test_under_a_guarantee_answers_are_clipped_and_sums_are_noised() -> None:
    privacy = PrivacyConfig(noise_multiplier=2.0, delta=1e-3, clip=0.01)
    (seen,) = observe(target("ego-lightgcn", EGO | {"rounds": 2}, TRAIN, privacy), rounds=2)
    assert float(seen.answers.flatten(1).norm(dim=1).max()) <= 2 * 0.01 + 1e-6
    assert seen.deviation == pytest.approx(2.0 * 0.01 * 2**0.5)
    generator = torch.Generator().manual_seed(0)
    members = torch.arange(5)
    noise = seen.sum_of(members, generator) - seen.answers[members].sum(dim=0)
    # 160 entries tell their deviation to 6%; within five of these.
    assert float(noise.std()) == pytest.approx(seen.deviation, rel=0.3)


def test_of_an_outer_product_the_diagonal_is_seen() -> None:
    (seen,) = observe(target("ease", {}, TRAIN))
    assert torch.equal(seen.answers.squeeze(2) > 0, seen.own)


def test_places_of_queries_within_a_round() -> None:
    settings = {"dim": 4, "layers": 2, "rounds": 1}
    first, second = observe(target("exact-lightgcn", settings, TRAIN), ("propagate", 0), ("propagate", 1))
    assert (first.query.phase, second.query.phase) == (0, 1)  # type: ignore[attr-defined]


def test_groups_attack_everybody_and_leave_one_out() -> None:
    (seen,) = observe(target("popularity", {}, TRAIN))
    groups = list(seen.groups(4, 30, torch.Generator().manual_seed(0)))
    assert sorted(int(members[0]) for members, _ in groups) == list(range(30))
    assert all(len(set(members.tolist()) | {stranger}) == 5 for members, stranger in groups)
    assert (case_of(1), case_of(4)) == ("one answer", "sum of 4")
    with pytest.raises(ConfigError, match="30 users answered"):
        next(seen.groups(30, 2, torch.Generator()))


def test_what_cannot_be_watched_is_named() -> None:
    with pytest.raises(ConfigError, match="does not ask propagate"):
        observe(target("popularity", {}, TRAIN), ("propagate", 0))
    with pytest.raises(ConfigError, match="the arm has 3 rounds"):
        observe(target("ego-lightgcn", EGO, TRAIN), after=3)


def test_clips_are_those_of_the_schedule() -> None:
    privacy = PrivacyConfig(noise_multiplier=2.0, delta=1e-3)
    (seen,) = observe(target("popularity", {"clip": 2.0}, TRAIN, privacy))
    devices = Devices.of(TRAIN)
    clipped = LocalEngine(devices, target("popularity", {}, TRAIN).streams).sum(seen.query, round=1, clip=Clip(2.0))
    assert torch.allclose(seen.answers.sum(dim=0).double(), clipped.sums["count"], atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"trust": "local"}, {"adaptive": {}}, {"clip": {"local-training": 0.1}}, {"continual": {}}]
)
def test_guarantees_that_cannot_be_played_are_refused(changes: dict[str, object]) -> None:
    privacy = PrivacyConfig.model_validate({"noise_multiplier": 2.0, "delta": 1e-3} | changes)
    with pytest.raises(ConfigError, match="this attack plays"):
        observe(target("ego-lightgcn", EGO, TRAIN, privacy))


def test_arms_over_silos_are_for_the_audit_alone() -> None:
    silos = PopulationConfig(kind="silos", silos=4)
    for attack in (History(HistoryConfig(sums=(1,))), Poisoning(PoisoningConfig())):
        with pytest.raises(ConfigError, match="this attack is on users"):
            attack.check(target("ego-lightgcn", EGO, TRAIN, population=silos))


def test_noise_of_a_budget_that_grows_is_that_of_each_round() -> None:
    privacy = PrivacyConfig(noise_multiplier=2.0, delta=1e-3, clip=0.01, growth=4.0)
    (first,), (both,) = (
        observe(target("ego-lightgcn", EGO | {"rounds": 2}, TRAIN, privacy), rounds=rounds) for rounds in (1, 2)
    )
    assert first.deviation == pytest.approx(0.02)
    assert both.deviation == pytest.approx(0.01 * (4 + 1) ** 0.5)  # four times the budget is half the noise


def test_more_than_memory_holds_is_refused_at_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 30 * 40 * 4 * 4  # users, items, width, bytes
    monkeypatch.setattr(observation, "_MOST_BYTES", needed)
    assert observe(target("ego-lightgcn", EGO, TRAIN))[0].answers.numel() * 4 == needed
    made: list[int] = []
    dense = observation._dense

    def counted(part: Contribution, n_items: int, width: int) -> torch.Tensor:
        made.append(1)
        return dense(part, n_items, width)

    monkeypatch.setattr(observation, "_dense", counted)
    monkeypatch.setattr(observation, "_MOST_BYTES", needed - 1)
    with pytest.raises(DataError, match=r"single answers of 30 users to 'local-training' take .* lower the arm's"):
        observe(target("ego-lightgcn", EGO, TRAIN))
    assert len(made) == 1
