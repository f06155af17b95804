"""How the server steps on a pseudo-gradient: torch's own optimisers, their state kept in the server's.

SGD on the mean change of the clients is FedAvg, Adam is FedAdam (Reddi et al. 2021).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.recommenders.recommender import Tensors


class ServerOptimizerConfig(Config):
    """The server's optimiser.

    Attributes:
        kind: "sgd" (FedAvg) or "adam" (FedAdam).
        rate: server learning rate.
        momentum: of SGD; Adam's first moment takes it as β₁ when it is given.
    """

    kind: Literal["sgd", "adam"] = "adam"
    rate: float = Field(0.01, gt=0)
    momentum: float | None = Field(None, ge=0, lt=1)


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


def _build(config: ServerOptimizerConfig, parameter: Tensor) -> torch.optim.Optimizer:
    if config.kind == "sgd":
        return torch.optim.SGD([parameter], lr=config.rate, momentum=config.momentum or 0.0)
    first = 0.9 if config.momentum is None else config.momentum
    return torch.optim.Adam([parameter], lr=config.rate, betas=(first, 0.999))
