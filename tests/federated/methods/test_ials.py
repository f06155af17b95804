"""iALS from sums against alternating least squares on the dense matrix, and against the `implicit` library."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.federated import (
    Ask,
    Devices,
    FederatedRecommender,
    Federation,
    LocalEngine,
    ParticipationConfig,
    State,
)
from fedrec.federated.methods import IALS, IALSConfig
from fedrec.federated.methods.ials import nearest_semidefinite
from fedrec.federated.queries import NormalEquations
from fedrec.federated.queries.least_squares import outer_triangles, symmetric
from fedrec.privacy import PrivacyConfig
from fedrec.recommenders import Stopping, Tensors, Training
from fedrec.streams import Streams

DOUBLE = torch.float64
FEDERATION = Federation(n_users=40, n_items=25, streams=Streams(0), dtype=DOUBLE)


def rounds(method: IALS, devices: Devices, count: int) -> tuple[Tensors, Tensors]:
    """The server's first state and the one after some rounds."""
    engine = LocalEngine(devices, Streams(0))
    first = state = method.start(FEDERATION)
    for number in range(1, count + 1):
        state = method.round(state, Ask(engine, number))
    return first, state


def objective(matrix: Tensor, users: Tensor, items: Tensor, config: IALSConfig) -> Tensor:
    """The loss of the module's docstring, written out over all pairs."""
    alpha, scores = config.unobserved, users @ items.T
    loss = (matrix * (scores - 1).square()).sum() + alpha * scores.square().sum()
    by_user = (matrix.sum(dim=1) + alpha * matrix.shape[1]) ** config.frequency_power
    by_item = (matrix.sum(dim=0) + alpha * matrix.shape[0]) ** config.frequency_power
    penalty = (by_user * users.square().sum(dim=1)).sum() + (by_item * items.square().sum(dim=1)).sum()
    return loss + config.regularization * penalty


def dense(train: Interactions) -> Tensor:
    matrix = torch.zeros(40, 25, dtype=DOUBLE)
    matrix[torch.from_numpy(train.user), torch.from_numpy(train.item)] = 1
    return matrix


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_each_half_of_a_round_ends_where_the_gradient_of_the_objective_is_zero(
    train: Interactions, devices: Devices, power: float
) -> None:
    method = IALS(IALSConfig(dim=4, unobserved=0.2, regularization=0.3, frequency_power=power))
    before, after = rounds(method, devices, 1)
    matrix, cohort = dense(train), devices.cohort(torch.arange(40))
    users = method._equations(before).solve(cohort).requires_grad_()
    old, new = before["items"], after["items"].clone().requires_grad_()
    (by_user,) = torch.autograd.grad(objective(matrix, users, old, method.config), users)
    (by_item,) = torch.autograd.grad(objective(matrix, users.detach(), new, method.config), new)
    torch.testing.assert_close(by_user, torch.zeros_like(by_user), rtol=0, atol=1e-9)
    torch.testing.assert_close(by_item, torch.zeros_like(by_item), rtol=0, atol=1e-9)
    assert (new != old).any(dim=1).all()


def test_two_users_and_one_item_by_hand() -> None:
    """q = 2, α = 1, λ = ½, ν = 0: (4 + 4 + ½) p = 2, so p = 4/17; the item then gets 2p / (2p² + 2p² + ½)."""
    devices = Devices(torch.tensor([5, 6]), torch.tensor([0, 1, 2]), torch.tensor([0, 0]), 1)
    method = IALS(IALSConfig(dim=1, unobserved=1.0, regularization=0.5, frequency_power=0.0))
    state: Tensors = {
        "items": torch.tensor([[2.0]], dtype=DOUBLE),
        "items.degrees": torch.zeros(1, dtype=DOUBLE),
        "n_users": torch.tensor(2),
    }
    p = 4 / 17
    assert method.score(state, devices.cohort(torch.tensor([1])), State()).item() == pytest.approx(2 * p)
    after = method.round(state, Ask(LocalEngine(devices, Streams(0)), 1))
    assert after["items"].item() == pytest.approx(2 * p / (4 * p * p + 0.5))


