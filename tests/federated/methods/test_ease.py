"""EASE from one sum against EASE from the dense matrix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.federated import Ask, Devices, FederatedRecommender, Federation, LocalEngine, State
from fedrec.federated.methods import EASE, EASEConfig
from fedrec.federated.methods.ease import item_weights, noise_radius
from fedrec.federated.queries import Gram
from fedrec.privacy import Clip, PrivacyConfig
from fedrec.recommenders import Training
from fedrec.streams import Streams


def dense(train: Interactions) -> Tensor:
    matrix = torch.zeros(train.n_users, train.n_items, dtype=torch.float64)
    matrix[torch.from_numpy(train.user), torch.from_numpy(train.item)] = 1
    return matrix


def fitted(devices: Devices, dtype: torch.dtype, config: EASEConfig) -> Tensor:
    method = EASE(config)
    federation = Federation(len(devices), devices.n_items, Streams(0), dtype)
    state = method.round(method.start(federation), Ask(LocalEngine(devices, Streams(0)), 1))
    return method.score(state, devices.cohort(torch.arange(len(devices))), State())


def test_two_items_by_hand() -> None:
    """XᵀX + λI = [[3, 1], [1, 2]] has the inverse [[2, -1], [-1, 3]] / 5, so B_12 = 1/3 and B_21 = 1/2."""
    weights = item_weights(torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=torch.float64), 1.0)
    torch.testing.assert_close(weights, torch.tensor([[0, 1 / 3], [1 / 2, 0]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [0.0, 0.5])
def test_the_weights_solve_each_items_own_ridge_regression(
    train: Interactions, devices: Devices, dtype: torch.dtype, power: float
) -> None:
    """Without the formula: item j is regressed on all others, which is what a zero diagonal means."""
    matrix, penalty = dense(train), 3.0
    scaled = matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1) ** power
    weights = torch.zeros(25, 25, dtype=torch.float64)
    for item in range(25):
        others = torch.arange(25) != item
        rest = scaled[:, others]
        left = rest.T @ rest + penalty * torch.eye(24, dtype=torch.float64)
        weights[others, item] = torch.linalg.solve(left, rest.T @ scaled[:, item])
    scores = fitted(devices, dtype, EASEConfig(regularization=penalty, activity_power=power))
    torch.testing.assert_close(scores.double(), matrix @ weights, rtol=0, atol=1e-6)


def test_a_clip_of_one_is_the_normalised_matrix(devices: Devices) -> None:
    ones = torch.ones(25, dtype=torch.float64)
    clipped = LocalEngine(devices, Streams(0)).sum(Gram(ones, 0.0), round=1, clip=Clip(1.0)).sums["gram"]
    torch.testing.assert_close(clipped, LocalEngine(devices, Streams(0)).sum(Gram(ones), round=1).sums["gram"])


def test_the_noises_radius_is_that_of_the_half_circle() -> None:
    """Entries of deviation 1, symmetrised: the spectrum ends at √2 √n, off by O(n^-2/3) of that."""
    noise = torch.randn(400, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert noise_radius((noise + noise.T) / 2) == pytest.approx(math.sqrt(2 * 400), rel=0.05)
    assert noise_radius(torch.eye(3, dtype=torch.float64)) == 0.0


def test_under_a_guarantee_the_noise_sets_the_least_regularization(train: Interactions) -> None:
    privacy = PrivacyConfig(noise_multiplier=2.0, delta=1e-3)
    scores = {}
    for penalty in (1e-6, 1e-3, 1e3):
        model = FederatedRecommender(EASE(EASEConfig(regularization=penalty)), privacy=privacy)
        model.fit(train, Training(device="cpu"))
        scores[penalty] = model.score(torch.arange(40))
    assert torch.isfinite(scores[1e-6]).all()
    assert scores[1e-6].abs().max() < 40  # a nearly singular matrix would have an inverse without bounds
    assert scores[1e3].abs().max() < 0.1
