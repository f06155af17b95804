"""A part of the training interactions held out, for models that learn from what other models say."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from fedrec.data.interactions import Interactions
from fedrec.errors import DataError
from fedrec.streams import Streams


def hold_out(
    train: Interactions, share: float, order: Literal["time", "random"], streams: Streams
) -> tuple[Interactions, Interactions]:
    """A first stage's training part and a second stage's.

    Args:
        train: the training interactions; nothing else is seen.
        share: of each user's interactions, rounded, that the second stage gets: at least one where a user has two, and
            never all.
        order: "time" takes the last ones, as a split by time does; without timestamps, or by "random", any.
        streams: of which "held out" is drawn from, by user and item.

    Returns:
        The rest, and what is held out.

    Raises:
        DataError: if no user has two interactions.
    """
    if order == "time" and train.time is not None:
        key = train.time
    else:
        users, items = train.users.keys[torch.from_numpy(train.user)], train.items.keys[torch.from_numpy(train.item)]
        key = streams.words("held out", users, items).numpy().astype(np.float64)
    rows = np.lexsort((key, train.user))  # stable: ties stay in file order
    degrees = train.user_degrees
    from_end = np.empty(len(train), dtype=np.int64)
    from_end[rows] = np.cumsum(degrees)[train.user[rows]] - 1 - np.arange(len(train))
    size = np.minimum(np.maximum(np.floor(share * degrees + 0.5), 1), degrees - 1)
    held = from_end < size[train.user]
    if not held.any():
        raise DataError("no user has two training interactions, so none can be held out; choose a method of one stage")
    return train.take(~held), train.take(held)