def test_implicit_finds_the_same_vectors(train: Interactions, devices: Devices) -> None:
    """`implicit` minimises Σ c_ui (1_ui − s_ui)² + μ (‖P‖² + ‖Q‖²) with c = 1 where nothing was observed.

    With s' = (1 + α) s, our objective at ν = 0 is, but for a constant, α/(1 + α)² times
    Σ_observed (1 + α)/α (s' − 1)² + Σ_others s'², plus λ/(1 + α) (‖P'‖² + ‖Q'‖²).
    So c = (1 + α)/α, μ = λ (1 + α)/α, and their vectors are √(1 + α) times ours.
    """
    config = IALSConfig(dim=4, unobserved=0.25, regularization=0.3, frequency_power=0.0, initial_scale=1.0)
    method, alpha = IALS(config), config.unobserved
    before, after = rounds(method, devices, 3)
    with threadpool_limits(1, "blas"):  # otherwise it warns, and warnings are errors
        model = AlternatingLeastSquares(
            factors=4,
            regularization=config.regularization * (1 + alpha) / alpha,
            dtype=np.float64,
            use_native=True,
            use_cg=False,
            iterations=3,
            num_threads=1,
        )
    model.user_factors = np.zeros((40, 4))
    model.item_factors = before["items"].numpy() * (1 + alpha) ** 0.5
    observed = csr_matrix(dense(train).numpy() * (1 + alpha) / alpha)
    model.fit(observed, show_progress=False)
    theirs = torch.from_numpy(model.item_factors) / (1 + alpha) ** 0.5
    torch.testing.assert_close(after["items"], theirs, rtol=0, atol=1e-6)


def test_frequency_scaling_is_a_ridge_of_its_own_for_every_user(devices: Devices) -> None:
    method = IALS(IALSConfig(dim=3, unobserved=0.2, regularization=0.3))
    before, _ = rounds(method, devices, 1)
    items, cohort = before["items"], devices.cohort(torch.tensor([7, 11]))
    own = items[cohort.items]
    left = own.T @ own + 0.2 * items.T @ items + 0.3 * (8 + 0.2 * 25) * torch.eye(3, dtype=DOUBLE)
    found = method._equations(before).solve(cohort)
    torch.testing.assert_close(found[0], torch.linalg.solve(left, own.sum(dim=0)))
    assert not found[1].any()  # the user without items


def test_contributions_sum_to_the_normal_equations_and_have_the_stated_norm(devices: Devices) -> None:
    items = torch.randn(25, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    query = NormalEquations(items, items.T @ items, unobserved=0.1, regularization=0.2, frequency_power=1.0)
    cohort = devices.cohort(torch.arange(40))
    contributions, _ = query.contribute(cohort, State(), Streams(0))
    users = query.solve(cohort)
    triangle = outer_triangles(users).square().sum(dim=1)
    expected = (cohort.degrees + 1) * triangle + cohort.degrees * users.square().sum(dim=1)
    norms = sum(part.squared_norms(40) for part in contributions.values())
    torch.testing.assert_close(norms, expected)
    sums = LocalEngine(devices, Streams(0)).sum(query, round=1).sums
    torch.testing.assert_close(symmetric(sums["everyone"], 3)[0], users.T @ users)
    of_item = users[cohort.owner[cohort.items == 4]]
    torch.testing.assert_close(symmetric(sums["items"][:, :6], 3)[4], of_item.T @ of_item)
    torch.testing.assert_close(sums["items"][4, 6:], of_item.sum(dim=0))


def test_participants_stand_for_everybody(devices: Devices) -> None:
    """Half of the users take part, each twice as heavy: degrees are right on average."""
    totals = torch.zeros(25, dtype=DOUBLE)
    for seed in range(200):
        method, engine = IALS(IALSConfig(dim=1)), LocalEngine(devices, Streams(seed), ParticipationConfig(rate=0.5))
        totals += method.round(method.start(FEDERATION), Ask(engine, 1))["items.degrees"]
    degrees = torch.bincount(devices.items, minlength=25).double()
    deviation = (degrees / 200).sqrt()  # a sum of d variables of variance 1, over 200 draws
    assert ((totals / 200 - degrees).abs() < 5 * deviation).all()  # 25 items: a false alarm once in 70,000 runs


def test_noise_leaves_matrices_that_can_be_solved() -> None:
    matrix = torch.tensor([[[1.0, 2.0], [2.0, 1.0]]], dtype=DOUBLE)  # eigenvalues 3 and −1
    torch.testing.assert_close(nearest_semidefinite(matrix), torch.full((1, 2, 2), 1.5, dtype=DOUBLE))


def test_it_trains_under_a_guarantee(train: Interactions) -> None:
    method = IALS(IALSConfig(dim=4, rounds=3, stopping=Stopping(patience=0)))
    model = FederatedRecommender(method, privacy=PrivacyConfig(noise_multiplier=1.0, delta=1e-3))
    model.fit(train, Training(device="cpu"))
    assert torch.isfinite(model.score(torch.arange(40))).all()
    assert model.guarantee is not None
    assert model.guarantee.as_dict()["releases"] == 4
