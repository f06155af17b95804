"""The authors' negative pool, which leaks. It exists to measure the leak, and for nothing else.

Their code draws training negatives outside *all* of a user's items, those held out for validation and test included. An
item that is never a negative is a held-out one: with item rows of one's own, training writes that down, and ranking
among candidates from the same pool reads it off. fedrec's own methods cannot do this, because what they train on does
not hold the held-out items; here they are handed in by name.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from fedrec.data import Interactions, Split
from fedrec.federated import Cohort, Devices, allow
from fedrec.federated.methods import PFedRec, PFedRecConfig
from fedrec.federated.queries import PersonalTraining


@allow("personal-training-published-pool")
@dataclass(frozen=True, eq=False)
class PublishedPoolTraining(PersonalTraining):
    """PersonalTraining that is told which items are held out, and never draws one. It leaks.

    Attributes:
        keys: [U] int64 stream keys of all users, ascending.
        indptr, known: all items of each of them, held-out ones included.
    """

    keys: Tensor
    indptr: Tensor
    known: Tensor

    def pool(self, cohort: Cohort) -> tuple[Tensor, Tensor]:
        """All items of these users, held-out ones included."""
        position = torch.searchsorted(self.keys, cohort.keys)
        everything = Devices(self.keys, self.indptr, self.known, cohort.n_items).cohort(position)
        return everything.indptr, everything.items


class PublishedPool(PFedRec):
    """PFedRec with the authors' negative pool. It leaks.

    Args:
        config: settings of PFedRec.
        everything: every user's items, held-out ones included.
    """

    def __init__(self, config: PFedRecConfig, everything: Interactions) -> None:
        super().__init__(config)
        devices = Devices.of(everything)
        order = devices.keys.argsort()
        self._known = devices.take(order)

    def training(self, items: Tensor) -> PublishedPoolTraining:
        """A round's local training, with the held-out items handed in."""
        query = super().training(items)
        own = {field.name: getattr(query, field.name) for field in fields(query)}
        return PublishedPoolTraining(
            **own,
            keys=self._known.keys,
            indptr=self._known.indptr,
            known=self._known.items,
        )


def everything(split: Split) -> Interactions:
    """Training, validation and test together."""
    parts = (split.train, split.valid, split.test)
    user, item = (np.concatenate([getattr(part, name) for part in parts]) for name in ("user", "item"))
    return Interactions(user, item, split.train.users, split.train.items)
