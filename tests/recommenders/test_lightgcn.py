from dataclasses import replace
from math import cos, log, pi
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrec.components import build_config
from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError, DataError, ModelError, RunError
from fedrec.graph import BipartiteGraph
from fedrec.recommenders import RECOMMENDERS, LightGCN, LightGCNConfig, Stopping, Training, sample_negatives
from fedrec.recommenders.lightgcn import LightGCNLearner, with_prior
from fedrec.recommenders.sampling import sample_by_popularity
from fedrec.streams import Streams
from tests.graph.small import interactions
from tests.recommenders.memory import KillAt, KilledError, MemoryCheckpoints, MemoryLog
from tests.recommenders.planted import blocks

TRAIN, HELD = blocks()
CPU = torch.device("cpu")
QUICK: dict[str, Any] = {"dim": 8, "layers": 2, "batch": 7, "epochs": 6}
LOSSES = ["softmax", "sampled-softmax", "shared-softmax", "bpr"]


def settings(**changes: Any) -> LightGCNConfig:
    return LightGCNConfig(**(QUICK | changes))


def auc(score: Tensor, train: Interactions, held: Interactions) -> float:
    """Share of (held-out item, item outside the history) pairs that are in the right order."""
    outside = torch.ones(score.shape, dtype=torch.bool)
    outside[train.user, train.item] = False
    outside[held.user, held.item] = False
    right = [
        (score[user, item] > score[user][outside[user]]).double().mean().item()
        for user, item in zip(held.user, held.item, strict=True)
    ]
    return float(np.mean(right))


@pytest.mark.parametrize("loss", LOSSES)
def test_finds_planted_blocks(loss: str) -> None:
    model = LightGCN(settings(loss=loss, epochs=30))
    users = torch.arange(TRAIN.n_users)
    log = MemoryLog()
    model.fit(TRAIN, Training(device="cpu", log=log))
    assert auc(model.score(users), TRAIN, HELD) > 0.95
    assert log.values("loss")[-1] < log.values("loss")[0]
    tensors = model.tensors()
    torch.testing.assert_close(model.score(users[3:5]), tensors["users"][3:5] @ tensors["items"].T)


