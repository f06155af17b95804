"""The `privacy` section: sound targets are taken, the others refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from fedrec.components import build_config
from fedrec.errors import ConfigError, PrivacyError
from fedrec.privacy import PlannedRelease, PrivacyConfig, Schedule, calibrate

GRAM_AND_COUNT = Schedule(
    (
        PlannedRelease(query="gram", draws=1, clip=1.0, share=0.8),
        PlannedRelease(query="count", draws=1, clip=5.0, share=0.2),
    )
)


def test_defaults() -> None:
    config = build_config(PrivacyConfig, {"epsilon": 8}, "privacy")
    assert config == PrivacyConfig(epsilon=8.0, delta=1e-5, trust="central", accountant="prv", clip=None)


def test_a_target_is_calibrated() -> None:
    assert PrivacyConfig(epsilon=8).noise_multipliers(GRAM_AND_COUNT) == calibrate(GRAM_AND_COUNT, 8.0, 1e-5)
    assert PrivacyConfig(epsilon=8, delta=1e-7).noise_multipliers(GRAM_AND_COUNT)["gram"] > 0.75


def test_a_noise_multiplier_is_that_of_a_draw() -> None:
    sigmas = PrivacyConfig(noise_multiplier=2.0).noise_multipliers(GRAM_AND_COUNT)
    assert sigmas == {"gram": pytest.approx(2 / 0.8**0.5), "count": pytest.approx(2 / 0.2**0.5)}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"epsilon": -1}, "arms.dp.privacy.epsilon = -1: must be above 0; take 8 for weak"),
        ({"epsilon": 0.0}, "arms.dp.privacy.epsilon = 0.0: must be above 0"),
        ({"epsilon": float("inf")}, "arms.dp.privacy.epsilon = inf: Input should be a finite number"),
        (
            {"noise_multiplier": 0},
            "arms.dp.privacy.noise_multiplier = 0: must be above 0; leave the privacy section out",
        ),
        ({"epsilon": 8, "clip": -0.5}, "arms.dp.privacy.clip = -0.5: must be above 0"),
        ({"epsilon": 8, "delta": 0}, "arms.dp.privacy.delta = 0: must be between 0 and 1"),
        ({"epsilon": 8, "delta": 1.0}, "arms.dp.privacy.delta = 1.0: must be between 0 and 1"),
        (
            {"epsilon": 8, "trust": "nobody"},
            "arms.dp.privacy.trust = 'nobody': no such option; valid: central, distributed, local, secagg",
        ),
        ({"epsilon": 8, "answering": 0.5}, "arms.dp.privacy.answering = 0.5: Input should be greater than 0.5"),
        ({"epsilon": 8, "accountant": "gdp"}, "arms.dp.privacy.accountant = 'gdp': under-reports epsilon; use 'prv'"),
        ({"epsilon": 8, "accountant": "rdp"}, "arms.dp.privacy.accountant = 'rdp': is not quoted; use 'prv'"),
        ({"epsilon": 8, "noise_multiplier": 1}, "give either epsilon or noise_multiplier, and not both"),
        ({}, "give either epsilon or noise_multiplier, and not both"),
        ({"epsilom": 8}, "arms.dp.privacy.epsilom: unknown key 'epsilom'; did you mean 'epsilon'?"),
    ],
)
def test_an_unsound_section_is_one_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(PrivacyConfig, section, "arms.dp.privacy")
    assert message in str(caught.value)
    assert str(caught.value).startswith("arms.dp.privacy")
    assert "\n" not in str(caught.value)


TRAINING = (
    PlannedRelease(query="count", draws=1, clip=5.0, share=0.2),
    PlannedRelease(query="train", draws=4, clip=1.0, share=0.8),
)
LOOKS = PlannedRelease(query="evaluate", draws=2, clip=1.4, first=2, every=2)


def plan(section: dict[str, Any], releases: tuple[PlannedRelease, ...] = TRAINING, **draws: Any) -> Schedule:
    config = build_config(PrivacyConfig, {"noise_multiplier": 1.0} | section, "privacy")
    assert isinstance(config, PrivacyConfig)
    return config.schedule(releases, draws.get("rate", 1.0), draws.get("sampling", "poisson"), LOOKS)


def test_clips_are_given_by_query_and_by_table() -> None:
    by_query = plan({"clip": {"train": 0.3}})
    assert [planned.clip for planned in by_query.releases] == [5.0, 0.3]
    by_table = plan({"clip": {"train": {"items": 3.0, "network": 4.0}, "count": 2}})
    assert [planned.clip for planned in by_table.releases] == [2.0, 5.0]
    assert by_table.releases[1].tables == (("items", 3.0), ("network", 4.0))
    alone = plan({"clip": {"items": 3.0, "network": 4.0}}, TRAINING[1:])
    assert alone.releases[0].tables == (("items", 3.0), ("network", 4.0))
    assert plan({"clip": 7.0}, TRAINING[1:]).releases[0].clip == 7.0
    assert plan({"clip": {"train": 7.0}}, TRAINING[1:]).releases[0].tables == ()


def test_the_bits_of_an_adaptive_clip_are_paid_from_their_querys_share() -> None:
    schedule = plan({"adaptive": {"share": 0.25}, "validation": 0.5})
    shares = {planned.query: planned.share for planned in schedule.releases}
    assert shares == pytest.approx({"count": 0.1, "train": 0.3, "train/clip-bit": 0.1, "evaluate": 0.5})
    draws = schedule.ledger(schedule.noise_multipliers(1.0)).draws()
    assert [release.query for release in draws[2]] == ["train", "train/clip-bit", "evaluate"]  # on one draw
    assert {release.clip for release in draws[3] if release.query == "train/clip-bit"} == {0.5}
    assert [planned.adaptive for planned in schedule.releases] == [False, True, False, False]


def test_shares_and_growth_are_the_schedules() -> None:
    schedule = plan({"shares": {"count": 0.5, "train": 0.5}, "growth": 4.0})
    assert {planned.query: planned.share for planned in schedule.releases} == {"count": 0.5, "train": 0.5}
    assert schedule.growth == 4.0


@pytest.mark.parametrize(
    ("section", "sampling", "accounted"),
    [
        ({}, "poisson", "poisson"),
        ({"amplification": False}, "poisson", "independent"),
        ({"trust": "secagg"}, "poisson", "poisson"),
        ({"trust": "distributed"}, "poisson", "independent"),
        ({"trust": "local"}, "poisson", "independent"),
        ({}, "cyclic", "cyclic"),
        ({"trust": "local"}, "cyclic", "cyclic"),
    ],
)
def test_sampling_is_credited_only_where_it_hides_someone(
    section: dict[str, Any], sampling: str, accounted: str
) -> None:
    assert plan(section, rate=0.5, sampling=sampling).sampling == accounted


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"clip": 1.0}, "one clip cannot serve the queries count, train; give one by query, clip = { count = 1 }"),
        ({"clip": {"trian": 1.0}}, "privacy.clip.trian: the method makes no such query; did you mean 'train'"),
        ({"shares": {"train": 1.0}}, "give the share of each of the queries count, train, and no other"),
        ({"shares": {"count": 0.5, "train": 0.7}}, "have shares that sum to 1.2"),
        ({"clip": {"train": {"items": 1.0}}, "adaptive": {}}, "the clip of 'train' is by table"),
        ({"amplification": True, "trust": "local"}, "which sees who takes part, so that sampling hides nobody"),
        ({"continual": {}, "trust": "distributed"}, "continual correlates the server's noise"),
        ({"adaptive": {"quantile": 1.0}}, "adaptive.quantile = 1.0"),
        ({"growth": 0}, "growth = 0"),
    ],
)
def test_what_a_section_cannot_mean_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, PrivacyError)) as caught:
        plan(section)
    assert message in str(caught.value)


def test_amplification_takes_poisson_sampling() -> None:
    with pytest.raises(PrivacyError, match="sampling = 'cyclic' hides nobody; it takes 'poisson'"):
        plan({"amplification": True}, rate=0.5, sampling="cyclic")
    with pytest.raises(PrivacyError, match="sampling 'fixed' cannot be accounted for"):
        plan({}, rate=0.5, sampling="fixed")


def test_discrete_noise_is_calibrated_and_quoted_by_rdp() -> None:
    config = PrivacyConfig(epsilon=4.0, trust="distributed")
    sigmas = config.noise_multipliers(GRAM_AND_COUNT)
    assert config.quoted == "rdp"
    assert 3.98 < GRAM_AND_COUNT.epsilon(sigmas, 1e-5, "rdp") <= 4.0
    assert PrivacyConfig(epsilon=4.0).quoted == "prv"
