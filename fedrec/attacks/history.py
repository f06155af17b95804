"""Reading a user's history from an answer, from a sum of answers, or from a noised sum.

An answer to `LocalTraining` without masking or noise has a row for each item of the user and for each sampled negative,
and the two push the item table in opposite directions: negatives move along −e_u, own items along +e_u and towards each
other. With more negatives than own items the sign of the majority is that of the negatives, so a stranger tells them
apart. Answers to other queries have rows at the user's own items alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fedrec.attacks.attack import ATTACKS, Finding, Target
from fedrec.attacks.observation import Observed, case_of, check_watchable, observe
from fedrec.components import Config
from fedrec.errors import DataError

_WITH_NEGATIVES = ("local-training", "factor-training", "neural-training", "personal-training", "loss-gradient")


def guess_history(change: Tensor) -> Tensor:
    """How much each item looks like one of the user's own.

    Args:
        change: [n_items, d], the change of the item table that the observer saw: one user's, a sum, or a noised sum.

    Returns:
        [n_items] scores; larger means more likely the user's own. Items that nothing happened to come last.
    """
    touched = change.abs().sum(dim=1) > 0
    direction = torch.linalg.svd(change, full_matrices=False).Vh[0]
    along = change @ direction
    majority = torch.sign(along[touched].sign().sum()) if touched.any() else along.new_ones(())
    scores = -along * torch.where(majority == 0, torch.ones_like(majority), majority)
    return torch.where(touched, scores, scores.min() - 1.0)


def history_scores(kind: str, seen: Tensor, size: int) -> Tensor:
    """How much each item looks like an own one, in what was seen of a query.

    Args:
        kind: of the query: training steps touch negatives as well, other answers touch own items alone.
        seen: [n_items, width].
        size: of the sum. The users of a sum pull in as many directions, so that signs say little; but items that are
            somebody's own move further than those that are drawn as negatives now and then.

    Returns:
        [n_items].
    """
    if kind in _WITH_NEGATIVES and size == 1:
        return guess_history(seen)
    return seen[:, 0] if seen.shape[1] == 1 else torch.linalg.vector_norm(seen, dim=1)


def area_under_curve(scores: Tensor, own: Tensor) -> float:
    """The probability that an own item scores above another one: 1 is a history read in full, .5 is chance.

    Args:
        scores: [n_items], from `guess_history`.
        own: [n_items] bool, the truth.

    Raises:
        DataError: if the user has no item, or all of them.
    """
    if bool(own.all()) or not bool(own.any()):
        raise DataError(f"{int(own.sum())} of {len(own)} items are the user's own; success is defined in between")
    return float(roc_auc_score(own.cpu().numpy(), scores.cpu().numpy()))


def share_read(scores: Tensor, own: Tensor) -> float:
    """The share of a user's d items that are among the d of the highest scores."""
    size = int(own.sum())
    return float(own[scores.topk(size).indices].float().mean()) if size else 0.0


class HistoryConfig(Config):
    """Settings of `History`.

    Attributes:
        sums: how many users' answers are seen as one sum, a case each; 1 is a single answer.
        trials: users that are attacked in each case.
        query: the kind of query that is watched; None is whatever the arm asks first.
        rounds: how many are watched, their answers added up.
        after: rounds that are played before.
    """

    sums: tuple[int, ...] = (1, 10, 100)
    trials: int = Field(100, ge=2)
    query: str | None = None
    rounds: int = Field(1, ge=1)
    after: int = Field(0, ge=0)


@ATTACKS.register("history")
class History:
    """Which items does a user have?"""

    config_class: ClassVar[type[Config]] = HistoryConfig

    def __init__(self, config: HistoryConfig) -> None:
        self.config = config

    def check(self, target: Target) -> None:
        """The arm must have the rounds and the users."""
        check_watchable(target, self.config.sums, self.config.rounds, self.config.after)

    def run(self, target: Target) -> list[Finding]:
        """AUC and share of the history that is read, of users in the sum; chance is what it says of others."""
        config = self.config
        kinds = () if config.query is None else ((config.query, 0),)
        (seen,) = observe(target, *kinds, rounds=config.rounds, after=config.after)
        found = []
        for size in config.sums:
            generator = target.streams.generator(f"attack/history/{size}")
            guess = partial(history_scores, seen.query.kind, size=size)
            found += histories_read(seen, size, config.trials, guess, generator)
        return found


def histories_read(
    seen: Observed, size: int, trials: int, guess: Callable[[Tensor], Tensor], generator: torch.Generator
) -> list[Finding]:
    """How well guesses tell the items of users in a sum; chance is what the same guesses say of users who are not.

    Args:
        seen: the answers.
        size: of the sums.
        trials: number of sums.
        guess: what was seen of a sum, [n_items, width] -> [n_items] how much each item looks like an own one.
        generator: draws sums and noise.
    """
    inside: list[tuple[float, float]] = []
    outside: list[tuple[float, float]] = []
    for members, stranger in seen.groups(size, trials, generator):
        scores = guess(seen.sum_of(members, generator))
        for found, user in ((inside, int(members[0])), (outside, stranger)):
            own = seen.own[user]
            if own.any() and not own.all():
                found.append((area_under_curve(scores, own), share_read(scores, own)))
    of_members, of_strangers = (torch.tensor(found, dtype=torch.float64) for found in (inside, outside))
    return [
        Finding.mean(case_of(size), measure, of_members[:, column], float(of_strangers[:, column].mean()))
        for column, measure in enumerate(("auc", "history-read"))
    ]