@pytest.mark.parametrize("loss", LOSSES)
def test_first_epoch_is_adam_on_the_dense_loss(loss: str) -> None:
    config = settings(loss=loss, batch=1000, l2=0.1, negatives=2, temperature=0.5, activity_power=0.5)
    learner = LightGCNLearner(config, TRAIN, seed=4, device=CPU)
    embedding = learner.state()["embedding"].clone().requires_grad_()
    adjacency = BipartiteGraph.of(TRAIN).adjacency.to_dense()
    final = (embedding + adjacency @ embedding + adjacency @ adjacency @ embedding) / 3

    # Users in the epoch's order, their items ascending, and negatives from the epoch's own stream.
    draw = Streams(4, 1)
    order = torch.randperm(TRAIN.n_users, generator=draw.generator("batches")).tolist()
    pairs = [(user, item) for user in order for item in sorted(TRAIN.item[TRAIN.user == user].tolist())]
    user, item = torch.tensor(pairs).T
    if loss == "shared-softmax":
        degrees = torch.from_numpy(TRAIN.item_degrees)
        drawn = sample_by_popularity(draw.generator("negatives"), degrees, 1.0, 2)
        negative = drawn.expand(len(user), 2)
    else:
        negative = drawn = sample_negatives(draw.generator("negatives"), learner.outside, user, 2)

    if loss != "bpr":
        final = final / final.norm(dim=1, keepdim=True)
    score = final[: TRAIN.n_users] @ final[TRAIN.n_users :].T / (1.0 if loss == "bpr" else 0.5)
    positive, others = score[user, item], score[user.unsqueeze(1), negative]
    if loss == "shared-softmax":
        own = torch.zeros(score.shape, dtype=torch.bool)
        own[user, item] = True
        others = others.masked_fill(own[user.unsqueeze(1), negative], -1e9)
    squared = embedding.square().sum(dim=1)
    penalty = squared[user].mean() + squared[TRAIN.n_users + item].mean()
    if loss == "softmax":
        expected = -score.log_softmax(dim=1)[user, item].mean()
    else:
        penalty = penalty + squared[TRAIN.n_users + drawn].mean()
        if loss == "bpr":
            expected = -torch.sigmoid(positive.unsqueeze(1) - others).log().mean()
        else:
            losses = -torch.cat([positive.unsqueeze(1), others], dim=1).log_softmax(dim=1)[:, 0]
            # Only the shared softmax weighs a user's items, here by 1/√d.
            power = -0.5 if loss == "shared-softmax" else 0.0
            weight = torch.bincount(user)[user].float().pow(power)
            expected = (losses * weight).sum() / weight.sum()
    expected = expected + 0.1 / 2 * penalty
    (gradient,) = torch.autograd.grad(expected, embedding)

    logged, disclosure = learner.step(1)["loss"]
    assert logged == pytest.approx(expected.item(), rel=1e-5)
    assert disclosure == "simulation"
    torch.testing.assert_close(learner.state()["adam.exp_avg"], 0.1 * gradient)  # β₁ = .9
    # Adam's first step is the rate against the gradient's sign.
    moved = learner.state()["embedding"] - embedding.detach()
    clear = gradient.abs() > 1e-5
    torch.testing.assert_close(moved[clear], -config.rate * gradient.sign()[clear], rtol=1e-2, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_same_seed_same_bytes_and_another_seed_others(loss: str) -> None:
    def fitted(seed: int) -> bytes:
        model = LightGCN(settings(loss=loss, epochs=3))
        model.fit(TRAIN, Training(seed=seed, device="cpu"))
        return b"".join(tensor.numpy().tobytes() for tensor in model.tensors().values())

    assert fitted(0) == fitted(0)
    assert fitted(0) != fitted(1)


def test_a_restored_learner_goes_on_with_the_same_bytes() -> None:
    config = settings(loss="bpr")
    whole, first, second = (LightGCNLearner(config, TRAIN, 0, CPU) for _ in range(3))
    for number in range(1, 5):
        whole.step(number)
    for number in (1, 2):
        first.step(number)
    second.restore(first.state())
    for number in (3, 4):
        second.step(number)
    for name, tensor in whole.state().items():
        assert second.state()[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    assert first.state()["adam.step"].item() * 2 == second.state()["adam.step"].item()  # a copy, not a view


def test_a_low_pass_start_ranks_before_it_learns() -> None:
    config = settings(initialisation="low-pass", cutoff=0.3, dim=64, layers=3)
    learner = LightGCNLearner(config, TRAIN, 0, CPU)
    torch.testing.assert_close(
        learner.embedding.norm(dim=1).detach(), torch.full((TRAIN.n_users + TRAIN.n_items,), 0.8)
    )
    everyone = torch.arange(TRAIN.n_users)
    noise = LightGCNLearner(settings(dim=64, layers=3), TRAIN, 0, CPU)
    assert auc(learner.score(everyone), TRAIN, HELD) > max(0.9, auc(noise.score(everyone), TRAIN, HELD))


def test_the_rate_rises_and_falls_as_a_cosine() -> None:
    learner = LightGCNLearner(settings(schedule="cosine", rate=0.1, epochs=10, batch=1000), TRAIN, 0, CPU)
    rates = []
    for number in range(1, 11):
        learner.step(number)
        rates.append(learner.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.001)  # a hundredth at the very beginning
    assert rates[1:] == pytest.approx([0.05 * (1 + cos(pi * done / 10)) for done in range(1, 10)])


def test_ranking_by_the_inner_product_keeps_the_lengths_that_the_cosine_drops() -> None:
    cosine, inner = (LightGCN(settings(loss="shared-softmax", ranking=ranking)) for ranking in ("cosine", "inner"))
    for model in (cosine, inner):
        model.fit(TRAIN, Training(device="cpu"))
    for name, tensor in inner.tensors().items():
        assert tensor.norm(dim=1).std() > 0.01
        torch.testing.assert_close(torch.nn.functional.normalize(tensor, dim=1), cosine.tensors()[name])


def test_the_posterior_is_the_cosine_and_popularity() -> None:
    users, items = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]])
    tables = with_prior(users, items, torch.tensor([8, 2, 0]), 0.5, 0.75)
    expected = [1.2 + 0.75 * log(8), 2.0 + 0.75 * log(2), -0.75 * log(2)]
    assert (tables[0] @ tables[1].T).squeeze(0).tolist() == pytest.approx(expected)


def test_ranking_by_the_posterior_turns_popular_items_up() -> None:
    everyone = torch.arange(TRAIN.n_users)
    degrees = torch.from_numpy(TRAIN.item_degrees).float()
    cosine, none, some = (
        LightGCN(settings(loss="shared-softmax", ranking=ranking, prior=prior))
        for ranking, prior in (("cosine", 0.0), ("posterior", 0.0), ("posterior", 2.0))
    )
    for model in (cosine, none, some):
        model.fit(TRAIN, Training(device="cpu"))
    torch.testing.assert_close(none.score(everyone) * none.config.temperature, cosine.score(everyone))
    added = (some.score(everyone) - none.score(everyone))[0]
    torch.testing.assert_close(added, 2 * degrees.clamp(min=0.5).log(), rtol=1e-4, atol=1e-4)


