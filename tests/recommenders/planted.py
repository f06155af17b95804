"""Interactions with a structure that a recommender must find."""

from fedrec.data.interactions import Interactions
from tests.graph.small import interactions


def blocks(n_users: int = 30, n_items: int = 24, held_out: int = 3) -> tuple[Interactions, Interactions]:
    """Two blocks: even users like even items, odd users odd ones. Train, and `held_out` items of each user."""
    train: list[tuple[int, int]] = []
    held: list[tuple[int, int]] = []
    for user in range(n_users):
        own = [item for item in range(n_items) if item % 2 == user % 2]
        hidden = {own[(user // 2 + step) % len(own)] for step in range(held_out)}
        for item in own:
            (held if item in hidden else train).append((user, item))
    return interactions(train, n_users, n_items), interactions(held, n_users, n_items)
