"""Graphs that fit on a page."""

import numpy as np
from hypothesis import strategies as st

from fedrec.data.interactions import Interactions, Vocabulary


def interactions(pairs: list[tuple[int, int]], n_users: int, n_items: int) -> Interactions:
    """Interactions of the pairs (user, item), in their order."""
    user, item = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    users, items = (Vocabulary(tuple(map(str, range(size)))) for size in (n_users, n_items))
    return Interactions(user.copy(), item.copy(), users, items)


@st.composite
def graphs(draw: st.DrawFn) -> Interactions:
    """Any set of pairs of up to 6 users and 6 items, at least one, in any order."""
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    pair = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1))
    return interactions(draw(st.lists(pair, min_size=1, unique=True)), n_users, n_items)


# Users 0 and 1 share item 1; item 2 and user 2 have nobody.
PAIRS = [(1, 1), (0, 0), (0, 1)]
PATH = interactions(PAIRS, n_users=3, n_items=3)
