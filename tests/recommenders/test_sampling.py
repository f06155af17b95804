from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare
from torch import Tensor

from fedrec.errors import DataError
from fedrec.recommenders import Complement, negatives, pairs_of, sample_negatives
from fedrec.recommenders.sampling import SharedNegatives, sample_by_popularity
from fedrec.streams import Streams, keys_of
from tests.recommenders.planted import blocks

# User 0 owns 1 and 3 of five items, user 1 owns none, user 2 owns 0, 1 and 4.
INDPTR = torch.tensor([0, 2, 2, 5])
ITEMS = torch.tensor([1, 3, 0, 1, 4])
KEYS = keys_of(["ada", "bob", "eve"])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[int]], int]:
    """The sorted items of some users, and the size of the catalogue."""
    n_items = draw(st.integers(1, 9))
    own = st.sets(st.integers(0, n_items - 1)).map(sorted)
    return draw(st.lists(own, min_size=1, max_size=5)), n_items


def csr(own: list[list[int]]) -> tuple[Tensor, Tensor]:
    degrees = torch.tensor([0, *map(len, own)])
    return degrees.cumsum(0), torch.tensor([item for items in own for item in items], dtype=torch.int64)


def test_complement_by_hand() -> None:
    outside = Complement.of(INDPTR, ITEMS, n_items=5)
    assert outside.sizes.tolist() == [3, 5, 2]
    user = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 2, 2])
    rank = torch.tensor([0, 1, 2, 0, 1, 2, 3, 4, 0, 1])
    assert outside.at(user, rank).tolist() == [0, 2, 4, 0, 1, 2, 3, 4, 2, 3]


@given(case=histories())
@settings(max_examples=100, deadline=None)
def test_ranks_enumerate_exactly_the_items_outside(case: tuple[list[list[int]], int]) -> None:
    own, n_items = case
    outside = Complement.of(*csr(own), n_items)
    for user, items in enumerate(own):
        rank = torch.arange(n_items - len(items))
        expected = [item for item in range(n_items) if item not in items]
        assert outside.at(torch.full_like(rank, user), rank).tolist() == expected


def test_the_largest_uniform_number_picks_the_last_item_outside() -> None:
    outside = Complement.of(INDPTR, ITEMS, n_items=5)
    almost_one = torch.tensor([1 - 2.0**-53] * 3, dtype=torch.float64)
    assert outside.pick(torch.tensor([0, 1, 2]), almost_one).tolist() == [4, 4, 3]


def test_negatives_are_uniform_outside_training_items_and_include_held_out_ones() -> None:
    train, held = blocks(n_users=6, n_items=20)
    indptr, items = train.csr
    draws = 2000
    owner = torch.arange(6).repeat_interleave(draws)
    counter = torch.arange(draws).repeat(6)
    keyed = negatives(Streams(3).at(1), train.users.keys, indptr, items, owner, counter, 20)
    generator = torch.Generator().manual_seed(3)
    sequential = sample_negatives(generator, Complement.of(indptr, items, 20), torch.arange(6), draws).view(-1)
    for drawn in (keyed, sequential):
        counts = torch.bincount(owner * 20 + drawn, minlength=120).view(6, 20)
        assert (counts[train.user, train.item] == 0).all()
        assert (counts[held.user, held.item] > 0).all()
        # False alarm of one in a million, had the seed been chosen at random, for each of the two forms.
        free = 20 - indptr.diff()
        expected = (draws / free).unsqueeze(1)
        outside = torch.ones(6, 20, dtype=torch.bool)
        outside[train.user, train.item] = False
        statistic = ((counts - expected).square() / expected)[outside].sum().item()
        assert statistic < chi2.ppf(1 - 1e-6, df=int((free - 1).sum()))


