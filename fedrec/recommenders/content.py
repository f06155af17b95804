"""Content-based ranking: items that resemble, by what is written about them, those that the user has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pandas.api.types import is_numeric_dtype
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError, DataError, ModelError, did_you_mean
from fedrec.recommenders.attributes import Columns, encode, texts
from fedrec.recommenders.histories import Histories
from fedrec.recommenders.recommender import RECOMMENDERS, Tensors, Training
from fedrec.spaces import Space, Uniform


class ContentConfig(Config):
    """Settings of `Content`.

    Attributes:
        attributes: item columns whose values are features (genres, year); "auto" takes those whose values recur.
        text: item columns whose words are features (title); "auto" takes the columns of text that are not attributes.
        text_weight: squared length of the words' part of an item's vector; the attributes' part has the rest.
        popularity: exponent of an item's popularity that its score is multiplied by; 0 leaves content alone.
    """

    attributes: Columns = "auto"
    text: Columns = "auto"
    text_weight: float = Field(0.3, ge=0, le=1)
    popularity: float = Field(0.5, ge=0)

    space: ClassVar[Mapping[str, Space]] = {"text_weight": Uniform(0, 1), "popularity": Uniform(0, 1)}


@RECOMMENDERS.register("content")
class Content:
    """Cosine of an item's TF-IDF vector and the mean of those of the user's items; an item needs no interaction."""

    config_class: ClassVar[type[Config]] = ContentConfig
    folds_in = True

    def __init__(self, config: ContentConfig) -> None:
        self.config = config
        self._histories: Histories | None = None
        self._vectors = sp.csr_matrix((0, 0))
        self._popularity = torch.zeros(0)

    def fit(self, train: Interactions, training: Training) -> None:
        """Weigh the values and words of the catalogue by how rare they are.

        Raises:
            ConfigError: if there is no such column.
            DataError: if nothing is known of items.
        """
        self._vectors = item_vectors(train, self.config)
        self._histories = Histories.of(train)
        self._popularity = torch.from_numpy(train.item_degrees)
        training.progress(1, 1, None)

    def score(self, users: Tensor) -> Tensor:
        """Cosines times popularity^exponent, [n] -> [n, n_items] float64; popularity for a user without items."""
        return self.score_histories(self._fitted().take(users))

    def score_histories(self, histories: Histories) -> Tensor:
        """The same for any users, from their items."""
        self._fitted()
        profiles = _unit_rows(histories.matrix @ self._vectors)  # of a sum as of a mean
        cosines = torch.from_numpy((profiles @ self._vectors.T).toarray())
        # One more than the count, so that an item that nobody has had yet keeps the score of its content.
        scores = cosines * (self._popularity.double() + 1) ** self.config.popularity
        return histories.fill_empty(scores, self._popularity)

    def tensors(self) -> Tensors:
        """The items' vectors, sparse, and the popularity of items."""
        self._fitted()
        return {
            "indptr": torch.from_numpy(self._vectors.indptr.astype(np.int64)),
            "features": torch.from_numpy(self._vectors.indices.astype(np.int64)),
            "values": torch.from_numpy(self._vectors.data),
            "popularity": self._popularity,
        }

    def _fitted(self) -> Histories:
        if self._histories is None:
            raise ModelError("Content has not been fitted; call fit(train, training) before scoring")
        return self._histories


def item_vectors(train: Interactions, config: ContentConfig) -> sp.csr_matrix:
    """[n_items, features] float64 rows of length 1, or 0 where nothing is known of an item.

    The TF-IDF of values is 1 + log((1 + n) / (1 + df)), that of words is scikit-learn's, English stop words left out.
    Each part is scaled to length 1 before both are weighed.
    """
    from sklearn.feature_extraction.text import (
        TfidfTransformer,
        TfidfVectorizer,
    )  # slow to import, and no node needs it

    table, n = train.item_attributes, train.n_items
    values = encode(table, config.attributes, n, "attributes")
    taken = {name.partition("=")[0] for name in values.names}
    written = [str(name) for name in table.columns if str(name) not in taken and not is_numeric_dtype(table[name])]
    if config.text != "auto":
        written = list(config.text)
    for name in written:
        if name not in table.columns:
            raise ConfigError(f"text: no item column '{name}'; {did_you_mean(name, [*map(str, table.columns)])}")
    parts = []
    if values.width:
        parts.append(((1 - config.text_weight) ** 0.5, TfidfTransformer().fit_transform(values.matrix)))
    if written and config.text_weight:
        try:
            words = TfidfVectorizer(stop_words="english").fit_transform(texts(table, written))
        except ValueError:  # no word is left
            words = sp.csr_matrix((n, 0))
        parts.append((config.text_weight**0.5, words))
    if not sum(part.shape[1] for _, part in parts):
        raise DataError(
            "content: the data has no attributes of items to compare; name a table of them with data.items, "
            "or choose a method that needs none"
        )
    return _unit_rows(sp.csr_matrix(sp.hstack([weight * part for weight, part in parts])))


def _unit_rows(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Rows divided by their length; a row of zeros stays."""
    norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).reshape(-1))
    return sp.csr_matrix(sp.diags_array(1.0 / np.where(norm > 0, norm, 1.0)) @ matrix)
