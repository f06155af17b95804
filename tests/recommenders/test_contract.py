"""Every recommender keeps the contract, and federated methods share its part on folding in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedrec.components import build_config
from fedrec.errors import ModelError
from fedrec.federated import METHODS, FederatedRecommender
from fedrec.recommenders import RECOMMENDERS, Histories, Training, folds_in
from fedrec.testing import check_recommender
from tests.graph.small import interactions
from tests.recommenders.planted import blocks
from tests.testing.variants import CENTRAL, FEDERATED

SKIPPED = {"random": ("beats_chance",)}
CLOSED_FORM = {"popularity", "ease", "ials", "spectral"}  # a user is a function of their items


@pytest.mark.parametrize(("kind", "settings"), CENTRAL)
def test_keeps_the_contract(kind: str, settings: dict[str, Any]) -> None:
    recommender = RECOMMENDERS[kind]
    check_recommender(recommender, build_config(recommender.config_class, settings, kind), skip=SKIPPED.get(kind, ()))


@pytest.mark.parametrize(("kind", "settings"), FEDERATED)
def test_federated_methods_fold_in_or_say_that_they_do_not(kind: str, settings: dict[str, Any]) -> None:
    method: Any = METHODS[kind]
    train, _ = blocks()
    recommender = FederatedRecommender(method(build_config(method.config_class, settings, kind)))
    with pytest.raises(ModelError, match="not fitted"):
        _ = recommender.folds_in
    recommender.fit(train, Training(device="cpu"))
    histories = Histories.of(train).take(torch.tensor([3, 4]))
    if folds_in(recommender):
        torch.testing.assert_close(recommender.score_histories(histories), recommender.score(torch.tensor([3, 4])))
    else:
        assert kind not in CLOSED_FORM
        with pytest.raises(ModelError, match="does not fold in"):
            recommender.score_histories(histories)


def test_histories_are_taken_in_the_order_asked_for() -> None:
    histories = Histories.of(interactions([(0, 2), (2, 1), (2, 0)], n_users=3, n_items=4))
    taken = histories.take(torch.tensor([2, 1, 2, 0]))
    assert taken.indptr.tolist() == [0, 2, 2, 4, 5]
    assert taken.items.tolist() == [0, 1, 0, 1, 2]
    assert taken.matrix.toarray().tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]
    filled = taken.fill_empty(torch.zeros(4, 4), torch.tensor([1, 2, 3, 4]))
    assert filled.sum(dim=1).tolist() == [0, 10, 0, 0]
