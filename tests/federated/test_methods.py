"""The methods: identities that hold exactly, and that they learn."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fedrec.components import build_config
from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError
from fedrec.federated import METHODS, Ask, Cohort, Devices, Federation, LocalEngine, ParticipationConfig, State
from fedrec.federated.method import NobodyAnswered
from fedrec.federated.methods import (
    EgoLightGCN,
    EgoLightGCNConfig,
    Popularity,
    PopularityConfig,
    Spectral,
    SpectralConfig,
)
from fedrec.federated.server_optimizer import ServerOptimizerConfig
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.sampling import negatives
from fedrec.streams import Streams

FEDERATION = Federation(n_users=40, n_items=25, streams=Streams(0), dtype=torch.float64)


def run(method: Popularity | Spectral | EgoLightGCN, devices: Devices, rounds: int | None = None) -> Tensors:
    engine, state = LocalEngine(devices, Streams(0)), method.start(FEDERATION)
    for number in range(1, (rounds or method.rounds) + 1):
        state = method.round(state, Ask(engine, number))
    return state


def test_popularity_is_the_count(devices: Devices) -> None:
    method = Popularity(PopularityConfig())
    scores = method.score(run(method, devices), devices.cohort(torch.arange(3)), State())
    assert torch.equal(scores, torch.bincount(devices.items, minlength=25).double().expand(3, -1))


@pytest.mark.parametrize(
    "settings",
    [
        {"release": "subspace", "iterations": 200},
        {"release": "lanczos", "block": 5, "iterations": 5},
    ],
)
def test_products_alone_find_the_projector_of_the_gram_matrix(devices: Devices, settings: dict[str, Any]) -> None:
    one_shot = run(Spectral(SpectralConfig(factors=3)), devices)
    from_products = run(Spectral(SpectralConfig(factors=3, **settings)), devices)
    first, second = (state["basis"] @ state["basis"].T for state in (one_shot, from_products))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-9)


def test_spectral_filters_the_head_as_a_catalogue_of_its_own(train: Interactions, devices: Devices) -> None:
    counts = torch.from_numpy(train.item_degrees)
    head = counts.sort(descending=True, stable=True).indices[:10].sort().values
    matrix = torch.zeros(40, 25, dtype=torch.float64)
    matrix[torch.from_numpy(train.user), torch.from_numpy(train.item)] = 1
    own = matrix[:, head]
    normalised = own / own.sum(dim=1, keepdim=True).clamp(min=1).sqrt()
    basis = torch.linalg.eigh(normalised.T @ normalised).eigenvectors[:, -3:]
    method = Spectral(SpectralConfig(factors=3, head=0.4))
    scores = method.score(run(method, devices), devices.cohort(torch.arange(40)), State())
    active = own.any(dim=1)
    torch.testing.assert_close(scores[active][:, head], (own @ basis @ basis.T)[active])
    rest = torch.ones(25, dtype=torch.bool)
    rest[head] = False
    assert bool((scores[:, rest].max(dim=1).values <= scores[:, head].min(dim=1).values).all())
    assert [(release.query, release.share) for release in method.releases()] == [("count", 0.2), ("gram", 0.8)]
    with pytest.raises(ValueError, match=r"head = 0.4 is a Gram release of equal weights alone"):
        SpectralConfig(head=0.4, weight="degree")


def test_spectral_scores_are_the_formula_of_gfcf(train: Interactions, devices: Devices) -> None:
    dense = torch.zeros(40, 25, dtype=torch.float64)
    dense[torch.from_numpy(train.user), torch.from_numpy(train.item)] = 1
    by_user, by_item = dense.sum(dim=1).clamp(min=1), dense.sum(dim=0).clamp(min=1)
    normalised = dense / by_user.sqrt().unsqueeze(1) / by_item.sqrt()
    vectors = torch.linalg.svd(normalised, full_matrices=False).Vh[:4].T
    low_pass = (dense / by_item.sqrt()) @ vectors @ vectors.T * by_item.sqrt()
    linear = dense @ normalised.T @ normalised
    for products in (
        {},
        {"release": "lanczos", "block": 5, "iterations": 5},
    ):  # the matrix dense, and without its zeros
        method = Spectral(SpectralConfig.model_validate({"factors": 4, "weight": "degree", "linear": 0.3, **products}))
        scores = method.score(run(method, devices), devices.cohort(torch.arange(40)), State())
        torch.testing.assert_close(scores, low_pass + 0.3 * linear)


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_ego_lightgcn_with_plain_sgd_is_gradient_descent_on_the_summed_loss(
    devices: Devices, loss: Literal["bce", "bpr"]
) -> None:
    """One local step, SGD on both sides, everyone, and a server rate of |U| times the usual one."""
    rate = 0.05
    config = EgoLightGCNConfig(
        dim=4,
        loss=loss,
        item_rate=1.0,
        user_rate=rate,
        initial_scale=0.5,
        server=ServerOptimizerConfig(kind="sgd", rate=40 * rate),
    )
    method, engine = EgoLightGCN(config), LocalEngine(devices, Streams(0))
    state = method.start(FEDERATION)
    items = state["items"].clone()
    cohort = devices.cohort(torch.arange(40))
    user = method.memory(state).initial(cohort, Streams(0)).dense["user"]
    for number in range(1, 6):
        state = method.round(state, Ask(engine, number))
        items, user = items.requires_grad_(), user.requires_grad_()
        objective = _summed_loss(cohort, user, items, config, Streams(0, number))
        by_items, by_user = torch.autograd.grad(objective, (items, user))
        items, user = (items - rate * by_items).detach(), (user - rate * by_user).detach()
        torch.testing.assert_close(state["items"], items, rtol=0, atol=1e-12)
    _, private = engine.look(torch.arange(40), method.memory(state))
    torch.testing.assert_close(private.dense["user"], user, rtol=0, atol=1e-12)


def _summed_loss(cohort: Cohort, user: Tensor, items: Tensor, config: EgoLightGCNConfig, draw: Streams) -> Tensor:
    total = items.new_zeros(())
    for position in range(len(cohort)):
        own = cohort.items[cohort.indptr[position] : cohort.indptr[position + 1]]
        if not len(own):
            continue
        counter = torch.arange(len(own) * config.negatives)
        bounds = torch.tensor([0, len(own)])
        zero = torch.zeros_like(counter)
        drawn = negatives(draw, cohort.keys[position].view(1), bounds, own, zero, counter, cohort.n_items)
        scores = items @ (0.5 * (user[position] + items[own].sum(dim=0) / len(own) ** 0.5))
        if config.loss == "bce":
            loss = -logsigmoid(scores[own]).sum() - logsigmoid(-scores[drawn]).sum()
        else:
            loss = -logsigmoid(scores[own].unsqueeze(1) - scores[drawn].view(len(own), -1)).mean(dim=1).sum()
        total = total + loss / len(own) ** config.activity_power
    return total


def test_a_round_in_which_nobody_answers_is_given_up(devices: Devices) -> None:
    nobody = LocalEngine(devices, Streams(0), ParticipationConfig(rate=1e-12))
    method = EgoLightGCN(EgoLightGCNConfig(dim=4))
    with pytest.raises(NobodyAnswered):
        method.round(method.start(FEDERATION), Ask(nobody, 1))


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="without its zeros, which noise cannot hide"):
        Spectral(SpectralConfig(release="subspace", linear=0.3)).releases()
    with pytest.raises(ConfigError, match="factors = 9 is more than block · iterations = 8 directions"):
        build_config(SpectralConfig, {"release": "lanczos", "factors": 9, "block": 4, "iterations": 2}, "arms.a.method")
    with pytest.raises(ConfigError, match="factors = 64 is more than the 25 items"):
        Spectral(SpectralConfig()).start(FEDERATION)
    with pytest.raises(ConfigError, match="block · iterations = 26 is more than the 25 items"):
        Spectral(SpectralConfig(factors=9, release="lanczos", block=13, iterations=2)).start(FEDERATION)
    assert set(METHODS) >= {"popularity", "spectral", "ego-lightgcn"}
