"""Membership of one interaction: does a user have an item?

Two observers. A *stranger* knows how popular items are and is asked about pairs of items equally popular, one of which
the user has. An *insider* knows everything but one interaction: all other users, whom it subtracts from any sum, the
user's other items and the randomness of the device. Masks keep out the stranger; against the insider there is noise.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedrec.attacks.attack import ATTACKS, Finding, Target
from fedrec.attacks.history import history_scores
from fedrec.attacks.observation import Observed, case_of, check_watchable, observe
from fedrec.components import Config
from fedrec.data import Interactions


class InteractionConfig(Config):
    """Settings of `Interaction`.

    Attributes:
        sums: how many users' answers the stranger sees as one sum, a case each.
        trials: pairs of items that the stranger is asked about in each case.
        query: the kind of query that is watched, in the first round; None is whatever the arm asks first.
    """

    sums: tuple[int, ...] = (1, 10, 100)
    trials: int = Field(200, ge=2)
    query: str | None = None


@ATTACKS.register("interaction")
class Interaction:
    """Does a user have an item?"""

    config_class: ClassVar[type[Config]] = InteractionConfig

    def __init__(self, config: InteractionConfig) -> None:
        self.config = config

    def check(self, target: Target) -> None:
        """The arm must have the users."""
        check_watchable(target, self.config.sums)

    def run(self, target: Target) -> list[Finding]:
        """The stranger's share of right answers, with that about users who are not there; the insider's AUC."""
        kinds = () if self.config.query is None else ((self.config.query, 0),)
        (seen,) = observe(target, *kinds)
        popularity = torch.from_numpy(np.bincount(target.train.item, minlength=target.train.n_items))
        findings = [self._stranger(seen, size, popularity, target) for size in self.config.sums]
        dropped, missing = without_one_each(target.train, target.streams.numbers("attack/interaction/dropped"))
        (reduced,) = observe(replace(target, train=dropped), *kinds)
        return [*findings, self._insider(seen, reduced, missing, target)]

    def _stranger(self, seen: Observed, size: int, popularity: Tensor, target: Target) -> Finding:
        generator = target.streams.generator(f"attack/interaction/{size}")
        inside: list[float] = []
        outside: list[float] = []
        for members, other in seen.groups(size, self.config.trials, generator):
            scores = history_scores(seen.query.kind, seen.sum_of(members, generator), size)
            for found, user in ((inside, int(members[0])), (outside, other)):
                pair = equally_popular(seen.own[user], popularity, generator)
                if pair is not None:
                    own, lacking = scores[list(pair)]
                    found.append(float(own > lacking) + 0.5 * float(own == lacking))
        return Finding.mean(case_of(size), "right-pairs", inside, sum(outside) / max(1, len(outside)))

    def _insider(self, seen: Observed, reduced: Observed, missing: Tensor, target: Target) -> Finding:
        """A coin decides whether the interaction is in what the insider sees; the score is the likelihood ratio."""
        generator = target.streams.generator("attack/interaction/insider")
        place = {user: number for number, user in enumerate(reduced.users.tolist())}
        inside: list[float] = []
        outside: list[float] = []
        for number, user in enumerate(seen.users.tolist()):
            if user not in place or missing[user] < 0:
                continue
            size = seen.apart(number, reduced, place[user])  # 0 where the interaction changes nothing, which is a tie
            coin = bool(torch.rand((), generator=generator) < 0.5)
            # Along any direction the noise has the same deviation, and only that along the difference tells anything.
            noise = float(torch.randn((), generator=generator)) * seen.deviation
            (inside if coin else outside).append(((size if coin else 0.0) + noise - size / 2) * size)
        value, error = auc_with_error(torch.tensor(inside), torch.tensor(outside))
        return Finding("insider, any sum", "auc", value, error, 0.5, len(inside) + len(outside))


def without_one_each(train: Interactions, numbers: np.random.Generator) -> tuple[Interactions, Tensor]:
    """The interactions without one of each user who has two or more, and [n_users] the item that is missing, or -1."""
    order = np.argsort(numbers.random(len(train.user)), kind="stable")
    order = order[np.argsort(train.user[order], kind="stable")]
    first = np.ones(len(order), dtype=bool)
    first[1:] = train.user[order][1:] != train.user[order][:-1]
    chosen = order[first]
    chosen = chosen[train.user_degrees[train.user[chosen]] >= 2]
    missing = torch.full((train.n_users,), -1, dtype=torch.int64)
    missing[torch.from_numpy(train.user[chosen])] = torch.from_numpy(train.item[chosen])
    kept = np.ones(len(order), dtype=bool)
    kept[chosen] = False
    return train.take(np.flatnonzero(kept)), missing


def equally_popular(own: Tensor, popularity: Tensor, generator: torch.Generator) -> tuple[int, int] | None:
    """A random item of a user's and the one nearest to it in popularity among those that the user lacks.

    Args:
        own: [n_items] bool.
        popularity: [n_items] number of users of each item.
        generator: draws the item, and decides between neighbours equally near.

    Returns:
        None if the user has no item, or all.
    """
    if bool(own.all()) or not bool(own.any()):
        return None
    items, lacking = torch.nonzero(own).flatten(), torch.nonzero(~own).flatten()
    item = int(items[torch.randint(len(items), (), generator=generator)])
    apart = (popularity[lacking] - popularity[item]).abs() + torch.rand(len(lacking), generator=generator) / 2
    return item, int(lacking[apart.argmin()])


def auc_with_error(inside: Tensor, outside: Tensor) -> tuple[float, float]:
    """The probability that a value of the first sample is above one of the second, and its standard error.

    Hanley & McNeil 1982, "The Meaning and Use of the Area under a Receiver Operating Characteristic (ROC) Curve".

    Args:
        inside, outside: [n] and [m].
    """
    n, m = len(inside), len(outside)
    if not n or not m:
        return 0.5, 0.5
    ordered = outside.double().sort().values
    below = torch.searchsorted(ordered, inside.double(), right=False)
    level = torch.searchsorted(ordered, inside.double(), right=True) - below
    area = float((below + 0.5 * level).sum()) / (n * m)
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (n - 1) * (first - area**2) + (m - 1) * (second - area**2)
    return area, math.sqrt(max(0.0, variance) / (n * m))
