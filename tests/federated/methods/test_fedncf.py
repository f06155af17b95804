"""FedNCF: the hand-written network against autograd and by hand, its padding, and what it keeps and sends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedrec.components import build_config
from fedrec.errors import ConfigError, DataError
from fedrec.federated import Ask, Cohort, Devices, Federation, LocalEngine, Rows, State
from fedrec.federated.methods import FedNCF, FedNCFConfig
from fedrec.federated.queries import NeuralTraining
from fedrec.federated.queries.neural_training import Architecture, _alike
from fedrec.federated.queries.samples import Samples
from fedrec.federated.server_optimizer import ServerOptimizerConfig
from fedrec.streams import Streams

DOUBLE = torch.float64
EVERYONE = torch.arange(40)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def logits_of(model: str, layers: int, dim: int, user: Tensor, items: Tensor, flat: Tensor) -> Tensor:
    """One user's logits in plain torch, parameter by parameter: [s]."""
    parts, begin, first = [], 0, 0 if model == "mlp" else dim
    if first:
        parts.append(user[:first] * items[:, :first])
    if model != "gmf":
        hidden = torch.cat([user[first:].expand(len(items), -1), items[:, first:]], dim=1)
        for _ in range(layers):
            into = hidden.shape[1]
            weight = flat[begin : begin + into * into // 2].view(into // 2, into)
            bias = flat[begin + into * into // 2 :][: into // 2]
            begin += into * into // 2 + into // 2
            hidden = torch.relu(hidden @ weight.T + bias)
        parts.append(hidden)
    return torch.cat(parts, dim=1) @ flat[begin:-1] + flat[-1]


@pytest.mark.parametrize(("model", "layers", "steps"), [("gmf", 1, 2), ("mlp", 3, 1), ("neumf", 2, 3)])
def test_training_a_cohort_is_autograd_of_each_user(devices: Devices, model: str, layers: int, steps: int) -> None:
    architecture = Architecture(model, 4, layers)
    items, network = random(25, architecture.width), random(1, architecture.size, seed=2)
    query = NeuralTraining(items, network, model, 4, layers, steps, 0.3, 0.2, 0.1, 3, 0.5, 0.5)
    draw, cohort = Streams(3, round=2), devices.cohort(EVERYONE)
    start = query.initial(cohort, Streams(3))
    contributions, state = query.contribute(cohort, start, draw)
    rows, changes = contributions["items"], contributions["network"]
    assert isinstance(rows, Rows)
    assert isinstance(changes, Rows)
    assert rows.faults(40, query.tables["items"]) == changes.faults(40, query.tables["network"]) == {}
    for position in (0, 5, 23, 39):
        alone = devices.cohort(torch.tensor([position]))
        samples = Samples.draw(alone, draw, 3, DOUBLE)
        values = [items.clone(), network[0].clone(), start.dense["user"][position]]
        for _ in range(steps):
            table, flat, user = (value.requires_grad_() for value in values)
            logits = logits_of(model, layers, 4, user, table[samples.item], flat)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, samples.target, reduction="sum")
            gradients = torch.autograd.grad(loss / len(alone.items) ** 0.5, (table, flat, user))
            values = [
                (value - rate * gradient).detach()
                for value, rate, gradient in zip(values, (0.3, 0.2, 0.1), gradients, strict=True)
            ]
        mine = torch.zeros_like(items)
        mine[rows.index[rows.owner == position]] = rows.value[rows.owner == position]
        torch.testing.assert_close(mine, values[0] - items, rtol=0, atol=1e-12)
        torch.testing.assert_close(changes.value[position], values[1] - network[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(state.dense["user"][position], values[2], rtol=0, atol=1e-12)
    assert not changes.value[11].any()  # without items nothing is learnt
    assert torch.equal(state.dense["user"][11], start.dense["user"][11])


def test_logits_by_hand() -> None:
    """NeuMF, d = 1, one layer: p = (2, 1), q = (3, -1), W = (1, 2), b = 4, h = (1, 10), c = ½.

    The product is 6, the layer relu(1·1 + 2·−1 + 4) = 3, and the logit 6 + 30 + ½.
    """
    flat = torch.tensor([[1.0, 2.0, 4.0, 1.0, 10.0, 0.5]])
    architecture = Architecture("neumf", 1, 1)
    assert architecture.size == 6
    logits, _, _ = architecture.forward(torch.tensor([[2.0, 1.0]]), torch.tensor([[[3.0, -1.0]]]), flat)
    assert logits.tolist() == [[36.5]]


def test_users_of_about_as_many_samples_are_padded_together() -> None:
    sizes = torch.tensor([5, 0, 1, 8, 4, 3])
    seen = torch.zeros(int(sizes.sum()))
    groups = []
    for users, place, real in _alike(sizes):
        groups.append(users.tolist())
        seen[place[real]] += 1
        assert torch.equal(real.sum(dim=1), sizes[users])
    assert groups == [[2], [4, 5], [0, 3]]
    assert (seen == 1).all()
    assert not list(_alike(sizes[1:2]))
    assert not list(_alike(sizes[:0]))


def test_scores_are_the_networks_logits_and_do_not_depend_on_blocks(
    devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = FedNCF(FedNCFConfig(dim=4, layers=2, server=ServerOptimizerConfig(kind="sgd", rate=1.0)))
    state = method.start(Federation(40, 25, Streams(0), DOUBLE))
    engine = LocalEngine(devices, Streams(0))
    after = method.round(state, Ask(engine, 1))
    sums = LocalEngine(devices, Streams(0)).sum(method.memory(state), round=1).sums
    for name in ("items", "network"):
        torch.testing.assert_close(after[name], state[name] + sums[name] / 40)
    _, private = engine.look(EVERYONE, method.memory(after))
    scores = method.score(after, devices.cohort(EVERYONE), private)
    for user in (0, 39):
        vector = private.dense["user"][user]
        torch.testing.assert_close(scores[user], logits_of("neumf", 2, 4, vector, after["items"], after["network"][0]))
    monkeypatch.setattr("fedrec.federated.methods.fedncf._PAIRS_AT_ONCE", 75)
    torch.testing.assert_close(method.score(after, devices.cohort(EVERYONE), private), scores)
    nobody = Cohort(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), torch.zeros(0).long(), 25)
    assert method.score(after, nobody, State({"user": vector.new_zeros(0, 8)})).shape == (0, 25)


def test_networks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="6 layers that halve 32 inputs leave nothing"):
        build_config(FedNCFConfig, {"layers": 6}, "arms.a.method")
    with pytest.raises(DataError, match="model 'ncf' is unknown; valid: gmf, mlp, neumf"):
        Architecture("ncf", 4, 1)
