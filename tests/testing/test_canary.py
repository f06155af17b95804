"""The canary: every method stays at chance where nothing can be learnt, and a planted leak is caught."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.errors import ModelError
from fedrec.federated import FederatedRecommender
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig, Popularity, PopularityConfig
from fedrec.recommenders.lightgcn import LightGCN, LightGCNConfig
from fedrec.recommenders.recommender import Recommender, Scorer, Training
from fedrec.recommenders.sampling import negatives
from fedrec.recommenders.trainer import Stopping
from fedrec.streams import Streams
from fedrec.testing import check_no_leak

STOPPING = Stopping(every=100, patience=0)


def ego_lightgcn() -> Recommender:
    return FederatedRecommender(EgoLightGCN(EgoLightGCNConfig(dim=8, rounds=12, stopping=STOPPING)))


def popularity() -> Recommender:
    return FederatedRecommender(Popularity(PopularityConfig()))


def lightgcn() -> Recommender:
    return LightGCN(LightGCNConfig(dim=8, epochs=12, stopping=STOPPING))


@pytest.mark.parametrize("build", [ego_lightgcn, popularity, lightgcn])
def test_training_alone_on_random_items_ranks_at_chance(build: Callable[[], Recommender]) -> None:
    def fit(train: Interactions, held_out: Interactions) -> Scorer:
        recommender = build()
        recommender.fit(train, Training(device="cpu"))
        return recommender.score

    assert abs(check_no_leak(fit).deviations) < 4


def test_negatives_drawn_around_the_held_out_item_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol that most published federated recommenders share: negatives outside *all* of a user's items."""

    def fit(train: Interactions, held_out: Interactions) -> Scorer:
        def leaking(
            draw: Streams, keys: Tensor, indptr: Tensor, items: Tensor, owner: Tensor, counter: Tensor, n_items: int
        ) -> Tensor:
            everything = torch.from_numpy(np.sort(np.concatenate([items.numpy(), held_out.item])))
            return negatives(draw, keys, torch.tensor([0, len(everything)]), everything, owner, counter, n_items)

        monkeypatch.setattr("fedrec.federated.queries.local_training.negatives", leaking)
        recommender = ego_lightgcn()
        recommender.fit(train, Training(device="cpu"))
        return recommender.score

    with pytest.raises(ModelError, match="held-out items reach the training"):
        check_no_leak(fit)


def test_a_scorer_that_is_not_finite_raises() -> None:
    with pytest.raises(ModelError, match="not finite"):
        check_no_leak(lambda train, held_out: lambda users: torch.full((1, 60), float("nan")), users=1)


def test_constant_scores_are_chance_exactly() -> None:
    assert check_no_leak(lambda train, held_out: lambda users: torch.zeros(1, 60), users=5).percentile == 0.5
