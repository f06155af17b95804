"""The canary: where there is nothing to learn, nothing may be learnt.

Every user gets items drawn at random, so that no item says anything about another, and one of them is held out. Each
user is trained alone, without collaboration. A recommender that then ranks the held-out items above chance has seen
them, most often through negatives that were drawn around them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from fedrec.data.interactions import Interactions, Vocabulary
from fedrec.errors import ModelError
from fedrec.recommenders.recommender import Scorer, require_finite
from fedrec.streams import Streams


@dataclass(frozen=True)
class Canary:
    """What a canary run found.

    Attributes:
        users: users that were trained, each alone.
        percentile: mean share of the candidates that the held-out item was ranked above; .5 is chance.
    """

    users: int
    percentile: float

    @property
    def deviations(self) -> float:
        """How far that is above chance, in standard deviations: a uniform percentile's mean has 1/√(12 · users)."""
        return (self.percentile - 0.5) * math.sqrt(12 * self.users)


def check_no_leak(
    fit: Callable[[Interactions, Interactions], Scorer],
    *,
    users: int = 150,
    n_items: int = 60,
    history: int = 8,
    seed: int = 0,
    tolerance: float = 4.0,
) -> Canary:
    """Train each of some users alone on random items and see whether held-out items rank at chance.

    Args:
        fit: (train, held out) -> scorer, trained on one user (code 0) of a catalogue of `n_items`. An honest one
            ignores the second argument; it is there for checking that a dishonest one is caught.
        users: number of users, each a training of its own.
        n_items: size of the catalogue.
        history: training items of a user.
        seed: of the random histories.
        tolerance: standard deviations above chance that are taken for a leak; 4 is a false alarm once in 30,000 runs.

    Returns:
        What was found.

    Raises:
        ModelError: if the held-out items rank above chance, or a score is not finite.
    """
    streams = Streams(seed)
    items = Vocabulary(tuple(f"item {code}" for code in range(n_items)))
    shares = []
    for user in range(users):
        someone = Vocabulary((f"user {user}",))
        order = np.argsort(streams.uniform("canary", someone.keys, torch.arange(n_items)).numpy())
        train, held_out = (
            _one_user(someone, items, chosen) for chosen in (order[:history], order[history : history + 1])
        )
        scores = require_finite(fit(train, held_out)(torch.tensor([0]))[0].detach().cpu().double(), "canary scores")
        candidates, target = scores[order[history + 1 :]], scores[order[history]]
        below, level = (candidates < target).sum(), (candidates == target).sum()
        shares.append(float((below + 0.5 * level) / len(candidates)))
    found = Canary(users, float(np.mean(shares)))
    if found.deviations > tolerance:
        raise ModelError(
            f"the held-out item ranks above {found.percentile:.1%} of the candidates, {found.deviations:.1f} "
            "deviations from chance, where nothing can be learnt: held-out items reach the training; check the "
            "negatives"
        )
    return found


def _one_user(user: Vocabulary, items: Vocabulary, chosen: npt.NDArray[np.int64]) -> Interactions:
    codes = np.sort(chosen).astype(np.int64)
    return Interactions(
        user=np.zeros(len(codes), dtype=np.int64),
        item=codes,
        users=user,
        items=items,
        # Attributes for those who need some; they have nothing to do with who has what.
        user_attributes=pd.DataFrame({"group": ["everybody"]}),
        item_attributes=pd.DataFrame({"genres": [f"genre-{code % 4}" for code in range(len(items))]}),
    )
