from __future__ import annotations

import numpy as np
import pytest
import torch

from fedrec.errors import ConfigError, DataError, ModelError, RunError
from fedrec.recommenders import BPR, SVD, BPRConfig, Histories, SVDConfig, Training
from fedrec.recommenders.factorization import BPRLearner
from tests.graph.small import interactions
from tests.recommenders.planted import blocks

TRAIN, HELD = blocks()


def test_svd_is_the_projection_on_the_leading_singular_vectors() -> None:
    model = SVD(SVDConfig(factors=2))
    model.fit(TRAIN, Training(device="cpu"))
    dense = Histories.of(TRAIN).matrix.toarray()
    vectors = np.linalg.svd(dense)[2][:2].T
    np.testing.assert_allclose(model.score(torch.arange(30)).numpy(), dense @ vectors @ vectors.T, atol=1e-10)


def test_svd_of_all_factors_gives_the_history_back() -> None:
    model = SVD(SVDConfig(factors=24))
    model.fit(TRAIN, Training(device="cpu"))
    history = Histories(torch.tensor([0, 3]), torch.tensor([0, 2, 6]), 24)
    assert model.tensors()["vectors"].shape[1] == np.linalg.matrix_rank(Histories.of(TRAIN).matrix.toarray())
    known = Histories.of(TRAIN)
    torch.testing.assert_close(model.score_histories(known), torch.from_numpy(known.matrix.toarray()))
    assert model.score_histories(history).shape == (1, 24)


def test_svd_refuses_more_factors_than_items_and_empty_data() -> None:
    with pytest.raises(ConfigError, match="factors = 25 is more than the 24 items"):
        SVD(SVDConfig(factors=25)).fit(TRAIN, Training())
    with pytest.raises(DataError, match="no interaction"):
        SVD(SVDConfig()).fit(interactions([], 3, 3), Training())


def test_an_epoch_of_bpr_is_the_librarys_gradient_step() -> None:
    train = interactions([(0, 0), (1, 1)], n_users=2, n_items=2)
    config = BPRConfig(factors=2, rate=0.1, regularization=0.02)
    learner = BPRLearner(config, train, seed=0)
    users, items = learner.users.double().numpy(), learner.items.double().numpy()
    learner.step(1)
    # Both draws of the epoch are a user u, their item u, and the other's item, or are skipped: replay the choices.
    fits = []
    for first in (None, 0, 1):
        for second in (None, 0, 1):
            p, q = users.copy(), items.copy()
            for user in (first, second):
                if user is None:
                    continue
                liked, other = user, 1 - user
                z = 1 / (1 + np.exp(p[user] @ (q[liked] - q[other])))
                old = p[user].copy()
                p[user, :2] += 0.1 * (z * (q[liked, :2] - q[other, :2]) - 0.02 * old[:2])
                for item, sign in ((liked, 1), (other, -1)):
                    q[item, :2] += 0.1 * (sign * z * old[:2] - 0.02 * q[item, :2])
                    q[item, 2] += 0.1 * (sign * z - 0.02 * q[item, 2])
            fits.append(np.allclose(p, learner.users, atol=1e-6) and np.allclose(q, learner.items, atol=1e-6))
    assert any(fits[1:])
    assert not fits[0]  # something was learned


def test_bpr_knows_nothing_of_items_without_interactions() -> None:
    train = interactions([(0, 0), (0, 1), (1, 1), (1, 2)], n_users=3, n_items=4)
    model = BPR(BPRConfig(factors=4, epochs=5))
    model.fit(train, Training(device="cpu"))
    scores = model.score(torch.arange(3))
    assert scores[:, 3].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(scores[2], model.tensors()["items"][:, -1])  # biases alone for a user without items


def test_bpr_that_diverges_says_so() -> None:
    with pytest.raises(ModelError, match="diverged: lower the rate"):
        BPR(BPRConfig(factors=4, rate=1e6, epochs=20)).fit(TRAIN, Training(device="cpu"))


def test_bpr_refuses_empty_data_and_foreign_checkpoints() -> None:
    with pytest.raises(DataError, match="no interaction"):
        BPR(BPRConfig()).fit(interactions([], 3, 3), Training())
    learner = BPRLearner(BPRConfig(factors=4), TRAIN, seed=0)
    with pytest.raises(RunError, match=r"users has shape \[30, 4\] and this configuration needs \[30, 5\]"):
        learner.restore(BPRLearner(BPRConfig(factors=3), TRAIN, seed=0).state())
    with pytest.raises(RunError, match="delete it and run again, or run with those settings"):
        learner.restore_facts(BPRLearner(BPRConfig(factors=4), TRAIN, seed=1).facts())
