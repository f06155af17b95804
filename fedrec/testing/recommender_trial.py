"""A recommender on trial: planted data, fits of it, and what an interruption needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import Interactions, Vocabulary
from fedrec.data.synthetic import SyntheticConfig, generate
from fedrec.recommenders import Disclosure, Recommender, Tensors, Training

HELD_OUT = 3  # interactions of each planted user


@dataclass(frozen=True, eq=False)
class RecommenderTrial:
    """A recommender on trial.

    Attributes:
        build: makes one that is not fitted.
        settings: what it is built with; None if only `build` knows.
    """

    build: Callable[[], Recommender]
    settings: Config | None

    @cached_property
    def data(self) -> tuple[Interactions, Interactions]:
        """Planted training interactions, and what is held out."""
        return planted()

    @cached_property
    def users(self) -> Tensor:
        """The codes of all users."""
        return torch.arange(self.data[0].n_users)

    def fit(self, train: Interactions | None = None, **training: Any) -> Recommender:
        """One fitted to the planted data or to others, with the given parts of a `Training`."""
        recommender = self.build()
        recommender.fit(self.data[0] if train is None else train, Training(**({"device": "cpu"} | training)))
        return recommender

    @cached_property
    def fitted(self) -> Recommender:
        """One fitted to the planted data with seed 0, which checks share."""
        return self.fit()

    @cached_property
    def scores(self) -> Tensor:
        """Its scores for all users."""
        return self.fitted.score(self.users).detach().cpu().clone()


def planted() -> tuple[Interactions, Interactions]:
    """Training interactions with communities and popular items, and each user's last three, held out.

    One more user and one more item are in the vocabularies and have no interaction.
    """
    whole = generate(SyntheticConfig(users=59, items=39, interactions=12, activity=0.2, communities=2, affinity=0.95))
    users, items = Vocabulary((*whole.users.ids, "nobody")), Vocabulary((*whole.items.ids, "nothing"))
    from_end = np.concatenate([np.arange(degree)[::-1] for degree in whole.user_degrees])  # rows are grouped by user
    groups, genres = whole.user_attributes["group"], whole.item_attributes["genres"]
    together = replace(
        whole,
        users=users,
        items=items,
        user_attributes=groups.to_frame().reindex(range(len(users)), fill_value=groups[0]),
        item_attributes=genres.to_frame().reindex(range(len(items)), fill_value=genres[0]),
    )
    return together.take(from_end >= HELD_OUT), together.take(from_end < HELD_OUT)


class KilledError(Exception):
    """The fit was killed here."""


class Kept:
    """The last checkpoint, as a file would hold it: copied tensors, and facts that went through JSON."""

    def __init__(self) -> None:
        self.saved: tuple[Tensors, str] | None = None

    def load(self) -> tuple[Tensors, Mapping[str, object]] | None:
        """The last one."""
        return None if self.saved is None else (self.saved[0], json.loads(self.saved[1]))

    def save(self, tensors: Tensors, facts: Mapping[str, object]) -> None:
        """Replace it."""
        self.saved = {name: tensor.clone() for name, tensor in tensors.items()}, json.dumps(facts, allow_nan=False)


class Log:
    """Logged rows in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, float, Disclosure]] = []

    def __call__(self, step: int, name: str, value: float, disclosure: Disclosure) -> None:
        """Keep a row."""
        self.rows.append((step, name, value, disclosure))


def bytes_of(tensors: Tensors) -> dict[str, bytes]:
    """What tensors hold, by name."""
    return {name: tensor.detach().cpu().contiguous().numpy().tobytes() for name, tensor in tensors.items()}


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for the rounding of single precision, in which sums may run in another order."""
    return found.shape == expected.shape and torch.allclose(found.double(), expected.double(), rtol=1e-4, atol=1e-5)
