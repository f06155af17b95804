"""`Interactions`: who touched what, in file order, on contiguous codes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from fedrec.errors import DataError
from fedrec.streams import keys_of

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The original ids of users or of items; the code of an id is its position.

    Ids are strings. `of` sorts them (by value if all are whole numbers, else by text), so that codes do not depend on
    the order of a file.
    """

    ids: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[str]) -> Vocabulary:
        """The vocabulary of the distinct values."""
        distinct = set(values)
        if all(value.isascii() and value.isdigit() for value in distinct):
            return cls(tuple(sorted(distinct, key=lambda value: (int(value), value))))
        return cls(tuple(sorted(distinct)))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _index(self) -> pd.Index[str]:
        return pd.Index(self.ids, dtype=object)

    def encode(self, values: Sequence[str]) -> IntArray:
        """The codes of ids, [n] int64; -1 where an id is unknown."""
        return np.asarray(self._index.get_indexer(pd.Index(values, dtype=object)), dtype=np.int64)

    def decode(self, codes: IntArray) -> npt.NDArray[np.object_]:
        """The original ids of codes, [n] of str."""
        return np.asarray(self.ids, dtype=object)[codes]

    @cached_property
    def keys(self) -> Tensor:
        """[n] int64 keys of the random streams: a function of the original ids alone."""
        return keys_of(self.ids)


@dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions in file order, over vocabularies that may hold more users and items than occur here.

    Timestamps are often equal; wherever time orders interactions, ties keep file order (a stable sort).

    Attributes:
        user: [n] int64 user codes.
        item: [n] int64 item codes.
        users, items: the vocabularies; their sizes are the numbers of users and of items.
        rating: [n] float64, or None.
        time: [n] float64 in the file's own unit, or None.
        user_attributes, item_attributes: one row a code, in code order; no columns if nothing is known. A column of
            several values a row (genres) holds them joined by "|".
    """

    user: IntArray
    item: IntArray
    users: Vocabulary
    items: Vocabulary
    rating: FloatArray | None = None
    time: FloatArray | None = None
    user_attributes: pd.DataFrame = field(default_factory=pd.DataFrame)
    item_attributes: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        for name, codes, size in (("user", self.user, len(self.users)), ("item", self.item, len(self.items))):
            if len(codes) != len(self.user):
                raise DataError(f"Interactions: {len(codes)} {name} codes for {len(self.user)} users; give one of each")
            if len(codes) and (codes.min() < 0 or codes.max() >= size):
                raise DataError(f"Interactions: {name} codes must lie in [0, {size}); encode ids with the vocabulary")
        for name, column in (("rating", self.rating), ("time", self.time)):
            if column is not None and len(column) != len(self.user):
                raise DataError(f"Interactions: {len(column)} values of {name} for {len(self.user)} interactions")
        for name, table, size in (
            ("user_attributes", self.user_attributes, len(self.users)),
            ("item_attributes", self.item_attributes, len(self.items)),
        ):
            if len(table.columns) and len(table) != size:
                raise DataError(f"Interactions: {name} has {len(table)} rows; it needs one for each of {size} codes")

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        """Size of the user vocabulary."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Size of the item vocabulary: the catalogue."""
        return len(self.items)

    def take(self, rows: IntArray | BoolArray) -> Interactions:
        """Some of the interactions, by position or mask, over the same vocabularies."""
        return replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            rating=None if self.rating is None else self.rating[rows],
            time=None if self.time is None else self.time[rows],
        )

    @cached_property
    def csr(self) -> tuple[Tensor, Tensor]:
        """Items by user: (indptr [n_users + 1], items [n] ascending within a user), both int64 tensors.

        Raises:
            DataError: if a pair occurs twice; clean with `duplicates` first.
        """
        order = np.lexsort((self.item, self.user))
        user, item = self.user[order], self.item[order]
        repeated = (np.diff(user) == 0) & (np.diff(item) == 0)
        if repeated.any():
            raise DataError(
                f"{int(repeated.sum())} user-item pairs occur more than once; "
                "keep one of each with clean = { duplicates = 'last' }"
            )
        indptr = np.zeros(self.n_users + 1, dtype=np.int64)
        np.cumsum(self.user_degrees, out=indptr[1:])
        return torch.from_numpy(indptr), torch.from_numpy(item)

    @cached_property
    def user_degrees(self) -> IntArray:
        """[n_users] number of interactions of each user."""
        return np.bincount(self.user, minlength=self.n_users).astype(np.int64)

    @cached_property
    def item_degrees(self) -> IntArray:
        """[n_items] number of interactions of each item."""
        return np.bincount(self.item, minlength=self.n_items).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the interactions in order, by original ids: the same data from any format has the same one.

        Attribute tables are not part of it.
        """
        digest = hashlib.sha256()
        for codes, vocabulary in ((self.user, self.users), (self.item, self.items)):
            digest.update("\n".join(vocabulary.decode(codes)).encode())
            digest.update(b"\0")
        for column in (self.rating, self.time):
            digest.update(b"-" if column is None else np.ascontiguousarray(column, dtype="<f8").tobytes())
            digest.update(b"\0")
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Split:
    """Three parts of one data set over the same vocabularies. Training code is handed `train` and never the rest.

    Attributes:
        train, valid, test: disjoint interactions.
        notes: what a reader of the results must know (order of ties, users dropped, cold items), one sentence each.
        whole: train and valid together, where valid was drawn from train for choosing only: what has been chosen is
            then fitted on the whole before it is tested. None if the model that was validated is the one to test.
    """

    train: Interactions
    valid: Interactions
    test: Interactions
    notes: tuple[str, ...] = ()
    whole: Interactions | None = None

    @property
    def refitted(self) -> Split | None:
        """The split of a second fit: the whole to learn from, nothing to validate on, the same test; or None."""
        if self.whole is None:
            return None
        return Split(self.whole, self.valid.take(np.arange(0)), self.test, self.notes)
