"""A federated arm: deterministic, resumable with its ledger, never without its guarantee, and no canary sings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from fedrec.components import build_config
from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError, ModelError, PrivacyError
from fedrec.federated import EngineConfig, FederatedRecommender, Federation, ParticipationConfig
from fedrec.federated.methods import (
    EgoLightGCN,
    EgoLightGCNConfig,
    Popularity,
    PopularityConfig,
    Spectral,
    SpectralConfig,
)
from fedrec.federated.server_optimizer import ServerOptimizerConfig
from fedrec.privacy import PrivacyConfig, SystemNoise
from fedrec.recommenders.recommender import Tensors, Training
from fedrec.recommenders.trainer import Stopping
from fedrec.streams import Streams

EVERYONE = torch.arange(40)
NO_PATIENCE = Stopping(every=1, patience=0)


def ego(rounds: int = 6, **settings: Any) -> EgoLightGCN:
    return EgoLightGCN(EgoLightGCNConfig(dim=4, rounds=rounds, stopping=NO_PATIENCE, **settings))


class Kept:
    """A checkpoint in memory, which can pretend that the process died after a step."""

    def __init__(self, until: int | None = None) -> None:
        self.until = until
        self.saved: tuple[dict[str, torch.Tensor], Any] | None = None

    def load(self) -> tuple[Tensors, Mapping[str, object]] | None:
        return self.saved

    def save(self, tensors: Tensors, facts: Mapping[str, Any]) -> None:
        self.saved = {name: tensor.clone() for name, tensor in tensors.items()}, facts
        if facts["progress"]["step"] == self.until:
            raise KeyboardInterrupt


def fitted(train: Interactions, seed: int = 0, **arm: Any) -> FederatedRecommender:
    recommender = FederatedRecommender(arm.pop("method", None) or ego(), **arm)
    recommender.fit(train, Training(seed=seed, device="cpu"))
    return recommender


def test_the_seed_determines_every_bit(train: Interactions) -> None:
    first, again, other = (fitted(train, seed).score(EVERYONE) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("privacy", [None, PrivacyConfig(noise_multiplier=1.0, delta=1e-3)])
def test_an_interrupted_run_continues_with_the_same_bytes_and_ledger(
    train: Interactions, privacy: PrivacyConfig | None
) -> None:
    arm: dict[str, Any] = {"privacy": privacy, "participation": ParticipationConfig(rate=0.5, dropout=0.1)}
    whole = fitted(train, **arm)
    kept = Kept(until=3)
    with pytest.raises(KeyboardInterrupt):
        FederatedRecommender(ego(), **arm).fit(train, Training(checkpoints=kept, device="cpu"))
    kept.until = None
    resumed = FederatedRecommender(ego(), **arm)
    resumed.fit(train, Training(checkpoints=kept, device="cpu"))
    assert torch.equal(whole.score(EVERYONE), resumed.score(EVERYONE))
    assert whole.communication == resumed.communication
    if privacy is not None:
        assert whole.guarantee is not None
        assert resumed.guarantee is not None
        assert whole.guarantee.as_dict() == resumed.guarantee.as_dict()
        assert len(resumed.guarantee.made) == 6


def test_a_ledger_that_does_not_match_its_checkpoint_is_refused(train: Interactions) -> None:
    privacy, kept = PrivacyConfig(noise_multiplier=1.0, delta=1e-3), Kept(until=3)
    with pytest.raises(KeyboardInterrupt):
        FederatedRecommender(ego(), privacy=privacy).fit(train, Training(checkpoints=kept, device="cpu"))
    assert kept.saved is not None
    kept.saved[1]["learner"]["ledger"]["releases"].pop()
    with pytest.raises(PrivacyError, match="ledger of 2 releases is not that of this configuration's first 3 rounds"):
        FederatedRecommender(ego(), privacy=privacy).fit(train, Training(checkpoints=kept, device="cpu"))


def test_a_guarantee_comes_with_the_privacy_section_and_never_without(train: Interactions) -> None:
    assert fitted(train).guarantee is None
    spectral = Spectral(SpectralConfig(factors=3))
    guarantee = fitted(train, method=spectral, privacy=PrivacyConfig(epsilon=8.0, delta=1e-3)).guarantee
    assert guarantee is not None
    assert 7.5 < guarantee.epsilon <= 8.0
    assert "one user" in guarantee.in_words()


@pytest.mark.parametrize(
    ("method", "privacy", "message"),
    [
        (Popularity(PopularityConfig()), {"epsilon": 8, "delta": 0.025}, "delta = 0.025 is not below 1/users = 1/40"),
        (EgoLightGCN(EgoLightGCNConfig()), {"epsilon": 8, "delta": 1e-3}, "set patience = 0"),
        (
            Spectral(SpectralConfig(factors=3, weight="degree")),
            {"epsilon": 8, "delta": 1e-3, "clip": 2.0},
            "one clip cannot serve the queries count, gram",
        ),
    ],
)
def test_unsound_settings_are_refused_before_training(
    train: Interactions, method: Popularity | Spectral | EgoLightGCN, privacy: dict[str, Any], message: str
) -> None:
    config = build_config(PrivacyConfig, privacy, "privacy")
    assert isinstance(config, PrivacyConfig)
    with pytest.raises((ConfigError, PrivacyError), match=message):
        FederatedRecommender(method, privacy=config).check(train)


def test_a_diverged_model_raises_and_never_ranks(train: Interactions) -> None:
    with pytest.raises(ModelError, match=r"\d+ of 40 answers.*not finite.*training diverged"):
        fitted(train, method=ego(server=ServerOptimizerConfig(kind="sgd", rate=1e38)))
    with pytest.raises(ModelError, match="not fitted"):
        FederatedRecommender(ego()).score(EVERYONE)


def test_rounds_without_participants_leave_the_model_as_it_was(train: Interactions) -> None:
    nobody = fitted(train, participation=ParticipationConfig(rate=1e-12))
    start = ego().start(Federation(40, 25, Streams(0)))
    assert torch.equal(nobody.tensors()["server/items"], start["items"])
    assert nobody.communication.rounds == 6
    assert nobody.communication.mb_up_per_user == 0


def test_costs_are_counted_per_user(train: Interactions) -> None:
    costs = fitted(train, method=Popularity(PopularityConfig())).communication
    assert costs.rounds == 1
    assert costs.mb_up_per_user == pytest.approx(len(train) * 12 / 40 / 1e6)
    assert fitted(train).communication.mb_down_per_user == pytest.approx(6 * 25 * 4 * 4 / 1e6)


def test_participants_and_noise_of_a_deployment_do_not_follow_the_seed(train: Interactions) -> None:
    arm: dict[str, Any] = {"participation": ParticipationConfig(rate=0.5), "engine": EngineConfig(randomness="os")}
    first, again = (fitted(train, method=ego(rounds=1), **arm).tensors() for _ in range(2))
    assert not torch.equal(first["users/known/user"], again["users/known/user"])  # equal once in 2^30 runs or so
    everyone: dict[str, Any] = {"engine": arm["engine"], "privacy": PrivacyConfig(noise_multiplier=1.0, delta=1e-3)}
    first, again = (fitted(train, method=ego(rounds=1), **everyone).tensors() for _ in range(2))
    assert not torch.equal(first["server/items"], again["server/items"])


def test_private_arms_of_one_seed_do_not_share_their_noise(train: Interactions) -> None:
    """Under one noise, the difference of two released models would be the exact difference of the sums."""
    server = ServerOptimizerConfig(kind="sgd", rate=40.0)
    private: dict[str, Any] = {
        "privacy": PrivacyConfig(noise_multiplier=50.0, delta=1e-3),
        "engine": EngineConfig(precision="float64"),
    }

    def items(loss: str, **arm: Any) -> torch.Tensor:
        return fitted(train, method=ego(rounds=1, loss=loss, server=server, clip=1.0), **arm).tensors()["server/items"]

    difference = items("bce", **private) - items("bpr", **private)
    # Two independent noises of deviation 50 on 100 entries; one noise would leave the sums' difference, below 2.
    assert 0.6 < difference.std() / (2**0.5 * 50) < 1.4
    torch.testing.assert_close(items("bce", **private), items("bce", **private), rtol=0, atol=0)


def test_a_deployments_noise_is_drawn_once_for_each_release(
    train: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed and resumed, a run that cannot draw its noise again has made as many releases as its ledger says."""
    drawn: list[torch.Tensor] = []
    honest = SystemNoise.normals

    def counted(self: SystemNoise, shape: Sequence[int], purpose: str) -> torch.Tensor:
        drawn.append(honest(self, shape, purpose))
        return drawn[-1]

    monkeypatch.setattr(SystemNoise, "normals", counted)
    method = EgoLightGCN(EgoLightGCNConfig(dim=4, rounds=10, stopping=Stopping(every=5, patience=0)))
    arm: dict[str, Any] = {
        "privacy": PrivacyConfig(noise_multiplier=1.0, delta=1e-3),
        "engine": EngineConfig(randomness="os"),
    }
    kept = Kept(until=7)
    with pytest.raises(KeyboardInterrupt):
        FederatedRecommender(method, **arm).fit(train, Training(checkpoints=kept, device="cpu"))
    kept.until = None
    resumed = FederatedRecommender(method, **arm)
    resumed.fit(train, Training(checkpoints=kept, device="cpu"))
    assert resumed.guarantee is not None
    assert len(resumed.guarantee.made) == len(drawn) == 10
