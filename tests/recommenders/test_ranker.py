from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fedrec.data import Interactions
from fedrec.errors import DataError
from fedrec.recommenders import (
    ForestRanker,
    ForestRankerConfig,
    Histories,
    ItemNeighbors,
    ItemNeighborsConfig,
    LogisticRanker,
    LogisticRankerConfig,
    Training,
    UserNeighbors,
    UserNeighborsConfig,
)
from fedrec.recommenders.pair_features import NAMES, PairFeatures
from tests.graph.small import interactions
from tests.recommenders.planted import blocks

PLAIN, HELD = blocks()
TRAIN = replace(
    PLAIN,
    user_attributes=pd.DataFrame({"group": ["even", "odd"] * 15}),
    item_attributes=pd.DataFrame({"genres": ["a", "b", "a|c", "b|c"] * 6}),
)
SMALL = replace(
    interactions([(0, 0), (0, 1), (1, 0), (2, 2)], n_users=3, n_items=4),
    user_attributes=pd.DataFrame({"group": ["x", "x", "y"]}),
    item_attributes=pd.DataFrame({"genres": ["a", "a|b", "b", "a|b"]}),
)


def features(known: Interactions) -> PairFeatures:
    items, users = ItemNeighbors(ItemNeighborsConfig(activity_power=0)), UserNeighbors(UserNeighborsConfig())
    return PairFeatures.of(known, items, users, "auto", ("genres",))


def test_features_worked_by_hand() -> None:
    found = features(replace(SMALL, user_attributes=pd.DataFrame({"group": ["x", "x", "y"]})))
    found = PairFeatures.of(SMALL, found.items, found.users, ("group",), ("genres",))
    # User 0 (group x, items 0 and 1) and items 2 and 3; user 2 (group y, item 2) and item 0.
    row = found.at(torch.tensor([2, 0]), torch.tensor([1, 1, 0]), torch.tensor([2, 3, 0]))
    columns = dict(zip(NAMES, row.T.tolist(), strict=True))
    assert columns["popularity"] == pytest.approx([math.log(2), 0, math.log(3)])
    assert columns["activity"] == pytest.approx([math.log(3), math.log(3), math.log(2)])
    assert columns["item-neighbors"] == [0, 0, 0]
    # Of user 0's two items all have genre a and one has b; of user 2's one item none has a.
    assert columns["affinity"] == pytest.approx([1 / 2, (1 + 1 / 2) / 2, 0])
    # Group x has 2 of 3 users, none of the one user of item 2; group y has 1 of 3, none of the two users of item 0.
    assert columns["group-popularity"] == pytest.approx([math.log(1 / (1 + 2 / 3)), 0, math.log(1 / (1 + 2 / 3))])


