"""NeuMF, and wide and deep: equations against plain arithmetic, and what hidden ids do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch

from fedrec.data import Interactions
from fedrec.errors import DataError, ModelError
from fedrec.recommenders import NeuMF, NeuMFConfig, Training, WideDeep, WideDeepConfig, bce, sample_negatives
from fedrec.recommenders.attributes import encode
from fedrec.recommenders.neumf import NeuMFModel
from fedrec.recommenders.neural import PairLearner
from fedrec.recommenders.wide_deep import WideDeepModel
from fedrec.streams import Streams
from tests.graph.small import interactions
from tests.recommenders.planted import blocks

PLAIN, _ = blocks()
TRAIN = replace(
    PLAIN,
    user_attributes=pd.DataFrame({"group": ["even", "odd"] * 15}),
    item_attributes=pd.DataFrame({"genres": ["a", "b", "a|c", "b|c"] * 6}),
)
CPU = torch.device("cpu")


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_neumf_is_its_equation() -> None:
    model = NeuMFModel(3, 4, NeuMFConfig(dim=2, layers=(5, 3)), seeded())
    with torch.no_grad():
        for bias in model.biases:
            bias.normal_(generator=seeded(2))
    p, q, pm, qm = model.gmf_users, model.gmf_items, model.mlp_users, model.mlp_items
    users, items = torch.tensor([2, 0]), torch.tensor([[0, 3, 3], [1, 1, 2]])
    found = model(users, items)
    for row, user in enumerate(users.tolist()):
        for column, item in enumerate(items[row].tolist()):
            hidden = torch.relu(model.first @ torch.cat([pm[user], qm[item]]) + model.biases[0])
            hidden = torch.relu(model.weights[0] @ hidden + model.biases[1])
            expected = model.output[0] @ torch.cat([p[user] * q[item], hidden])
            torch.testing.assert_close(found[row, column], expected)


def wide_deep(train: Interactions = TRAIN, hidden: float = 0.0) -> WideDeepModel:
    user = encode(train.user_attributes, "auto", train.n_users, "user_columns")
    item = encode(train.item_attributes, "auto", train.n_items, "item_columns")
    known = torch.from_numpy(train.user_degrees > 0), torch.from_numpy(train.item_degrees > 0)
    return WideDeepModel(user, item, known, WideDeepConfig(dim=2, layers=(5, 3), hidden=hidden), seeded())


def test_wide_and_deep_is_its_equation() -> None:
    model = wide_deep()
    with torch.no_grad():
        for tensor in (*model.biases, model.item_bias, model.attribute_weight, model.cross):
            tensor.normal_(generator=seeded(3))
    users, items = torch.tensor([1, 4]), torch.tensor([[0, 3], [5, 2]])
    found = model(users, items)
    for row, user in enumerate(users.tolist()):
        x = model.user_attributes[user]
        for column, item in enumerate(items[row].tolist()):
            a = model.item_attributes[item]
            parts = [
                model.user_ids[user],
                x @ model.of_user_attributes,
                model.item_ids[item],
                a @ model.of_item_attributes,
            ]
            hidden = torch.relu(model.first @ torch.cat(parts) + model.biases[0])
            hidden = torch.relu(model.weights[0] @ hidden + model.biases[1])
            wide = model.item_bias[item] + model.attribute_weight @ a + x @ model.cross @ a
            torch.testing.assert_close(found[row, column], wide + model.output[0] @ hidden)


def test_hidden_and_unknown_ids_share_a_row() -> None:
    train = replace(TRAIN.take(TRAIN.user != 3), item_attributes=TRAIN.item_attributes)
    model = wide_deep(train, hidden=0.999999)
    users, items = torch.tensor([1, 3]), torch.tensor([[5], [5]])  # 1 and 3 are of one group
    shown, hidden = model(users, items), model(users, items, seeded())
    assert shown[0] != shown[1]
    assert hidden[0] == hidden[1]
    # With its id hidden user 1 is user 3, and item 5 is any item with its attributes.
    torch.testing.assert_close(hidden[0], model(torch.tensor([3]), torch.tensor([[1]]), seeded())[0])


def test_a_new_user_is_served_by_attributes() -> None:
    train = TRAIN.take(TRAIN.user > 1)  # nothing is known of users 0 (even) and 1 (odd) but their groups
    model = WideDeep(WideDeepConfig(dim=8, layers=(8,), epochs=20, batch=64, rate=0.01, hidden=0.2))
    model.fit(train, Training(device="cpu"))
    scores = model.score(torch.tensor([0, 1]))
    assert scores[0, ::2].mean() > scores[0, 1::2].mean()
    assert scores[1, ::2].mean() < scores[1, 1::2].mean()


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_first_epoch_is_adam_on_the_loss(decay: float) -> None:
    config = NeuMFConfig(dim=2, layers=(3,), batch=10_000, negatives=2, weight_decay=decay)
    model = NeuMFModel(TRAIN.n_users, TRAIN.n_items, config, seeded())
    learner = PairLearner(model, config, TRAIN, seed=4, device=CPU)
    before = {name: tensor.clone() for name, tensor in learner.parameters().items()}
    draw = Streams(4, 1)
    order = torch.randperm(len(learner.items), generator=draw.generator("batches"))
    users, items = learner.users[order], learner.items[order]
    others = sample_negatives(draw.generator("negatives"), learner.outside, users, 2)
    loss = bce(model(users, items.unsqueeze(1))[:, 0], model(users, others))
    gradient = torch.autograd.grad(loss, model.mlp_items)[0]
    logged, disclosure = learner.step(1)["loss"]
    assert logged == pytest.approx(loss.item(), rel=1e-5)
    assert disclosure == "simulation"
    torch.testing.assert_close(learner.state()["adam.mlp_items.exp_avg"], 0.1 * gradient)  # β₁ = .9
    moved = model.mlp_items.detach() - before["mlp_items"] * (1 - config.rate * decay)
    clear = gradient.abs() > 1e-5
    torch.testing.assert_close(moved[clear], -config.rate * gradient.sign()[clear], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("model", [NeuMF(NeuMFConfig(epochs=1)), WideDeep(WideDeepConfig(epochs=1))])
def test_refuses_what_it_cannot_learn_from(model: Any) -> None:
    with pytest.raises(DataError, match="no interaction"):
        model.fit(interactions([], 3, 3), Training(device="cpu"))
    with pytest.raises(DataError, match="have all 2 items"):
        model.fit(interactions([(0, 0), (0, 1), (1, 1)], 2, 2), Training(device="cpu"))


def test_training_that_diverges_says_so() -> None:
    with pytest.raises(ModelError, match="diverged: lower the"):
        NeuMF(NeuMFConfig(rate=1e30, epochs=3)).fit(TRAIN, Training(device="cpu"))
