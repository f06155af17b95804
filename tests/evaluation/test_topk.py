"""Lists are exact, ties follow the hash, and nothing else moves them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrec.errors import ConfigError, ModelError
from fedrec.evaluation import topk
from fedrec.evaluation.accuracy import auc
from fedrec.evaluation.csr import Csr, rows_of, tie_hash, union_of
from fedrec.evaluation.heaps import Heaps
from fedrec.evaluation.plain import BLOCK, _largest
from fedrec.evaluation.topk import Factors, Ranking, TopK, rank, top_k
from fedrec.streams import Streams, keys_of

from .small import csr_of

TIES = Streams(7)


def keys(letter: str, n: int) -> Tensor:
    return keys_of(f"{letter}{code}" for code in range(n))


def ranked(scores: Tensor, k: int, *exclude: Csr, seed: int = 7, chunk: int | None = None) -> TopK:
    """Lists of all users for a table of scores."""
    return ranking(scores, k, *exclude, seed=seed, chunk=chunk).lists


def ranking(
    scores: Tensor, k: int, *exclude: Csr, seed: int = 7, chunk: int | None = None, relevant: Csr | None = None
) -> Ranking:
    """The same with `rank`."""
    n_users, n_items = scores.shape
    return rank(
        lambda users: scores[users],
        torch.arange(n_users),
        k,
        exclude=exclude,
        user_keys=keys("u", n_users),
        item_keys=keys("i", n_items),
        ties=Streams(seed),
        chunk=chunk,
        relevant=relevant,
    )


def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank in plain torch, as on a GPU."""

    def plain(  # type: ignore[no-untyped-def]
        scores, users, exclude, relevant, starts, steps, into, pool
    ):
        n_users, n_items = len(starts), len(steps)
        topk._rank_plain(
            scores, users, exclude, relevant, keys("u", int(users.max()) + 1)[users], keys("i", n_items), TIES, into
        )
        assert n_users == len(users)

    monkeypatch.setattr(topk, "_rank_compiled", plain)


def reference(scores: Tensor, k: int, excluded: list[list[int]]) -> list[list[int]]:
    """The definition, item by item: score descending, then hash ascending."""
    n_users, n_items = scores.shape
    hashes = tie_hash(TIES, keys("u", n_users).unsqueeze(1), keys("i", n_items)).tolist()
    lists = []
    for user, row in enumerate(scores.tolist()):
        candidates = [item for item in range(n_items) if item not in excluded[user]]
        best = sorted(candidates, key=lambda item: (-row[item], hashes[user][item]))[:k]
        lists.append(best + [-1] * (k - len(best)))
    return lists


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, int, list[list[int]]]:
    """Scores with many ties or none, some items excluded; from 150 items on blocks are looked at."""
    n_users, n_items = draw(st.integers(1, 4)), draw(st.sampled_from([1, 5, 16, 40, 150, 700]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 2, 5, 1_000_000]))
    scores = torch.randint(levels, (n_users, n_items), generator=generator).float() / 4 - 1
    share = draw(st.sampled_from([0.0, 0.3, 0.97]))
    excluded = torch.rand(n_users, n_items, generator=generator) < share
    return scores, draw(st.integers(1, min(n_items, 20))), [row.nonzero().squeeze(1).tolist() for row in excluded]


@pytest.mark.parametrize("path", ["compiled", "plain"])
@settings(max_examples=120, deadline=None)
@given(problems(), st.integers(1, 5))
def test_lists_are_the_definition_for_any_chunk(
    path: str, problem: tuple[Tensor, int, list[list[int]]], chunk: int
) -> None:
    scores, k, excluded = problem
    with pytest.MonkeyPatch.context() as patch:
        if path == "plain":
            plainly(patch)
        lists = ranked(scores, k, csr_of(excluded), chunk=chunk)
    assert lists.items.tolist() == reference(scores, k, excluded)
    expected = scores.double().gather(1, lists.items.clamp(min=0)).where(lists.items >= 0, -torch.inf)
    torch.testing.assert_close(lists.scores, expected, rtol=0, atol=0)


