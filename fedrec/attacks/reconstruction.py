"""Reconstruction of a history by gradient matching: which history would have made the device send this?

Zhu, Liu & Han 2019, "Deep Leakage from Gradients", with the cosine objective of Geiping et al. 2020, "Inverting
Gradients". The attacker plays a device of its own: a guessed membership x_j in [0, 1] of each item, a guessed user
vector p and guessed numbers n_j of negatives go through one local step, whose change of the item table

    −[ (x_j (σ(s_j) − 1) + n_j σ(s_j)) e + ½ x_j h / √d ],   s = Q e,  e = ½ (p + Σ x_j q_j / √d),  h = Σ_j g_j q_j

it makes as parallel as it can to what it saw, by gradient descent on x, p and n.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedrec.attacks.attack import ATTACKS, Finding, Target
from fedrec.attacks.history import histories_read
from fedrec.attacks.observation import check_watchable, observe
from fedrec.components import Config
from fedrec.errors import ConfigError
from fedrec.federated.queries import LocalTraining

_NEVER = -4.0  # the logit that a membership starts from: few items are a user's own


class ReconstructionConfig(Config):
    """Settings of `Reconstruction`.

    Attributes:
        sums: how many users' answers are seen as one sum, a case each.
        trials: users that are attacked in each case.
        steps: of Adam.
        rate: of Adam.
        after: rounds that are played before.
    """

    sums: tuple[int, ...] = (1, 10)
    trials: int = Field(20, ge=2)
    steps: int = Field(60, ge=1)
    rate: float = Field(0.1, gt=0)
    after: int = Field(0, ge=0)


@ATTACKS.register("reconstruction")
class Reconstruction:
    """What history explains an answer to local training?"""

    config_class: ClassVar[type[Config]] = ReconstructionConfig

    def __init__(self, config: ReconstructionConfig) -> None:
        self.config = config

    def check(self, target: Target) -> None:
        """The arm must have the rounds and the users, and train locally."""
        check_watchable(target, self.config.sums, after=self.config.after)
        if not isinstance(target.memory, LocalTraining):
            raise ConfigError("attack 'reconstruction' matches local training steps; name arms of ego-lightgcn in `on`")

    def run(self, target: Target) -> list[Finding]:
        """AUC and share read, as `History` has them."""
        config = self.config
        findings: list[Finding] = []
        (seen,) = observe(target, (LocalTraining.kind, 0), after=config.after)
        assert isinstance(seen.query, LocalTraining)
        guess = partial(reconstruct, query=seen.query, steps=config.steps, rate=config.rate)
        for size in config.sums:
            generator = target.streams.generator(f"attack/reconstruction/{size}")
            findings += histories_read(seen, size, config.trials, guess, generator)
        return findings


def reconstruct(change: Tensor, query: LocalTraining, steps: int = 60, rate: float = 0.1) -> Tensor:
    """The membership of each item that explains a change best.

    Args:
        change: [n_items, d], what was seen.
        query: what was asked.
        steps: of Adam.
        rate: of Adam.

    Returns:
        [n_items] logits; larger means more likely the user's own.
    """
    items, change = query.items.float(), change.float()
    size = torch.linalg.vector_norm(change)
    if not float(size):
        return torch.zeros(len(items))
    touched = change.abs().sum(dim=1) > 0
    # Negatives are the majority and move along −e: the first guess of p points there. Its length is that of others'.
    direction = torch.linalg.svd(change, full_matrices=False).Vh[0]
    sign = torch.sign((change[touched] @ direction).sign().sum() + 0.5)
    scale = max(query.initial_scale, 1e-3) * items.shape[1] ** 0.5
    user = (-sign * direction * scale).requires_grad_()
    member = torch.full((len(items),), _NEVER).requires_grad_()
    drawn = torch.where(touched, 0.0, _NEVER).requires_grad_()
    optimizer = torch.optim.Adam([{"params": [member, drawn]}, {"params": [user], "lr": rate * scale}], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 1 - F.cosine_similarity(_step(items, user, member, drawn).flatten(), change.flatten(), dim=0)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = member.detach()
    return torch.where(touched, found, found.min() - 1.0)


def _step(items: Tensor, user: Tensor, member: Tensor, drawn: Tensor) -> Tensor:
    """The change that one local step with the guesses makes, to scale: [n_items, d]."""
    own, negatives = torch.sigmoid(member), F.softplus(drawn) * torch.sigmoid(-member)
    root = own.sum().clamp(min=1).sqrt()
    vector = 0.5 * (user + (own @ items) / root)
    likely = torch.sigmoid(items @ vector)
    slope = own * (likely - 1) + negatives * likely
    pull = slope @ items
    return -(slope.unsqueeze(1) * vector + 0.5 * own.unsqueeze(1) * pull / root)