def test_scores_follow_the_state() -> None:
    learner = LightGCNLearner(settings(), TRAIN, 0, CPU)
    everyone = torch.arange(TRAIN.n_users)
    before, state = learner.score(everyone), {name: tensor.clone() for name, tensor in learner.state().items()}
    learner.step(1)
    assert not torch.equal(learner.score(everyone), before)
    learner.restore(state)
    assert torch.equal(learner.score(everyone), before)


def test_each_epoch_has_its_own_draws() -> None:
    first, second = (LightGCNLearner(settings(loss="bpr"), TRAIN, 0, CPU) for _ in range(2))
    assert first.step(1) != second.step(2)


def test_a_killed_fit_is_finished_with_the_same_bytes() -> None:
    def validation(scorer: Any) -> float:
        return auc(scorer(torch.arange(TRAIN.n_users)), TRAIN, HELD)

    config = settings(stopping=Stopping(every=2, patience=3))
    training = Training(device="cpu", validator=validation)
    whole, resumed, checkpoints = LightGCN(config), LightGCN(config), MemoryCheckpoints()
    whole.fit(TRAIN, training)
    with pytest.raises(KilledError):
        LightGCN(config).fit(TRAIN, replace(training, checkpoints=checkpoints, progress=KillAt(3)))
    resumed.fit(TRAIN, replace(training, checkpoints=checkpoints))
    for name, tensor in whole.tensors().items():
        assert resumed.tensors()[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_a_foreign_checkpoint_is_refused() -> None:
    checkpoints = MemoryCheckpoints()
    LightGCN(settings()).fit(TRAIN, Training(device="cpu", checkpoints=checkpoints))
    for changes, seed, message in (
        ({"dim": 4}, 0, r"embedding has shape \[54, 8\] and this configuration needs \[54, 4\]"),
        ({"rate": 0.5}, 0, r"delete it and run again, or run with those settings"),
        ({}, 1, r"written with \{'seed': 0"),
    ):
        with pytest.raises(RunError, match=message):
            LightGCN(settings(**changes)).fit(TRAIN, Training(seed=seed, device="cpu", checkpoints=checkpoints))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_diverged_model_raises(loss: str) -> None:
    with pytest.raises(ModelError, match="diverged"):
        LightGCN(settings(loss=loss, rate=1e38)).fit(TRAIN, Training(device="cpu"))


def test_a_model_that_diverged_in_its_very_last_update_raises() -> None:
    # The only loss that was logged is that of the initial embeddings.
    with pytest.raises(ModelError, match=r"LightGCN users: .* not finite"):
        LightGCN(settings(rate=1e38, batch=1000, epochs=1)).fit(TRAIN, Training(device="cpu"))


def test_l2_shrinks_the_embeddings() -> None:
    plain, shrunk = (LightGCNLearner(settings(l2=l2), TRAIN, 0, CPU) for l2 in (0.0, 1.0))
    for number in range(1, 11):
        plain.step(number)
        shrunk.step(number)
    assert shrunk.state()["embedding"].norm() < 0.8 * plain.state()["embedding"].norm()


def test_users_and_items_without_training_items_stay_finite() -> None:
    train = interactions([(0, 0), (0, 1), (2, 1)], n_users=4, n_items=5)
    for loss in LOSSES:
        model = LightGCN(settings(loss=loss))
        model.fit(train, Training(device="cpu"))
        assert torch.isfinite(model.score(torch.arange(4))).all()


def test_a_user_who_has_every_item_needs_a_loss_without_negatives() -> None:
    train = interactions([(0, 0), (0, 1), (1, 1)], n_users=2, n_items=2)
    with pytest.raises(DataError, match="have all 2 items"):
        LightGCN(settings(loss="bpr")).fit(train, Training(device="cpu"))
    LightGCN(settings(loss="softmax")).fit(train, Training(device="cpu"))


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(DataError, match="no interaction"):
        LightGCN(settings()).fit(interactions([], 3, 3), Training(device="cpu"))


def test_scoring_before_fitting_is_refused() -> None:
    model = LightGCN(LightGCNConfig())
    with pytest.raises(ModelError, match="has not been fitted"):
        model.score(torch.arange(2))
    with pytest.raises(ModelError, match="has not been fitted"):
        model.tensors()


def test_the_registry_knows_it_and_names_the_nearest_key() -> None:
    assert RECOMMENDERS["lightgcn"] is LightGCN
    with pytest.raises(ConfigError, match="unknown key 'layer'; did you mean 'layers'"):
        build_config(LightGCN.config_class, {"layer": 3}, "arms.central.method")
