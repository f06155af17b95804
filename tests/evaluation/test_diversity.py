"""Diversity against values worked by hand, against its laws, and against independent libraries."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import DataError
from fedrec.evaluation import diversity

from .small import csr_of, split_of

LISTS = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 4, -1]])
EXPOSURE = torch.tensor([3, 2, 1, 1, 1, 0, 0, 0])

exposures = st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any).map(torch.tensor)


def random_lists(users: int, k: int, n_items: int) -> torch.Tensor:
    draw = np.random.default_rng(5)
    # Squaring makes small codes popular.
    weights = np.arange(n_items, 0, -1.0) ** 2
    rows = [draw.choice(n_items, k, replace=False, p=weights / weights.sum()) for _ in range(users)]
    return torch.from_numpy(np.stack(rows))


def test_exposure_and_coverage_by_hand() -> None:
    assert diversity.exposure(LISTS, 8).tolist() == EXPOSURE.tolist()
    assert diversity.coverage(EXPOSURE) == 5 / 8


def test_gini_by_hand() -> None:
    # Sorted 0 0 0 1 1 1 2 3 with weights 2j - 9 = ... -1 1 3 5 7: (-1 + 1 + 3 + 10 + 21) / (8 * 8)
    assert diversity.gini(EXPOSURE) == pytest.approx(34 / 64, abs=1e-15)
    assert diversity.gini(torch.tensor([4, 4, 4])) == 0.0
    assert diversity.gini(torch.tensor([0, 0, 0, 9])) == 1 - 1 / 4


@given(exposures)
def test_gini_is_half_the_relative_mean_difference(shown: torch.Tensor) -> None:
    x = shown.double()
    expected = (x.unsqueeze(0) - x.unsqueeze(1)).abs().mean() / (2 * x.mean())
    assert diversity.gini(shown) == pytest.approx(float(expected), abs=1e-12)
    assert 0 <= diversity.gini(shown) + 1e-12 <= 1
    assert diversity.gini(shown.flip(0)) == diversity.gini(shown)


@given(exposures)
def test_gini_and_entropy_agree_on_which_way_is_equal(shown: torch.Tensor) -> None:
    """Taking one view from the most shown item and giving it to the least shown one is never less equal."""
    most, least = int(shown.argmax()), int(shown.argmin())
    if shown[most] - shown[least] < 2:
        return
    fairer = shown.clone()
    fairer[most] -= 1
    fairer[least] += 1
    assert diversity.gini(fairer) < diversity.gini(shown)
    assert diversity.entropy(fairer) > diversity.entropy(shown)
    assert diversity.coverage(fairer) >= diversity.coverage(shown)


@given(exposures)
def test_entropy_is_that_of_scipy(shown: torch.Tensor) -> None:
    assert diversity.entropy(shown) == pytest.approx(float(scipy.stats.entropy(shown.numpy(), base=2)), abs=1e-9)


def test_entropy_by_hand_in_bits() -> None:
    assert diversity.entropy(torch.tensor([2, 1, 1, 0])) == pytest.approx(1.5, abs=1e-15)


@pytest.mark.parametrize("metric", [diversity.gini, diversity.entropy])
def test_nothing_shown_raises(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(DataError, match="no item is shown"):
        metric(torch.zeros(3, dtype=torch.int64))


def test_personalization_by_hand() -> None:
    # Overlaps: first and second 2/3; either with the third, of two items, 1/√6.
    expected = 1 - (2 / 3 + 2 / 6**0.5) / 3
    assert diversity.personalization(LISTS) == pytest.approx(expected, abs=1e-12)
    assert diversity.personalization(torch.tensor([[0, 1], [2, 3]])) == 1.0
    assert diversity.personalization(torch.tensor([[0, 1, 2], [2, 1, 0]])) == pytest.approx(0.0, abs=1e-12)
    assert diversity.personalization(torch.tensor([[0, 1, 2], [2, 1, 0]])) >= 0.0


@pytest.mark.parametrize(
    ("lists", "message"), [([[0, 1]], "at least two users"), ([[0, 1], [-1, -1]], "1 lists are empty")]
)
def test_personalization_needs_two_lists(lists: list[list[int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        diversity.personalization(torch.tensor(lists))


def test_novelty_by_hand() -> None:
    popularity = torch.tensor([8, 4, 2, 2, 0])
    # Shares 1/2, 1/4, 1/8, 1/8 are 1, 2, 3, 3 bits; the item that nobody knows counts as one interaction of 16.
    expected = torch.tensor([2.0, 2.0, 2.5], dtype=torch.float64)
    torch.testing.assert_close(diversity.novelty(LISTS, popularity), expected, rtol=0, atol=1e-12)


def test_rarer_items_are_more_novel() -> None:
    popularity = torch.arange(1, 30)
    common, rare = torch.tensor([[28, 27, 26]]), torch.tensor([[0, 1, 2]])
    assert diversity.novelty(rare, popularity) > diversity.novelty(common, popularity)


def test_popularity_lift_by_hand() -> None:
    popularity = torch.tensor([8, 4, 2, 2, 0])
    lists = (14 / 3 + 14 / 3 + 4) / 3
    assert diversity.popularity_lift(LISTS, popularity, torch.tensor([2.0, 2.0, 5.0])) == pytest.approx(lists / 3)


def test_an_empty_list_has_no_mean() -> None:
    with pytest.raises(DataError, match="1 lists are empty"):
        diversity.novelty(torch.tensor([[0], [-1]]), torch.tensor([1, 1]))


CATEGORIES = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]]).double()


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([0, 3], 0.0),  # the same category
        ([0, 2], 1.0),  # nothing in common
        ([0, 1], 1 - 0.5**0.5),
        ([0, 1, 2], 1 - 0.5**0.5 / 3),
        ([0, 2, -1], 1.0),  # an empty place is no item
        ([0, 2, 4], 1.0),  # an item without a category is in no pair
        ([0, 4, -1], 0.0),  # one item to compare is no diversity
        ([4, -1, -1], 0.0),
    ],
)
def test_intra_list_diversity_by_hand(items: list[int], expected: float) -> None:
    value = diversity.intra_list_diversity(torch.tensor([items]), CATEGORIES)
    assert value.item() == pytest.approx(expected, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6))
def test_intra_list_diversity_is_the_mean_over_pairs(seed: int, k: int) -> None:
    from sklearn.metrics.pairwise import cosine_similarity

    generator = torch.Generator().manual_seed(seed)
    categories = torch.rand(12, 4, generator=generator, dtype=torch.float64) + 0.01
    items = torch.stack([torch.randperm(12, generator=generator)[:k] for _ in range(3)])
    values = diversity.intra_list_diversity(items, categories)
    for row, value in zip(items, values, strict=True):
        similar = cosine_similarity(categories[row].numpy())
        assert float(value) == pytest.approx(1 - similar[np.triu_indices(k, 1)].mean(), abs=1e-9)
    shuffled = diversity.intra_list_diversity(items.flip(1), categories)
    torch.testing.assert_close(shuffled, values, rtol=0, atol=1e-12)


def test_category_matrix() -> None:
    column = pd.Series(["Drama|War", "Comedy", None, "", "War"])
    assert diversity.category_matrix(column).tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_agrees_with_torch_geometric() -> None:
    from torch_geometric.metrics import LinkPredCoverage, LinkPredDiversity, LinkPredPersonalization

    lists, n_items = random_lists(40, 6, 60), 60
    category = torch.arange(n_items) % 5
    pairs = {
        diversity.coverage(diversity.exposure(lists, n_items)): LinkPredCoverage(6, n_items),
        diversity.personalization(lists): LinkPredPersonalization(6),
        float(diversity.intra_list_diversity(lists, torch.eye(5)[category]).mean()): LinkPredDiversity(6, category),
    }
    for ours, metric in pairs.items():
        metric.update(lists, torch.empty(2, 0, dtype=torch.int64))
        assert ours == pytest.approx(float(metric.compute()), abs=1e-5)


def test_embedding_diversity_by_hand() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]])
    lists = torch.tensor([[0, 2], [0, 1], [0, 3]])
    assert diversity.embedding_diversity(lists, embeddings).tolist() == [2.0, 1.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_embedding_diversity_is_the_mean_over_pairs(seed: int) -> None:
    from sklearn.metrics.pairwise import cosine_similarity

    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    items = torch.stack([torch.randperm(12, generator=generator)[:5] for _ in range(3)])
    for row, value in zip(items, diversity.embedding_diversity(items, embeddings), strict=True):
        similar = cosine_similarity(embeddings[row].numpy())
        assert float(value) == pytest.approx(1 - similar[np.triu_indices(5, 1)].mean(), abs=1e-9)


def test_item_factors_are_of_full_rank_the_items_columns() -> None:
    """With all dimensions, cosines are those of the columns of the matrix; an item that nobody has is all zeros."""
    from sklearn.metrics.pairwise import cosine_similarity

    pairs = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 0), (2, 2), (2, 3), (3, 3)]
    train = split_of(4, 5, pairs, [], []).train
    factors = diversity.item_factors(train, 50)
    matrix = np.zeros((4, 5))
    for user, item in pairs:
        matrix[user, item] = 1.0
    np.testing.assert_allclose(cosine_similarity(factors.numpy()), cosine_similarity(matrix.T), atol=1e-9)
    assert factors[4].tolist() == [0.0] * factors.shape[1]
    assert torch.equal(diversity.item_factors(train, 2), diversity.item_factors(train, 2))
    assert diversity.item_factors(train, 2).shape == (5, 2)


def test_item_factors_are_the_best_approximation() -> None:
    """Products of rows are those of the dense SVD, truncated, although the spectrum of random data is flat."""
    generator = np.random.default_rng(1)
    matrix = (generator.random((60, 80)) < 0.2).astype(float)
    train = split_of(60, 80, [(int(u), int(i)) for u, i in np.argwhere(matrix)], [], []).train
    _, values, rows = np.linalg.svd(matrix)
    expected = rows[:5].T * values[:5]
    factors = diversity.item_factors(train, 5)
    assert factors.shape == (80, 5)
    np.testing.assert_allclose((factors @ factors.T).numpy(), expected @ expected.T, atol=1e-9)


def test_calibration_error_by_hand() -> None:
    """The history is two of the first category and one of both: 5/6 and 1/6."""
    categories = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 0], [0, 0]]).double()
    history = csr_of([[0, 1, 3], [0], [4], [0]])
    lists = torch.tensor([[0, 2, -1], [2, 2, 4], [0, 1, 2], [4, -1, -1]])
    p, q = np.array([5 / 6, 1 / 6]), np.array([0.5, 0.5])
    first = float((p * np.log(p / (0.99 * q + 0.01 * p))).sum())
    found = diversity.calibration_error(lists, history, categories).tolist()
    # Nothing of what is wanted; no aim; nothing described.
    assert found == pytest.approx([first, np.log(100), 0.0, np.log(100)])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_calibration_error_is_a_divergence(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    categories = (torch.rand(20, 4, generator=generator) < 0.5).double()
    lists = torch.stack([torch.randperm(20, generator=generator)[:6] for _ in range(5)])
    history = torch.stack([torch.randperm(20, generator=generator)[:6] for _ in range(5)])
    found = diversity.calibration_error(lists, csr_of(history.tolist()), categories)
    assert ((found >= 0) & (found <= np.log(100) + 1e-12)).all()
    same = diversity.calibration_error(history.flip(1), csr_of(history.tolist()), categories)
    assert same.tolist() == pytest.approx([0.0] * 5, abs=1e-12)
    for row, known, value in zip(lists, history, found, strict=True):
        shares = [
            (categories[of] / categories[of].sum(1, keepdim=True).clamp(min=1)).sum(0).numpy() for of in (known, row)
        ]
        if all(share.sum() > 0 for share in shares):
            p, q = (share / share.sum() for share in shares)
            assert float(value) == pytest.approx(float(scipy.stats.entropy(p, 0.99 * q + 0.01 * p)), abs=1e-9)


def test_calibration_in_chunks_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lists, history = random_lists(40, 6, 60), csr_of(random_lists(40, 9, 60).flip(0).tolist())
    categories = torch.eye(5)[torch.arange(60) % 5]
    whole = diversity.calibration_error(lists, history, categories)
    monkeypatch.setattr(diversity, "_SHARES_PER_CHUNK", 35)
    assert torch.equal(diversity.calibration_error(lists, history, categories), whole)