def test_no_interaction_is_among_what_its_features_are_computed_from(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[set[tuple[int, int]]] = []
    asked: list[set[tuple[int, int]]] = []
    of, at = PairFeatures.of, PairFeatures.at

    def spy_of(interactions: Interactions, *rest: Any) -> PairFeatures:
        known.append(set(zip(interactions.user.tolist(), interactions.item.tolist(), strict=True)))
        return of(interactions, *rest)

    def spy_at(self: PairFeatures, users: torch.Tensor, owner: torch.Tensor, items: torch.Tensor) -> Any:
        asked.append(set(zip(users[owner].tolist(), items.tolist(), strict=True)))
        return at(self, users, owner, items)

    monkeypatch.setattr(PairFeatures, "of", spy_of)
    monkeypatch.setattr(PairFeatures, "at", spy_at)
    model = LogisticRanker(LogisticRankerConfig(candidates=10, share=0.3))
    model.fit(TRAIN, Training(device="cpu"))
    everything = set(zip(TRAIN.user.tolist(), TRAIN.item.tolist(), strict=True))
    assert [len(part) < len(everything) for part in known] == [True, False]
    assert not asked[0] & known[0]
    positives = asked[0] & everything
    assert positives
    assert positives <= everything - known[0]  # of what was held out, what is a candidate
    model.score(torch.arange(TRAIN.n_users))
    assert not asked[1] & everything


@pytest.mark.parametrize(
    "model",
    [
        ForestRanker(ForestRankerConfig(trees=10, leaf=5, candidates=8)),
        LogisticRanker(LogisticRankerConfig(candidates=8)),
    ],
)
def test_candidates_come_first_and_the_others_as_the_first_stage_has_them(model: Any) -> None:
    model.fit(TRAIN, Training(device="cpu"))
    first = ItemNeighbors(model.config.items)
    first.fit(TRAIN, Training())
    users = torch.arange(TRAIN.n_users)
    scores, stage = model.score(users), first.score(users)
    own = Histories.of(TRAIN).matrix.toarray() > 0
    for user in range(TRAIN.n_users):
        ranked = [item for item in scores[user].argsort(descending=True).tolist() if not own[user, item]]
        head, tail = ranked[:8], ranked[8:]
        assert all(scores[user, item] >= 0 for item in head)
        assert all(scores[user, item] < 0 for item in tail)
        assert stage[user, head].min() >= stage[user, tail].max()
        assert stage[user, tail].tolist() == sorted(stage[user, tail].tolist(), reverse=True)


def test_learns_that_groups_differ() -> None:
    """A user without items is ranked for by the group alone."""
    train = TRAIN.take(TRAIN.user > 1)
    model = LogisticRanker(LogisticRankerConfig(candidates=24))
    model.fit(train, Training(device="cpu"))
    scores = model.score(torch.tensor([0, 1]))
    assert scores[0, ::2].mean() > scores[0, 1::2].mean()
    assert scores[1, ::2].mean() < scores[1, 1::2].mean()


def test_the_saved_forest_is_the_forest() -> None:
    model = ForestRanker(ForestRankerConfig(trees=3, leaf=5))
    model.fit(TRAIN, Training(device="cpu"))
    tensors = {name: tensor.numpy() for name, tensor in model.tensors().items()}
    row = features(TRAIN).at(torch.tensor([0]), torch.tensor([0]), torch.tensor([1])).astype(np.float32)[0]
    votes, start = [], 0
    for size in tensors["nodes"]:
        node = 0
        while tensors["feature"][start + node] >= 0:
            side = "left" if row[tensors["feature"][start + node]] <= tensors["threshold"][start + node] else "right"
            node = tensors[side][start + node]
        votes.append(tensors["value"][start + node][1] / tensors["value"][start + node].sum())
        start += size
    forest = model._stages.ready()
    assert np.mean(votes) == pytest.approx(forest.predict_proba(row[None])[0, 1])


def test_only_candidates_are_learned_from() -> None:
    """A first stage that finds nothing of what is held out leaves nothing to learn."""
    # Held out are items 5, 6 and 7, which nobody else has; users 3 and 4 make item 3 the candidate.
    pairs = [
        (0, 0),
        (0, 1),
        (0, 5),
        (1, 0),
        (1, 1),
        (1, 6),
        (2, 0),
        (2, 7),
        (3, 3),
        (3, 0),
        (3, 1),
        (4, 3),
        (4, 1),
        (4, 0),
    ]
    train = interactions(pairs, n_users=5, n_items=8)
    timed = replace(train, time=np.arange(len(pairs), dtype=np.float64))
    with pytest.raises(DataError, match="examples are held-out items among the first 1 candidates"):
        LogisticRanker(LogisticRankerConfig(candidates=1)).fit(timed, Training())


def test_one_interaction_a_user_is_too_few() -> None:
    with pytest.raises(DataError, match="no user has two training interactions"):
        ForestRanker(ForestRankerConfig()).fit(interactions([(0, 0), (1, 1)], 2, 2), Training())