@settings(max_examples=60, deadline=None)
@given(problems(), st.booleans())
def test_both_paths_find_the_same_lists_and_areas(problem: tuple[Tensor, int, list[list[int]]], wide: bool) -> None:
    """Every third item that is not excluded is relevant; of these there may be none, or all."""
    scores, k, excluded = problem
    scores = scores.double() if wide else scores
    relevant = [
        [i for i in range(scores.shape[1]) if i not in out and (i + u) % 3 == 0] for u, out in enumerate(excluded)
    ]
    some = [user for user, items in enumerate(relevant) if items]
    if not some:
        return
    scores, out, wanted = scores[some], csr_of([excluded[user] for user in some]), csr_of([relevant[u] for u in some])
    compiled = ranking(scores, k, out, relevant=wanted)
    with pytest.MonkeyPatch.context() as patch:
        plainly(patch)
        plain = ranking(scores, k, out, relevant=wanted)
    assert torch.equal(compiled.lists.items, plain.lists.items)
    assert torch.equal(compiled.lists.scores, plain.lists.scores)
    assert compiled.auc is not None
    assert plain.auc is not None
    assert torch.equal(compiled.auc, plain.auc)


def test_areas_are_those_of_the_definition() -> None:
    scores = torch.randint(50, (6, 4500), generator=torch.Generator().manual_seed(4)).float()  # more than one tile
    out = csr_of([list(range(user, 4000, 7)) for user in range(6)])
    wanted = csr_of([[4100 + user, 4400, 4499] for user in range(6)])
    candidates, flags = scores.clone(), torch.zeros_like(scores, dtype=torch.bool)
    for csr, table, value in ((out, candidates, -torch.inf), (wanted, flags, True)):
        row, item = rows_of(csr, torch.arange(6))
        table[row, item] = value
    found = ranking(scores, 3, out, relevant=wanted)
    assert found.auc is not None
    assert torch.equal(found.auc, auc(candidates, flags))
    assert ranking(scores, 3, out).auc is None


