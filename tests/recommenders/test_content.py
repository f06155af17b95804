from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fedrec.data import Interactions
from fedrec.errors import ConfigError, DataError
from fedrec.recommenders import Content, ContentConfig, Histories, Training
from fedrec.recommenders.content import item_vectors
from tests.graph.small import interactions

TABLE = pd.DataFrame({"title": ["Alien", "Aliens and the alien", "Heat", "Brazil"], "genres": ["a|b", "a", "b", "b"]})


def catalogue(table: pd.DataFrame = TABLE) -> Interactions:
    return replace(interactions([(0, 0), (0, 1), (1, 2)], n_users=3, n_items=4), item_attributes=table)


def fitted(**settings: Any) -> Content:
    model = Content(ContentConfig(**settings))
    model.fit(catalogue(), Training(device="cpu"))
    return model


def test_scores_are_cosines_worked_by_hand() -> None:
    # Of 4 items 2 have genre a and 3 have b: idf = 1 + log(5 / 3) and 1 + log(5 / 4).
    a, b = 1 + math.log(5 / 3), 1 + math.log(5 / 4)
    scores = fitted(text_weight=0.0, popularity=0.0).score(torch.tensor([1]))
    assert scores.tolist() == [pytest.approx([b / math.hypot(a, b), 0, 1, 1])]


def test_a_profile_is_the_mean_of_the_items() -> None:
    model = fitted(text_weight=0.0, popularity=0.0)
    vectors = item_vectors(catalogue(), model.config).toarray()
    profile = vectors[[0, 1]].mean(axis=0)
    expected = vectors @ profile / np.linalg.norm(profile)
    np.testing.assert_allclose(model.score(torch.tensor([0]))[0].numpy(), expected)


def test_words_of_titles_count_for_their_share() -> None:
    vectors = item_vectors(catalogue(), ContentConfig(text_weight=0.25))
    parts = (
        item_vectors(catalogue(), ContentConfig(text_weight=0.0)),
        item_vectors(catalogue(), ContentConfig(text_weight=1.0)),
    )
    genres, words = (part @ part.T for part in parts)
    np.testing.assert_allclose((vectors @ vectors.T).toarray(), 0.75 * genres.toarray() + 0.25 * words.toarray())
    assert words[0, 1] > 0  # "alien"; "and" and "the" are no words
    assert words[2, 3] == 0


def test_popularity_multiplies_and_an_unknown_item_keeps_its_content() -> None:
    plain, popular = (fitted(popularity=power).score(torch.tensor([1])) for power in (0.0, 1.0))
    torch.testing.assert_close(popular, plain * torch.tensor([2.0, 2.0, 2.0, 1.0]))
    assert popular[0, 3] > 0


def test_folds_in_a_stranger_without_items_by_popularity() -> None:
    stranger = Histories(torch.tensor([0, 0, 1]), torch.tensor([2]), 4)
    model = fitted()
    scores = model.score_histories(stranger)
    assert scores[0].tolist() == [1, 1, 1, 0]
    torch.testing.assert_close(scores[1], model.score(torch.tensor([1]))[0])


def test_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(DataError, match="no attributes of items to compare; name a table"):
        Content(ContentConfig()).fit(catalogue(pd.DataFrame()), Training())
    with pytest.raises(ConfigError, match="text: no item column 'titel'; did you mean 'title'"):
        Content(ContentConfig(text=("titel",))).fit(catalogue(), Training())
