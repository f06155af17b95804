"""How the server steps on a pseudo-gradient: torch's optimisers, their state kept in the server's.

On the mean change of the clients SGD is FedAvg, and Adagrad, Adam and Yogi are FedAdagrad, FedAdam and FedYogi (Reddi
et al. 2021, "Adaptive Federated Optimization"). Their FedAdam has no correction for the zeros that its moments start
from; torch's Adam has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.recommenders.recommender import Tensors


class ServerOptimizerConfig(Config):
    """The server's optimiser.

    Attributes:
        kind: "sgd" (FedAvg), "adagrad" (FedAdagrad), "adam" (FedAdam) or "yogi" (FedYogi).
        rate: server learning rate.
        momentum: of SGD; the first moment of Adam and Yogi takes it as β₁ when it is given. Adagrad has none.
        epsilon: what is added to the root of the second moment: how small a pseudo-gradient still makes a full step.
            By default torch's own, 10⁻⁸ for Adam and 10⁻¹⁰ for Adagrad, and Reddi's 10⁻³ for Yogi.
    """

    kind: Literal["sgd", "adagrad", "adam", "yogi"] = "adam"
    rate: float = Field(0.01, gt=0)
    momentum: float | None = Field(None, ge=0, lt=1)
    epsilon: float | None = Field(None, gt=0)


def server_step(config: ServerOptimizerConfig, state: Tensors, name: str, gradient: Tensor) -> dict[str, Tensor]:
    """The server state after one optimiser step on one of its parameters.

    Args:
        config: which optimiser.
        state: holds the parameter under `name` and, after the first step, the optimiser's own tensors under
            "name.<what>". It is left as it is.
        name: the parameter.
        gradient: its pseudo-gradient, of the same shape.
    """
    parameter = state[name].clone()
    parameter.grad = gradient.to(parameter.dtype)
    optimizer = _build(config, parameter)
    prefix = f"{name}."
    moments = {key.removeprefix(prefix): value.clone() for key, value in state.items() if key.startswith(prefix)}
    if moments:
        optimizer.state[parameter] = moments
    optimizer.step()
    parameter.grad = None
    kept = {prefix + key: value for key, value in optimizer.state[parameter].items() if isinstance(value, Tensor)}
    return dict(state) | {name: parameter} | kept


class Yogi(torch.optim.Optimizer):
    """Yogi, which torch has not (Zaheer et al. 2018; as the server of FedYogi, Reddi et al. 2021, algorithm 2).

        m ← β₁ m + (1 − β₁) g
        v ← v − (1 − β₂) sign(v − g²) g²        where Adam has v ← v − (1 − β₂) (v − g²)
        x ← x − η m / (√v + ε)

    The second moment moves by g² at most, so that a large one is forgotten slowly. It starts from ε².

    Args:
        params: what is optimised.
        lr: η.
        betas: β₁ and β₂.
        eps: ε.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-3,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step along the gradients that the parameters hold."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            (first, second), epsilon = group["betas"], group["eps"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                moments: dict[str, Any] = self.state[parameter]
                if not moments:
                    moments["exp_avg"] = torch.zeros_like(parameter)
                    moments["exp_avg_sq"] = torch.full_like(parameter, epsilon**2)
                mean, square, squared = moments["exp_avg"], moments["exp_avg_sq"], parameter.grad.square()
                mean.lerp_(parameter.grad, 1 - first)
                square.addcmul_((square - squared).sign(), squared, value=-(1 - second))
                parameter.addcdiv_(mean, square.sqrt() + epsilon, value=-group["lr"])
        return loss


def _build(config: ServerOptimizerConfig, parameter: Tensor) -> torch.optim.Optimizer:
    if config.kind == "sgd":
        return torch.optim.SGD([parameter], lr=config.rate, momentum=config.momentum or 0.0)
    if config.kind == "adagrad":
        return torch.optim.Adagrad([parameter], lr=config.rate, eps=config.epsilon or 1e-10)
    first = 0.9 if config.momentum is None else config.momentum
    if config.kind == "adam":
        return torch.optim.Adam([parameter], lr=config.rate, betas=(first, 0.999), eps=config.epsilon or 1e-8)
    return Yogi([parameter], lr=config.rate, betas=(first, 0.99), eps=config.epsilon or 1e-3)