def test_threads_find_the_same_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randint(9, (40, 333), generator=torch.Generator().manual_seed(5)).float()
    out = csr_of([list(range(user, 300, 5)) for user in range(40)])
    alone = ranked(scores, 7, out)
    monkeypatch.setattr(topk, "_SCORES_PER_THREAD", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(ranked(scores, 7, out).items, alone.items)
    scores[39, 332] = torch.nan
    with pytest.raises(ModelError, match="1 NaN or infinite"):
        ranked(scores, 7, out)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_in_tiles_finds_the_lists_of_the_product(
    threads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers, so that products are exact in any order and there are many ties."""
    draw = torch.Generator().manual_seed(8)
    factors = Factors(*(torch.randint(-3, 4, (n, 3), generator=draw).to(dtype) for n in (23, 411)))
    out = csr_of([list(range(user, 300, 2)) for user in range(22)] + [list(range(405))])
    monkeypatch.setattr(topk, "_TILE_USERS", 5)
    monkeypatch.setattr(topk, "_TILE_ITEMS", 100)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tiled = top_k(
            factors,
            torch.arange(23),
            9,
            exclude=[out, csr_of([[410]] * 23)],
            user_keys=keys("u", 23),
            item_keys=keys("i", 411),
            ties=TIES,
        )
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    whole = ranked(factors(torch.arange(23)), 9, out, csr_of([[410]] * 23))
    assert torch.equal(tiled.items, whole.items)
    assert torch.equal(tiled.scores, whole.scores)
    assert tiled.items[22].tolist()[5:] == [-1] * 4


def test_a_product_that_is_not_finite_raises() -> None:
    factors = Factors(torch.ones(4, 2), torch.ones(30, 2))
    factors.items[29, 1] = torch.inf
    with pytest.raises(ModelError, match="4 NaN or infinite"):
        top_k(factors, torch.arange(4), 2, exclude=(), user_keys=keys("u", 4), item_keys=keys("i", 30), ties=TIES)


@pytest.mark.parametrize("column", [10, 69])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_later_tile_that_is_not_finite_raises(column: int, value: float) -> None:
    """Once the heaps are full, scores are looked at in stretches of 64, and those left over one by one."""
    heaps = Heaps.of(keys("u", 2), keys("i", 140), csr_of([[], []]), 3, torch.float32)
    scores = torch.arange(140.0).flip(0).expand(2, 140).clone()
    heaps.enter(scores[:, :70].contiguous(), 0)
    scores[1, 70 + column] = value
    with pytest.raises(ModelError, match="1 NaN or infinite"):
        heaps.enter(scores[:, 70:].contiguous(), 70)


def test_a_product_that_might_overflow_is_looked_at() -> None:
    large = Factors(torch.full((3, 4), 1e19), torch.full((30, 4), 1e19))
    with pytest.raises(ModelError, match="90 NaN or infinite"):
        top_k(large, torch.arange(3), 2, exclude=(), user_keys=keys("u", 3), item_keys=keys("i", 30), ties=TIES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_product_in_half_precision_is_ranked_as_any_scorer(dtype: torch.dtype) -> None:
    factors = Factors(torch.ones(2, 1, dtype=dtype), torch.arange(5.0).to(dtype).unsqueeze(1))
    found = top_k(factors, torch.arange(2), 2, exclude=(), user_keys=keys("u", 2), item_keys=keys("i", 5), ties=TIES)
    assert found.items.tolist() == [[4, 3], [4, 3]]


def test_a_product_of_the_wrong_catalogue_raises() -> None:
    factors = Factors(torch.ones(2, 1), torch.ones(4, 1))
    with pytest.raises(ModelError, match=r"return floating-point scores of shape \[2, 5\]"):
        top_k(factors, torch.arange(2), 2, exclude=(), user_keys=keys("u", 2), item_keys=keys("i", 5), ties=TIES)


def test_a_watcher_is_shown_every_score_once() -> None:
    scores, seen = torch.rand(10, 20), []
    rank(
        lambda users: scores[users],
        torch.arange(10),
        3,
        exclude=(),
        user_keys=keys("u", 10),
        item_keys=keys("i", 20),
        ties=TIES,
        watch=lambda users, shown: seen.append((users, shown)),
        chunk=3,
    )
    assert torch.cat([users for users, _ in seen]).tolist() == list(range(10))
    assert torch.equal(torch.cat([shown for _, shown in seen]), scores)


def test_union_of_several_tables_by_hand() -> None:
    indptr, items = union_of([csr_of([[1, 2], [], [0]]), csr_of([[2, 3], [4], []])], torch.tensor([0, 1, 2]), 5)
    assert (indptr.tolist(), items.tolist()) == ([0, 3, 4, 5], [1, 2, 3, 4, 0])


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(0, 2**32))
def test_recoding_items_recodes_the_lists(problem: tuple[Tensor, int, list[list[int]]], seed: int) -> None:
    """Codes decide nothing: with ties, too, the order is that of the original ids."""
    scores, k, _ = problem
    n_users, n_items = scores.shape
    code = torch.randperm(n_items, generator=torch.Generator().manual_seed(seed))
    recoded = top_k(
        lambda users: scores[users][:, code],
        torch.arange(n_users),
        k,
        exclude=(),
        user_keys=keys("u", n_users),
        item_keys=keys("i", n_items)[code],
        ties=TIES,
    )
    assert torch.equal(code[recoded.items], ranked(scores, k).items)


def test_values_worked_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.9, 0.2]])
    first, second = sorted((1, 3), key=lambda item: int(tie_hash(TIES, keys("u", 1), keys("i", 5)[item])))
    lists = ranked(scores, 3)
    assert lists.items.tolist() == [[first, second, 2]]
    torch.testing.assert_close(lists.scores, torch.tensor([[0.9, 0.9, 0.5]]).double(), rtol=0, atol=1e-7)


def test_tie_order_is_pinned() -> None:
    """The order is part of what a published run means: it must survive every rewrite."""
    assert ranked(torch.zeros(2, 6), 6, seed=0).items.tolist() == [[2, 0, 3, 5, 4, 1], [4, 0, 5, 2, 3, 1]]


def test_tie_order_depends_on_user_and_seed() -> None:
    flat = torch.zeros(3, 50)
    lists = ranked(flat, 50).items
    assert not torch.equal(lists[0], lists[1])
    assert not torch.equal(lists, ranked(flat, 50, seed=8).items)


def test_negative_zero_ties_with_zero() -> None:
    signed = torch.zeros(1, 30)
    signed[0, ::2] = -0.0
    assert torch.equal(ranked(signed, 10).items, ranked(torch.zeros(1, 30), 10).items)


def test_excluded_items_never_appear_and_lists_are_padded() -> None:
    lists = ranked(torch.tensor([[3.0, 2.0, 1.0, 0.0]]), 4, csr_of([[0]]), csr_of([[2]]))
    assert lists.items.tolist() == [[1, 3, -1, -1]]
    assert lists.scores.tolist() == [[2.0, 0.0, -torch.inf, -torch.inf]]


@pytest.mark.parametrize("n_items", [BLOCK, BLOCK + 3])
def test_scores_are_never_written_to(n_items: int) -> None:
    popularity = torch.arange(float(n_items))
    shared = popularity.clone().expand(2, -1)
    ranked(shared, 5, csr_of([[0, 1], [2]]))
    assert torch.equal(shared[0], popularity)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_type_with_or_without_gradient(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0]], dtype=dtype, requires_grad=True)
    lists = ranked(scores, 2)
    assert lists.items.tolist() == [[1, 2]]
    assert not lists.scores.requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("item", [0, 4, 40, 89])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_score_that_is_not_finite_raises_even_if_excluded(bad: float, item: int, dtype: torch.dtype) -> None:
    """Items 0 to 79 lie in blocks, the others are what is left over."""
    scores = torch.zeros(3, 90, dtype=dtype)
    scores[1, item] = bad
    with pytest.raises(ModelError, match="1 NaN or infinite values"):
        ranked(scores, 2, csr_of([[4], [4], [4]]))


@pytest.mark.parametrize(
    "score", [lambda u: torch.zeros(len(u), 4), lambda u: torch.zeros(5), lambda u: torch.zeros(len(u), 5).long()]
)
def test_scores_of_the_wrong_shape_or_type_raise(score: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ModelError, match=r"return floating-point scores of shape \[2, 5\]"):
        top_k(score, torch.arange(2), 2, exclude=(), user_keys=keys("u", 2), item_keys=keys("i", 5), ties=TIES)


@pytest.mark.parametrize("k", [0, 6])
def test_k_outside_the_catalogue_raises(k: int) -> None:
    with pytest.raises(ConfigError, match=f"k = {k} .* 5 items"):
        ranked(torch.zeros(1, 5), k)


def test_a_constant_scorer_ranks_at_chance() -> None:
    """False alarm rate 1e-6 each: the hit rate of a fixed item is binomial, and the first item is uniform."""
    n_users, n_items, k = 3000, 100, 10
    lists = ranked(torch.zeros(n_users, n_items), k)
    for item in (0, 57, 99):
        hits = int((lists.items == item).sum())
        assert scipy.stats.binomtest(hits, n_users, k / n_items).pvalue > 1e-6
    first = torch.bincount(lists.items[:, 0], minlength=n_items)
    assert scipy.stats.chisquare(first.numpy()).pvalue > 1e-6


@given(st.integers(0, 2**32), st.sampled_from([2, 1000]))
@settings(max_examples=30, deadline=None)
def test_largest_finds_the_values_of_topk(seed: int, levels: int) -> None:
    scores = torch.randint(levels, (3, 40 * BLOCK), generator=torch.Generator().manual_seed(seed)).float()
    values, columns = _largest(scores, 9)
    assert torch.equal(values, scores.topk(9).values)
    assert torch.equal(scores.gather(1, columns), values)
    assert all(len(set(row)) == 9 for row in columns.tolist())


def test_rows_of_and_hits() -> None:
    csr = csr_of([[2, 0], [], [1], [0, 1, 3]])
    row, item = rows_of(csr, torch.tensor([3, 1, 0]))
    assert row.tolist() == [0, 0, 0, 2, 2]
    assert item.tolist() == [0, 1, 3, 0, 2]
    lists = TopK(torch.tensor([3, 1, 0]), torch.tensor([[2, 3], [0, 1], [2, -1]]), torch.zeros(3, 2))
    assert lists.hits(csr).tolist() == [[False, True], [False, False], [True, False]]


def test_an_empty_place_is_no_hit_on_the_item_before() -> None:
    """-1 in the second row has the flat position of the last item of the first."""
    lists = TopK(torch.arange(2), torch.tensor([[0, 1], [0, -1]]), torch.zeros(2, 2))
    assert lists.hits(csr_of([[1], [1]])).tolist() == [[False, True], [False, False]]