def test_a_user_draws_the_same_alone_and_in_a_cohort() -> None:
    draw, n_items = Streams(seed=5, round=2), 500
    owner, counter = torch.arange(3).repeat(20), torch.arange(60) // 3
    together = negatives(draw, KEYS, INDPTR, ITEMS, owner, counter, n_items)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    shuffled = negatives(draw, KEYS, INDPTR, ITEMS, owner[order], counter[order], n_items)
    assert torch.equal(shuffled, together[order])
    only, items = torch.zeros(20, dtype=torch.int64), ITEMS[2:]
    alone = negatives(draw, KEYS[2:], torch.tensor([0, 3]), items, only, torch.arange(20), n_items)
    assert torch.equal(alone, together[owner == 2])


def test_seed_round_key_and_counter_each_matter() -> None:
    indptr, items = torch.tensor([0, 1, 2]), torch.tensor([0, 0])
    keys, owner, counter = keys_of(["a", "b"]), torch.zeros(50, dtype=torch.int64), torch.arange(50)
    base = negatives(Streams(0, 1), keys, indptr, items, owner, counter, 1000)
    assert torch.equal(base, negatives(Streams(0, 1), keys, indptr, items, owner, counter, 1000))
    for other in (
        negatives(Streams(1, 1), keys, indptr, items, owner, counter, 1000),
        negatives(Streams(0, 2), keys, indptr, items, owner, counter, 1000),
        negatives(Streams(0, 1), keys, indptr, items, owner + 1, counter, 1000),
        negatives(Streams(0, 1), keys, indptr, items, owner, counter + 50, 1000),
    ):
        assert (other != base).sum() > 40


def test_a_user_who_has_everything_is_refused_only_when_asked_about() -> None:
    indptr, items = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1])
    keys, slot = keys_of(["all", "one"]), torch.zeros(1, dtype=torch.int64)
    assert negatives(Streams(0), keys, indptr, items, slot + 1, slot, 2).tolist() == [0]
    with pytest.raises(DataError, match="1 users have all 2 items"):
        negatives(Streams(0), keys, indptr, items, slot, slot, 2)


def test_no_slots_no_negatives() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    assert negatives(Streams(0), KEYS, INDPTR, ITEMS, empty, empty, 5).tolist() == []


@given(case=histories(), order=st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_pairs_of_a_batch(case: tuple[list[list[int]], int], order: Random) -> None:
    own, _ = case
    users = list(range(len(own)))
    order.shuffle(users)
    owner, item = pairs_of(torch.tensor(users), *csr(own))
    expected = [(position, item) for position, user in enumerate(users) for item in own[user]]
    assert list(zip(owner.tolist(), item.tolist(), strict=True)) == expected


def test_shared_negatives_follow_popularity() -> None:
    """A chi-squared test of 40,000 draws at p = 1e-4, so often does it raise a false alarm; the draws are fixed."""
    degrees = torch.tensor([9, 0, 1, 4])
    for power, weights in ((1.0, [9, 0, 1, 4]), (0.5, [3, 0, 1, 2]), (0.0, [1, 1, 1, 1])):
        drawn = sample_by_popularity(torch.Generator().manual_seed(3), degrees, power, 40_000)
        counts = torch.bincount(drawn, minlength=4).numpy()
        possible = np.array(weights) > 0
        assert counts[~possible].sum() == 0
        expected = 40_000 * np.array(weights)[possible] / sum(weights)
        assert chisquare(counts[possible], expected).pvalue > 1e-4


def test_shared_negatives_are_counted_and_leave_out_a_users_own() -> None:
    # Item 2 was drawn twice, items 0 and 4 once; the first user owns 1 and 4, the second none, the third 2.
    owner, item = torch.tensor([0, 0, 2]), torch.tensor([1, 4, 2])
    shared = SharedNegatives.of(torch.tensor([2, 4, 2, 0]), 3, owner, item, n_items=5)
    assert shared.items.tolist() == [0, 2, 4]
    twice = pytest.approx(0.6931472)
    assert shared.correction.tolist() == [[0.0, twice, -1e9], [0.0, twice, 0.0], [0.0, -1e9, 0.0]]
