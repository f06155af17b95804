from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from implicit.nearest_neighbours import CosineRecommender

from fedrec.recommenders import (
    Histories,
    ItemNeighbors,
    ItemNeighborsConfig,
    Training,
    UserNeighbors,
    UserNeighborsConfig,
)
from fedrec.recommenders.neighbors import nearest, similarity
from tests.graph.small import graphs, interactions
from tests.recommenders.planted import blocks

# Users 0..3; item 0 has users 0, 1, 2; item 1 has 0, 1; item 2 has 2, 3; item 3 has nobody.
TRAIN = interactions([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 2), (3, 2)], n_users=4, n_items=4)


def items_of(**settings: Any) -> ItemNeighbors:
    model = ItemNeighbors(ItemNeighborsConfig(**({"activity_power": 0.0} | settings)))
    model.fit(TRAIN, Training(device="cpu"))
    return model


def test_item_scores_are_sums_of_cosines_worked_by_hand() -> None:
    # cos(0, 1) = 2 / √(3·2), cos(0, 2) = 1 / √(3·2), cos(1, 2) = 0. User 3 has item 2, user 2 has items 0 and 2.
    scores = items_of().score(torch.tensor([3, 2]))
    s01, s02 = 2 / math.sqrt(6), 1 / math.sqrt(6)
    assert scores.tolist() == [pytest.approx([s02, 0, 0, 0]), pytest.approx([s02, s01, s02, 0])]


def test_an_item_sums_over_its_own_nearest_neighbors() -> None:
    # Item 0 keeps item 1 alone, so item 2 says nothing of item 0; but item 2 keeps item 0.
    scores = items_of(neighbors=1).score(torch.tensor([3, 2]))
    assert scores.tolist() == [[0, 0, 0, 0], pytest.approx([0, 2 / math.sqrt(6), 1 / math.sqrt(6), 0])]


def test_shrinkage_and_activity_weigh_down() -> None:
    shrunk = items_of(shrinkage=1.0).score(torch.tensor([3]))
    assert shrunk[0, 0].item() == pytest.approx(1 / (math.sqrt(6) + 1))
    # With power 1 a user's items weigh 1/2 each, and 1 for user 3: c = 1/2, a = 3/2, b = 1/2 + 1.
    weighed = items_of(activity_power=1.0).score(torch.tensor([3]))
    assert weighed[0, 0].item() == pytest.approx(0.5 / math.sqrt(1.5 * 1.5))


def test_user_scores_are_sums_of_cosines_worked_by_hand() -> None:
    model = UserNeighbors(UserNeighborsConfig(neighbors=2, popularity_power=0.0))
    model.fit(TRAIN, Training(device="cpu"))
    # User 3 has item 2: cosine 1 with itself, 1/√2 with user 2, who has items 0 and 2; 0 with the others.
    assert model.score(torch.tensor([3])).tolist() == [pytest.approx([1 / math.sqrt(2), 0, 1 + 1 / math.sqrt(2), 0])]
    # With power 1 item 0 weighs 1/3 and item 2 1/2: c = 1/2, a = 1/2, b = 1/3 + 1/2.
    model = UserNeighbors(UserNeighborsConfig(neighbors=2, popularity_power=1.0))
    model.fit(TRAIN, Training(device="cpu"))
    assert model.score(torch.tensor([3]))[0, 0].item() == pytest.approx(0.5 / math.sqrt(0.5 * 5 / 6))


@given(graphs())
def test_pearson_is_the_correlation_of_columns(train: Any) -> None:
    dense = np.zeros((train.n_users, train.n_items))
    dense[train.user, train.item] = 1.0
    rows = sp.csr_matrix(dense.T)
    found = similarity(rows, rows, np.ones(train.n_users), "pearson", 0.0)
    for i in range(train.n_items):
        for j in range(train.n_items):
            x, y = dense[:, i], dense[:, j]
            constant = x.std() == 0 or y.std() == 0
            expected = 0.0 if constant else max(0.0, float(np.corrcoef(x, y)[0, 1]))
            assert found[i, j] == pytest.approx(expected, abs=1e-7)


@given(graphs(), st.sampled_from(["cosine", "pearson"]), st.floats(0, 3))
def test_similarities_are_symmetric_and_at_most_one(train: Any, kind: Any, shrinkage: float) -> None:
    rows = Histories.of(train).matrix
    found = similarity(rows, rows, np.full(train.n_items, 0.5), kind, shrinkage)
    np.testing.assert_allclose(found, found.T)
    assert found.min() >= 0.0
    assert found.max() <= 1.0 + 1e-12


def test_ties_with_the_kth_are_kept_and_zeros_are_not() -> None:
    values = np.array([[0.5, 0.2, 0.5, 0.2, 0.1], [0.0, 0.3, 0.0, 0.0, 0.0]])
    assert nearest(values, 3).toarray().tolist() == [[0.5, 0.2, 0.5, 0.2, 0.0], [0.0, 0.3, 0.0, 0.0, 0.0]]
    assert nearest(values, 3).nnz == 5
    assert nearest(values, 9).toarray().tolist() == values.tolist()


def test_blocks_of_items_find_the_same_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = items_of(similarity="pearson").tensors()
    monkeypatch.setattr("fedrec.recommenders.neighbors._BLOCK", 9)  # two items at a time
    for name, tensor in items_of(similarity="pearson").tensors().items():
        torch.testing.assert_close(tensor, whole[name])


def test_who_has_nothing_gets_what_is_popular() -> None:
    stranger = Histories(torch.tensor([0, 0]), torch.zeros(0, dtype=torch.int64), 4)
    assert items_of().score_histories(stranger).tolist() == [[3, 2, 2, 0]]


# The library turns what it was given into another format, and warns of that format.
@pytest.mark.filterwarnings("ignore:Method expects CSR input")
def test_implicit_finds_the_same_cosines() -> None:
    train, _ = blocks()
    model = ItemNeighbors(ItemNeighborsConfig(neighbors=24, activity_power=0.0))
    model.fit(train, Training(device="cpu"))
    library = CosineRecommender(K=24, num_threads=1)
    library.fit(Histories.of(train).matrix, show_progress=False)
    theirs = library.similarity.toarray()
    np.fill_diagonal(theirs, 0.0)
    parts = (model.tensors()[name].numpy() for name in ("similarity", "items", "indptr"))
    np.testing.assert_allclose(sp.csr_matrix(tuple(parts), shape=(24, 24)).toarray(), theirs)
