from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrec.components import Config, build_config
from fedrec.data import Interactions
from fedrec.errors import ConfigError, DataError, ModelError
from fedrec.recommenders import (
    Histories,
    Member,
    RankFusion,
    RankFusionConfig,
    Stacking,
    StackingConfig,
    Tensors,
    Training,
    Weighted,
    WeightedConfig,
    folds_in,
)
from fedrec.recommenders.holding_out import hold_out
from fedrec.recommenders.hybrid import reciprocal_ranks, standardized
from fedrec.streams import Streams
from tests.graph.small import interactions
from tests.recommenders.memory import MemoryLog
from tests.recommenders.planted import blocks

TRAIN, HELD = blocks()
ITEMS: dict[str, Any] = {"kind": "item-neighbors", "neighbors": 5}
RANDOM: dict[str, Any] = {"kind": "random"}
ONE = Histories(torch.tensor([0, 1]), torch.tensor([1]), 4)  # one user, who has item 1


def test_standardised_scores_worked_by_hand() -> None:
    # Outside the history are 1, 4 and 4: mean 3, deviation √2.
    found = standardized(torch.tensor([[1.0, 99.0, 4.0, 4.0]]).double(), ONE)
    assert found.tolist() == [pytest.approx([-2 / math.sqrt(2), 0, 1 / math.sqrt(2), 1 / math.sqrt(2)])]
    assert standardized(torch.full((1, 4), 0.1).double(), ONE).tolist() == [[0, 0, 0, 0]]


def test_reciprocal_ranks_worked_by_hand() -> None:
    found = reciprocal_ranks(torch.tensor([[1.0, 99.0, 4.0, 4.0]]).double(), ONE, 60)
    assert found.tolist() == [pytest.approx([1 / 63, 0, 1 / 61.5, 1 / 61.5])]


def settings(**changes: Any) -> dict[str, Any]:
    return {"members": [ITEMS, {"kind": "popularity"}]} | changes


def fitted(model: Any, train: Interactions = TRAIN) -> Any:
    model.fit(train, Training(device="cpu"))
    return model


def test_weights_decide_who_is_heard() -> None:
    alone, heard = (
        fitted(Weighted(WeightedConfig.model_validate({"members": [ITEMS, RANDOM], "weights": weights})))
        for weights in ([1.0, 0.0], [1.0, 0.5])
    )
    users = torch.arange(TRAIN.n_users)
    from_items, from_chance = (member.score(users).double() for member in heard._ensemble._fitted)
    histories = Histories.of(TRAIN)
    torch.testing.assert_close(alone.score(users), standardized(from_items, histories))
    expected = standardized(from_items, histories) + 0.5 * standardized(from_chance, histories)
    torch.testing.assert_close(heard.score(users), expected)


def test_rank_fusion_sums_reciprocal_ranks() -> None:
    model = fitted(RankFusion(RankFusionConfig.model_validate(settings(constant=3.0, weights=[2.0, 1.0]))))
    users, histories = torch.arange(TRAIN.n_users), Histories.of(TRAIN)
    first, second = (member.score(users).double() for member in model._ensemble._fitted)
    expected = 2 * reciprocal_ranks(first, histories, 3.0) + reciprocal_ranks(second, histories, 3.0)
    torch.testing.assert_close(model.score(users), expected)


def test_stacking_trusts_the_member_that_knows() -> None:
    log = MemoryLog()
    model = Stacking(StackingConfig.model_validate({"members": [RANDOM, ITEMS], "share": 0.2}))
    model.fit(TRAIN, Training(device="cpu", log=log))
    weights = model.tensors()["weights"]
    assert log.values("weight/1-random") == [weights[0].item()]
    assert weights[1] > 5 * weights[0].abs()
    users = torch.arange(TRAIN.n_users)
    parts = [standardized(m.score(users).double(), Histories.of(TRAIN)) for m in model._ensemble._fitted]
    torch.testing.assert_close(model.score(users), weights[0] * parts[0] + weights[1] * parts[1])


