"""Small data, built by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedrec.data.interactions import Interactions, Split, Vocabulary
from fedrec.evaluation.csr import Csr

Pairs = Sequence[tuple[int, int]]


def csr_of(rows: Sequence[Sequence[int]]) -> Csr:
    """Items by user, from one list a user."""
    counts = torch.tensor([0, *(len(row) for row in rows)])
    return counts.cumsum(0), torch.tensor([item for row in rows for item in sorted(row)], dtype=torch.int64)


def split_of(
    n_users: int,
    n_items: int,
    train: Pairs,
    valid: Pairs,
    test: Pairs,
    *,
    users: dict[str, list[object]] | None = None,
    items: dict[str, list[object]] | None = None,
) -> Split:
    """A split of (user code, item code) pairs; original ids are "u<code>" and "i<code>"."""
    user_ids = Vocabulary(tuple(f"u{code}" for code in range(n_users)))
    item_ids = Vocabulary(tuple(f"i{code}" for code in range(n_items)))

    def part(pairs: Pairs) -> Interactions:
        codes = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return Interactions(
            codes[:, 0],
            codes[:, 1],
            user_ids,
            item_ids,
            user_attributes=pd.DataFrame(users or {}),
            item_attributes=pd.DataFrame(items or {}),
        )

    return Split(part(train), part(valid), part(test))


def random_split(n_users: int, n_items: int, seed: int = 0) -> Split:
    """Ten interactions a user, of them one for validation and two for test; demographics and genres at random."""
    draw = np.random.default_rng(seed)
    parts: tuple[list[tuple[int, int]], ...] = ([], [], [])
    for user in range(n_users):
        for place, item in enumerate(draw.choice(n_items, 10, replace=False)):
            parts[0 if place < 7 else 1 if place < 8 else 2].append((user, int(item)))
    return split_of(
        n_users,
        n_items,
        *parts,
        users={"gender": list(draw.choice(["F", "M"], n_users)), "age": list(draw.integers(7, 73, n_users))},
        items={"genres": list(draw.choice(["Comedy", "Drama|War", "Comedy|War", "Drama"], n_items))},
    )


def random_scores(n_users: int, n_items: int, seed: int = 0) -> Tensor:
    """Scores without ties, by seed."""
    return torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(seed))


def table_scorer(scores: Tensor) -> torch.nn.Module:
    """A scorer that looks scores up: its values for a user do not depend on who else is asked for."""

    class Table(torch.nn.Module):
        def forward(self, users: Tensor) -> Tensor:
            return scores[users]

    return Table()
