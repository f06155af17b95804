from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedrec.errors import ConfigError
from fedrec.recommenders.attributes import encode, texts

TABLE = pd.DataFrame(
    {
        "title": ["Alien", "Aliens", "Heat", "Brazil"],
        "genres": ["horror|sci-fi", "sci-fi|action|sci-fi", None, "sci-fi|action"],
        "stars": [5, 4, 5, 4],
        "year": pd.array([1979, 1986, None, 1985], dtype="Int64"),
    }
)


def test_each_value_is_a_feature_and_a_missing_one_is_none() -> None:
    found = encode(TABLE, ("genres", "stars"), 4, "columns")
    assert found.names == ("genres=action", "genres=horror", "genres=sci-fi", "stars=4", "stars=5")
    assert found.matrix.toarray().tolist() == [[0, 1, 1, 0, 1], [1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 0, 1, 1, 0]]


def test_auto_leaves_out_what_does_not_recur() -> None:
    assert {name.partition("=")[0] for name in encode(TABLE, "auto", 4, "columns").names} == {"genres", "stars"}


def test_many_numbers_are_cut_at_their_quantiles() -> None:
    table = pd.DataFrame({"age": [*range(16), None]})
    found = encode(table, "auto", 17, "columns")
    assert found.width == 8
    assert np.asarray(found.matrix.sum(axis=0)).flatten().tolist() == [2] * 8
    assert found.matrix[:2].toarray().tolist() == [[1, 0, 0, 0, 0, 0, 0, 0]] * 2
    assert found.matrix[16].nnz == 0


def test_no_table_has_no_features() -> None:
    found = encode(pd.DataFrame(), "auto", 3, "columns")
    assert found.matrix.shape == (3, 0)


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(ConfigError, match="item_columns: no column 'genre'; did you mean 'genres'"):
        encode(TABLE, ("genre",), 4, "item_columns")


def test_texts_joins_columns() -> None:
    assert texts(TABLE, ("title", "genres")) == [
        "Alien horror sci-fi",
        "Aliens sci-fi action sci-fi",
        "Heat ",
        "Brazil sci-fi action",
    ]
