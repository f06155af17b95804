"""The canary: every method stays at chance where nothing can be learnt, and a planted leak is caught."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrec.components import build_config
from fedrec.data import Interactions, LeaveOneOut, Split, Vocabulary, split
from fedrec.errors import ModelError
from fedrec.evaluation import EvaluationConfig, evaluate, make_validator
from fedrec.federated import METHODS, FederatedRecommender
from fedrec.recommenders import RECOMMENDERS, Recommender, Scorer, Training, negatives
from fedrec.streams import Streams
from fedrec.testing import check_no_leak
from tests.testing.variants import CENTRAL, FEDERATED, TRAINED

LONGER: dict[str, Any] = {"dim": 32, "rounds": 40, "stopping": {"every": 5, "patience": 10}}


def build(kind: str, settings: dict[str, Any]) -> Recommender:
    """A registered method, federated or central."""
    if kind in METHODS:
        method = METHODS[kind]
        return FederatedRecommender(method(build_config(method.config_class, settings, kind)))
    recommender = RECOMMENDERS[kind]
    return recommender(build_config(recommender.config_class, settings, kind))


def test_every_registered_method_has_its_canary() -> None:
    """`check_method` runs it for the federated ones and `check_recommender` for the central ones."""
    assert {kind for kind, _ in CENTRAL + FEDERATED} == {*METHODS, *RECOMMENDERS}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ego-lightgcn", LONGER),
        ("lightgcn", {"dim": 8, "epochs": 10, "stopping": {"every": 2, "patience": 2}}),
    ],
)
def test_the_whole_way_from_split_to_test_is_at_chance_on_random_items(kind: str, settings: dict[str, Any]) -> None:
    """Splitting, validating, stopping early and testing together: no step lets the test items through."""
    # A false alarm once in 16,000 seeds.
    assert abs(deviations_from_chance(kind, settings, random_split(n_users=600))) < 4


def test_negatives_outside_train_validation_and_test_are_caught_on_the_whole_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same split and settings as above; only the negatives are drawn outside everything that a user has."""
    parts = random_split(n_users=600)
    rows = [
        np.concatenate([part.item[part.user == user] for part in (parts.train, parts.valid, parts.test)])
        for user in range(600)
    ]
    everything = {
        int(key): torch.from_numpy(np.sort(row)) for key, row in zip(parts.train.users.keys, rows, strict=True)
    }

    def leaking(
        draw: Streams, keys: Tensor, indptr: Tensor, items: Tensor, owner: Tensor, counter: Tensor, n_items: int
    ) -> Tensor:
        of_cohort = [everything[key] for key in keys.tolist()]
        ends = torch.tensor([0, *map(len, of_cohort)]).cumsum(0)
        return negatives(draw, keys, ends, torch.cat(of_cohort), owner, counter, n_items)

    monkeypatch.setenv("FEDREC_COMPILED", "0")  # the compiled loop draws its negatives itself
    monkeypatch.setattr("fedrec.federated.queries.local_training.negatives", leaking)
    assert deviations_from_chance("ego-lightgcn", LONGER, parts) > 4


def random_split(n_users: int) -> Split:
    """Users with random items, split by time into train, validation and test: there is nothing to learn."""
    n_items, size = 80, 8
    generator = torch.Generator().manual_seed(5)
    items = torch.stack([torch.randperm(n_items, generator=generator)[:size] for _ in range(n_users)]).flatten()
    users = Vocabulary(tuple(map(str, range(n_users))))
    catalogue = Vocabulary(tuple(map(str, range(n_items))))
    user = np.repeat(np.arange(n_users), size)
    together = Interactions(user, items.numpy(), users, catalogue, time=np.arange(len(user), dtype=np.float64))
    return split(together, LeaveOneOut(), Streams(0))


def deviations_from_chance(kind: str, settings: dict[str, Any], parts: Split) -> float:
    """Fit a method as a run does, and test it once: how far the hit rate is from that of random lists."""
    measure = EvaluationConfig(k=(10,))
    recommender = build(kind, settings)
    validator = make_validator(parts, measure, seed=0)
    recommender.fit(parts.train, Training(device="cpu", validator=validator))
    n_users, known = len(parts.test), (len(parts.train) + len(parts.valid)) // len(parts.test)
    chance = 10 / (parts.train.n_items - known)
    deviation = math.sqrt(chance * (1 - chance) / n_users)
    found = evaluate(recommender.score, parts, measure, seed=0).value("hit-rate@10")
    return (found - chance) / deviation


def test_negatives_drawn_around_the_held_out_item_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol that most published federated recommenders share: negatives outside *all* of a user's items."""

    def fit(train: Interactions, held_out: Interactions) -> Scorer:
        def leaking(
            draw: Streams, keys: Tensor, indptr: Tensor, items: Tensor, owner: Tensor, counter: Tensor, n_items: int
        ) -> Tensor:
            everything = torch.from_numpy(np.sort(np.concatenate([items.numpy(), held_out.item])))
            return negatives(draw, keys, torch.tensor([0, len(everything)]), everything, owner, counter, n_items)

        monkeypatch.setenv("FEDREC_COMPILED", "0")  # the compiled loop draws its negatives itself
        monkeypatch.setattr("fedrec.federated.queries.local_training.negatives", leaking)
        recommender = build("ego-lightgcn", TRAINED | {"rounds": 12})
        recommender.fit(train, Training(device="cpu"))
        return recommender.score

    with pytest.raises(ModelError, match="held-out items reach the training"):
        check_no_leak(fit, users=50)


def test_a_scorer_that_is_not_finite_raises() -> None:
    with pytest.raises(ModelError, match="not finite"):
        check_no_leak(lambda train, held_out: lambda users: torch.full((1, 60), float("nan")), users=1)


def test_constant_scores_are_chance_exactly() -> None:
    assert check_no_leak(lambda train, held_out: lambda users: torch.zeros(1, 60), users=5).percentile == 0.5
