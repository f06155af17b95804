"""Interactions with a structure that a recommender must find."""

import numpy as np

from fedrec.data.interactions import Interactions, Vocabulary


def interactions(pairs: list[tuple[int, int]], n_users: int, n_items: int) -> Interactions:
    """Interactions of the pairs (user, item), in their order."""
    user, item = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    users, items = (Vocabulary(tuple(map(str, range(size)))) for size in (n_users, n_items))
    return Interactions(user.copy(), item.copy(), users, items)


def blocks(n_users: int = 30, n_items: int = 24, held_out: int = 3) -> tuple[Interactions, Interactions]:
    """Two blocks: even users like even items, odd users odd ones. Train, and `held_out` items of each user."""
    train, held = [], []
    for user in range(n_users):
        own = [item for item in range(n_items) if item % 2 == user % 2]
        hidden = {own[(user // 2 + step) % len(own)] for step in range(held_out)}
        for item in own:
            (held if item in hidden else train).append((user, item))
    return interactions(train, n_users, n_items), interactions(held, n_users, n_items)
