"""The item of a user's only interaction, under exact LightGCN.

In the second pass of a round a user adds e_u(1)/√d_u to each own item, and e_u(1) = Σ_{i∈N_u} X_i/√d_u is made of rows
that the server itself has broadcast. The sum at item i is thus Σ_j M_ij X_j with M_ij = Σ_u [i, j ∈ N_u]/d_u: the
server holds X and can look for M. A user of one item adds 1 to M_ii, where a user of a hundred adds a hundredth, so
that the newcomer with a single interaction stands out of masked sums in which others do not. Degrees are summed in the
same round; what they would lead to expect is subtracted.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedrec.attacks.attack import ATTACKS, Finding, Target
from fedrec.attacks.observation import Observed, case_of, check_watchable, observe
from fedrec.components import Config
from fedrec.errors import ConfigError
from fedrec.federated import Devices
from fedrec.federated.methods import ExactLightGCN
from fedrec.federated.queries import Count, Propagate
from fedrec.streams import keys_of


class SingleItemConfig(Config):
    """Settings of `SingleItem`.

    Attributes:
        sums: how many users' answers are seen as one sum, a case each; one of them is the newcomer.
        trials: newcomers; each has one item, drawn at random from those that others have.
    """

    sums: tuple[int, ...] = (1, 10, 100)
    trials: int = Field(100, ge=2)


@ATTACKS.register("single-item")
class SingleItem:
    """Which item does a newcomer with one interaction have?"""

    config_class: ClassVar[type[Config]] = SingleItemConfig

    def __init__(self, config: SingleItemConfig) -> None:
        self.config = config

    def check(self, target: Target) -> None:
        """The arm must pass vectors on, twice, over everybody."""
        method = target.method
        if not isinstance(method, ExactLightGCN) or method.config.layers < 2:
            raise ConfigError("attack 'single-item' is on exact-lightgcn of two layers or more; name such arms in `on`")
        if target.recommender.participation.rate < 1:
            raise ConfigError("attack 'single-item' needs everybody's answer; set the arm's participation.rate = 1")
        check_watchable(target, self.config.sums)

    def run(self, target: Target) -> list[Finding]:
        """The share of newcomers whose item is guessed first; chance is one of the items that somebody has."""
        self.check(target)
        passes, counts, items = self._observed(target)
        people, newcomers = len(passes.users) - self.config.trials, self.config.trials
        findings = []
        for size in self.config.sums:
            generator = target.streams.generator(f"attack/single-item/{size}")
            hits = []
            for newcomer in range(newcomers):
                others = torch.randperm(people, generator=generator)[: size - 1]
                members = torch.cat([torch.tensor([people + newcomer]), others])
                scores = single_item_scores(
                    passes.sum_of(members, generator), counts.sum_of(members, generator).flatten(), items
                )
                hits.append(float(passes.own[people + newcomer, int(scores.argmax())]))
            findings.append(Finding.mean(case_of(size), "item-guessed", hits, 1 / len(np.unique(target.train.item))))
        return findings

    def _observed(self, target: Target) -> tuple[Observed, Observed, Tensor]:
        """Second passes and counts of everybody, newcomers last, and the rows of the first broadcast."""
        devices = with_newcomers(target, self.config.trials)
        first, second, counts = (Propagate.kind, 0), (Propagate.kind, 1), (Count.kind, 0)
        count, start, passes = observe(target, counts, first, second, devices=devices)
        assert isinstance(start.query, Propagate)
        return passes, count, start.query.layer.float()


def with_newcomers(target: Target, number: int) -> Devices:
    """The arm's population and behind it some users of one item each, drawn from those that somebody has."""
    indptr, items = target.train.csr
    drawn = torch.from_numpy(
        target.streams.numbers("attack/single-item/drawn").choice(torch.unique(items).numpy(), number)
    )
    ends = indptr[-1] + torch.arange(1, number + 1)
    keys = torch.cat([target.train.users.keys, keys_of(f"newcomer {n}" for n in range(number))])
    return Devices(keys, torch.cat([indptr, ends]), torch.cat([items, drawn]), target.train.n_items)


def single_item_scores(seen: Tensor, counts: Tensor, items: Tensor) -> Tensor:
    """How much each item looks like somebody's only one.

    w_i = ⟨row i, X_i⟩ / ‖X_i‖² estimates M_ii, and what is left of the row beside w_i X_i how far off the estimate is,
    v_i. Beyond what the degree explains, which is a share of d_i that the other items tell, a newcomer adds 1; the
    score is the log likelihood ratio of 1 and 0, (w_i − share · d_i − ½) / v_i.

    Args:
        seen: [n_items, d] the sum of second passes.
        counts: [n_items] the sum of counts.
        items: [n_items, d] X, the rows that the first pass broadcast.
    """
    square = items.square().sum(dim=1).clamp(min=1e-30)
    weight = (seen * items).sum(dim=1) / square
    explained, explaining = weight * counts, counts.square()
    share = (explained.sum() - explained) / (explaining.sum() - explaining).clamp(min=1e-30)  # of the other items
    rest = seen - weight.unsqueeze(1) * items
    variance = rest.square().mean(dim=1) / square + 1e-6
    return (weight - share * counts - 0.5) / variance
