"""FedMF and FCF: the users' gradients against autograd of the objectives that their docstrings write out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated import Ask, Cohort, Devices, Federation, LocalEngine, ParticipationConfig, Rows, State
from fedrec.federated.methods import FCF, FCFConfig, FedMF, FedMFConfig
from fedrec.federated.queries import FactorTraining, ImplicitGradient
from fedrec.federated.queries.samples import Samples
from fedrec.federated.server_optimizer import ServerOptimizerConfig
from fedrec.streams import Streams

DOUBLE = torch.float64
EVERYONE = torch.arange(40)
FEDERATION = Federation(n_users=40, n_items=25, streams=Streams(0), dtype=DOUBLE)
ITEMS = torch.randn(25, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def factor_training(loss: str, steps: int) -> FactorTraining:
    return FactorTraining(ITEMS, loss, steps, 0.05, 0.02, negatives=3, activity_power=0.5, l2=0.1, initial_scale=0.5)


def objective(query: FactorTraining, user: Tensor, table: Tensor, samples: Samples, size: int) -> Tensor:
    """One user's, as the query's module writes it."""
    touched = torch.unique(samples.item)
    scores = table[samples.item] @ user
    if query.loss == "squared":
        fit = (scores - samples.target).square().sum()
    else:
        fit = torch.nn.functional.binary_cross_entropy_with_logits(scores, samples.target, reduction="sum")
    total: Tensor = fit / size**query.activity_power
    return total + 0.5 * query.l2 * (user.square().sum() + table[touched].square().sum())


@pytest.mark.parametrize(("loss", "steps"), [("squared", 1), ("squared", 3), ("bce", 2)])
def test_factor_training_of_a_cohort_is_autograd_of_each_user(devices: Devices, loss: str, steps: int) -> None:
    query, draw, cohort = factor_training(loss, steps), Streams(3, round=2), devices.cohort(EVERYONE)
    start = query.initial(cohort, Streams(3))
    contributions, state = query.contribute(cohort, start, draw)
    rows = contributions["items"]
    assert isinstance(rows, Rows)
    assert rows.faults(40, (25, 4)) == {}
    for position in (0, 5, 23, 39):
        alone = devices.cohort(torch.tensor([position]))
        samples = Samples.draw(alone, draw, 3, DOUBLE)
        table, user = ITEMS.clone(), start.dense["user"][position]
        for _ in range(steps):
            table, user = table.requires_grad_(), user.requires_grad_()
            loss_value = objective(query, user, table, samples, len(alone.items))
            by_table, by_user = torch.autograd.grad(loss_value, (table, user))
            table, user = (table - 0.05 * by_table).detach(), (user - 0.02 * by_user).detach()
        mine = torch.zeros_like(ITEMS)
        mine[rows.index[rows.owner == position]] = rows.value[rows.owner == position]
        torch.testing.assert_close(mine, table - ITEMS, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.dense["user"][position], user, rtol=0, atol=1e-12)
    assert torch.equal(state.dense["user"][11], start.dense["user"][11])  # without items nothing is learnt


def test_a_factor_training_step_by_hand() -> None:
    """p = 1, q = (2, 1), item 0 owned: squared slopes are 2(2 − 1) = 2 and 2(1 − 0) = 2.

    p moves by −.1 (2·2 + 2·1) = −.6, and both items by −.5 · 2 · 1 = −1.
    """
    query = FactorTraining(torch.tensor([[2.0], [1.0]]), "squared", 1, 0.5, 0.1, 1, 0.5, 0.0, 1.0)
    cohort = Cohort(torch.tensor([5]), torch.tensor([0, 1]), torch.tensor([0]), 2)
    contributions, state = query.contribute(cohort, State({"user": torch.tensor([[1.0]])}), Streams(0, round=1))
    assert contributions["items"].value.tolist() == [[-1.0], [-1.0]]
    torch.testing.assert_close(state.dense["user"], torch.tensor([[0.4]]))
    with pytest.raises(DataError, match="loss 'bpr' is unknown; valid: squared, bce"):
        factor_training("bpr", 1)


def test_fedmf_with_plain_sgd_averages_what_users_send(devices: Devices) -> None:
    method = FedMF(FedMFConfig(dim=4, server=ServerOptimizerConfig(kind="sgd", rate=2.0)))
    state, engine = method.start(FEDERATION), LocalEngine(devices, Streams(0))
    after = method.round(state, Ask(engine, 1))
    sums = LocalEngine(devices, Streams(0)).sum(method.memory(state), round=1).sums["items"]
    torch.testing.assert_close(after["items"], state["items"] + 2.0 * sums / 40)
    _, private = engine.look(EVERYONE, method.memory(after))
    scores = method.score(after, devices.cohort(EVERYONE), private)
    torch.testing.assert_close(scores, private.dense["user"] @ after["items"].T)


def implicit(devices: Devices, users: Tensor, items: Tensor, config: FCFConfig) -> Tensor:
    """J over all pairs."""
    matrix = torch.zeros(40, 25, dtype=DOUBLE)
    matrix[devices.cohort(EVERYONE).owner, devices.items] = 1
    fit = ((1 + config.confidence * matrix) * (matrix - users @ items.T).square()).sum()
    return fit + config.regularization * (users.square().sum() + items.square().sum())


def test_fcf_users_solve_and_the_server_steps_along_the_gradient_of_the_objective(devices: Devices) -> None:
    config = FCFConfig(dim=4, confidence=3.0, regularization=0.7, server=ServerOptimizerConfig(kind="sgd", rate=1.0))
    method = FCF(config)
    state, cohort = method.start(FEDERATION), devices.cohort(EVERYONE)
    items = state["items"].clone().requires_grad_()
    users = ImplicitGradient(items, items.T @ items, 3.0, 0.7).solve(cohort).detach().requires_grad_()
    by_users, by_items = torch.autograd.grad(implicit(devices, users, items, config), (users, items))
    torch.testing.assert_close(by_users, torch.zeros_like(by_users), rtol=0, atol=1e-11)
    after = method.round(state, Ask(LocalEngine(devices, Streams(0)), 1))
    torch.testing.assert_close(after["items"], (items - 0.5 * by_items / 40).detach(), rtol=0, atol=1e-12)
    scores = method.score(state, cohort, State())
    torch.testing.assert_close(scores, users @ state["items"].T)
    assert not users[11].any()  # without items


def test_fcf_participants_stand_for_everybody(devices: Devices) -> None:
    """The sum over a fraction q is divided by q|U|, the regularisation is not scaled by q."""
    method = FCF(
        FCFConfig(dim=4, confidence=0.0, regularization=0.5, server=ServerOptimizerConfig(kind="sgd", rate=1.0))
    )
    state = method.start(FEDERATION)
    ask = Ask(LocalEngine(devices, Streams(0), ParticipationConfig(rate=0.5)), 1)
    after = method.round(state, ask)
    sums, items = ask.totals[0].sums, state["items"]
    triangle = torch.zeros(4, 4, dtype=DOUBLE)
    triangle[tuple(torch.triu_indices(4, 4))] = sums["everyone"][0]
    everyone = triangle + triangle.T - triangle.diag().diag()
    expected = items - (items @ everyone - sums["items"]) / 20 - 0.5 / 40 * items
    torch.testing.assert_close(after["items"], expected)
