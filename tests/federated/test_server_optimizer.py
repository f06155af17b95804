"""The server's optimisers: torch's own step for step, and Yogi by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedrec.components import build_config
from fedrec.errors import ConfigError
from fedrec.federated.server_optimizer import ServerOptimizerConfig, Yogi, server_step
from fedrec.recommenders.recommender import Tensors

OPTIMIZERS: list[tuple[ServerOptimizerConfig, Callable[[Tensor], torch.optim.Optimizer]]] = [
    (ServerOptimizerConfig(), lambda p: torch.optim.Adam([p], lr=0.01)),
    (
        ServerOptimizerConfig(momentum=0.5, epsilon=1e-3, rate=0.1),
        lambda p: torch.optim.Adam([p], lr=0.1, betas=(0.5, 0.999), eps=1e-3),
    ),
    (ServerOptimizerConfig(kind="sgd", momentum=0.9), lambda p: torch.optim.SGD([p], lr=0.01, momentum=0.9)),
    (ServerOptimizerConfig(kind="adagrad"), lambda p: torch.optim.Adagrad([p], lr=0.01)),
    (ServerOptimizerConfig(kind="yogi"), lambda p: Yogi([p], lr=0.01)),
]


@pytest.mark.parametrize(("config", "build"), OPTIMIZERS)
def test_server_steps_are_the_optimisers_own_and_leave_the_old_state_alone(
    config: ServerOptimizerConfig, build: Callable[[Tensor], torch.optim.Optimizer]
) -> None:
    parameter = torch.tensor([[1.0, -2.0]], requires_grad=True)
    optimizer = build(parameter)
    state: Tensors = {"items": parameter.detach().clone()}
    for step in range(3):
        gradient = torch.tensor([[0.5, 1.0 + step]])
        parameter.grad = gradient.clone()
        optimizer.step()
        before = {name: tensor.clone() for name, tensor in state.items()}
        after = server_step(config, state, "items", gradient)
        assert all(torch.equal(state[name], before[name]) for name in before)
        state = after
        torch.testing.assert_close(state["items"], parameter.detach())


def test_two_steps_of_yogi_by_hand() -> None:
    """β₁ = .5, β₂ = .75, ε = .1: v starts from .01, is raised by a quarter of 2² and lowered by a quarter of .5²."""
    parameter = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = Yogi([parameter], lr=0.2, betas=(0.5, 0.75), eps=0.1)
    parameter.grad = torch.tensor([2.0], dtype=torch.float64)
    optimizer.step()
    first = 1.0 - 0.2 * 1.0 / (math.sqrt(1.01) + 0.1)  # m = 1, v = .01 + .25 · 4
    assert parameter.item() == pytest.approx(first)
    parameter.grad = torch.tensor([-0.5], dtype=torch.float64)
    optimizer.step()
    second = first - 0.2 * 0.25 / (math.sqrt(0.9475) + 0.1)  # m = .5 · 1 − .25, v = 1.01 − .25 · .25
    assert parameter.item() == pytest.approx(second)


def test_yogi_forgets_a_large_gradient_more_slowly_than_adam() -> None:
    gradients = [torch.tensor([10.0])] + [torch.tensor([0.01])] * 200
    moments = {}
    for kind in ("adam", "yogi"):
        state: Tensors = {"items": torch.tensor([0.0])}
        for gradient in gradients:
            state = server_step(build_config(ServerOptimizerConfig, {"kind": kind}, ""), state, "items", gradient)
        moments[kind] = state["items.exp_avg_sq"].item()
    assert moments["yogi"] > 0.99
    assert moments["adam"] < 0.1


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"server\.epsilon = 0"):
        build_config(ServerOptimizerConfig, {"epsilon": 0}, "server")
    with pytest.raises(ConfigError, match=r"server\.kind = 'lamb'"):
        build_config(ServerOptimizerConfig, {"kind": "lamb"}, "server")