class SpyConfig(Config):
    """No settings."""


class Spy:
    """Remembers what it was fitted on."""

    config_class: ClassVar[type[Config]] = SpyConfig
    seen: ClassVar[list[set[tuple[int, int]]]] = []

    def __init__(self, config: SpyConfig) -> None:
        self.n_items = 0

    def fit(self, train: Interactions, training: Training) -> None:
        self.seen.append(set(zip(train.user.tolist(), train.item.tolist(), strict=True)))
        self.n_items = train.n_items

    def score(self, users: Tensor) -> Tensor:
        return torch.arange(self.n_items).expand(len(users), -1).float()

    def tensors(self) -> Tensors:
        return {"n": torch.tensor(self.n_items)}


def test_stacking_learns_from_what_its_members_have_not_seen() -> None:
    Spy.seen.clear()
    spy = {"kind": "tests.recommenders.test_hybrid:Spy"}
    fitted(Stacking(StackingConfig.model_validate({"members": [spy, RANDOM], "share": 0.3})))
    everything = set(zip(TRAIN.user.tolist(), TRAIN.item.tolist(), strict=True))
    first, second = Spy.seen
    assert second == everything
    assert first < everything
    assert len(everything - first) == sum(round(0.3 * degree) for degree in TRAIN.user_degrees)


def test_members_may_be_federated_or_ones_own() -> None:
    spectral = Member.model_validate({"kind": "spectral", "factors": 4})
    assert spectral.model_dump() == {"kind": "spectral"} | spectral.settings.model_dump()
    model = Weighted(WeightedConfig(members=(spectral, Member.model_validate(ITEMS))))
    assert fitted(model).folds_in
    three = torch.tensor([3])
    torch.testing.assert_close(model.score(three), model.score_histories(Histories.of(TRAIN).take(three)))
    assert set(model.tensors()) > {"1-spectral/server/basis", "2-item-neighbors/similarity"}


def test_a_hybrid_folds_in_if_all_members_do() -> None:
    model = fitted(Weighted(WeightedConfig.model_validate({"members": [ITEMS, RANDOM]})))
    assert not folds_in(model)
    with pytest.raises(ModelError, match="member 2-random does not fold in"):
        model.score_histories(Histories.of(TRAIN))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"members": [ITEMS]}, "at least 2 items"),
        ({"members": [ITEMS, {"neighbors": 5}]}, "has no kind; choose one of: bpr"),
        ({"members": [ITEMS, {"kind": "spectrall"}]}, "did you mean 'spectral'"),
        (
            {"members": [ITEMS, {"kind": "svd", "factor": 5}]},
            "members.svd.factor: unknown key 'factor'; did you mean 'factors'",
        ),
        (settings(weights=[1.0]), "1 weights for 2 members; give one each, or none"),
    ],
)
def test_wrong_members_are_explained(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_config(WeightedConfig, table, "arms.hybrid.method")


@pytest.mark.parametrize("order", ["time", "random"])
def test_holding_out_takes_a_share_of_each_user(order: Any) -> None:
    pairs = [(0, item) for item in range(10)] + [(1, 3), (1, 4), (2, 0)]
    train = interactions(pairs, n_users=4, n_items=10)
    timed = Interactions(
        train.user, train.item, train.users, train.items, time=-np.arange(len(pairs), dtype=np.float64)
    )
    rest, held = hold_out(timed, 0.25, order, Streams(0))
    assert held.user_degrees.tolist() == [3, 1, 0, 0]  # 2.5 is rounded up; one of two; never the only one
    assert len(rest) + len(held) == len(train)
    if order == "time":  # time runs backwards here
        assert sorted(held.item.tolist()) == [0, 1, 2, 3]
    with pytest.raises(DataError, match="no user has two training interactions"):
        hold_out(interactions([(0, 0), (1, 1)], 2, 2), 0.5, order, Streams(0))
