"""The `privacy` section: sound targets are taken, the others refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from fedrec.components import build_config
from fedrec.errors import ConfigError
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
