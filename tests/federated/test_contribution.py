"""Rows and outer products: coalescing, norms, refusing, folding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import DataError
from fedrec.federated import Outer, Rows


def test_coalesce_adds_up_duplicates_before_any_norm_is_taken() -> None:
    rows = Rows.coalesce(
        torch.tensor([1, 0, 1]), torch.tensor([2, 3, 2]), torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 4.0]]), n_rows=5
    )
    assert rows.owner.tolist() == [0, 1]
    assert rows.index.tolist() == [3, 2]
    assert rows.squared_norms(3).tolist() == pytest.approx([2.0, 25.0, 0.0])  # not 9 + 16 by luck: (3, 4) is one row
    same_row = Rows.coalesce(torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([[1.0], [1.0]]), n_rows=2)
    assert same_row.squared_norms(1).tolist() == [4.0]  # the norm of the sum, twice that of the parts


def test_rows_fold_scaled_by_user() -> None:
    rows = Rows(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([[1.0, 2.0], [10.0, 20.0]]))
    total = torch.zeros(3, 2)
    rows.add_to(total, torch.tensor([0.5, 0.1]))
    assert torch.equal(total, torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.5, 3.0]]))
    rows.add_to(total, None)
    assert total[2].tolist() == [12.5, 25.0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.floats(-5, 5)), max_size=30))
def test_coalesced_rows_sum_to_the_same_table(entries: list[tuple[int, int, float]]) -> None:
    owner = torch.tensor([e[0] for e in entries], dtype=torch.int64)
    index = torch.tensor([e[1] for e in entries], dtype=torch.int64)
    value = torch.tensor([[e[2]] for e in entries], dtype=torch.float64).view(-1, 1)
    direct = torch.zeros(5, 1, dtype=torch.float64).index_add_(0, index, value)
    rows = Rows.coalesce(owner, index, value, n_rows=5)
    total = torch.zeros(5, 1, dtype=torch.float64)
    rows.add_to(total, None)
    torch.testing.assert_close(total, direct)
    assert rows.faults(4, (5, 1)) == {}


def test_outer_product_folds_and_measures_like_the_dense_matrix() -> None:
    outer = Outer(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]), torch.tensor([1.0, 2.0, 3.0]))
    first = torch.tensor([[1.0, 0.0, 2.0]]).T @ torch.tensor([[1.0, 0.0, 2.0]])
    second = torch.zeros(3, 3)
    second[1, 1] = 9.0
    assert outer.squared_norms(2).tolist() == [first.square().sum().item(), 81.0]
    total = torch.zeros(3, 3)
    outer.add_to(total, torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(total, 0.5 * first + second)
    sparse = torch.zeros(3, 3, layout=torch.sparse_coo)
    outer.add_to(sparse, torch.tensor([0.5, 1.0]))
    outer.add_to(sparse, None)
    assert sparse.is_coalesced()
    torch.testing.assert_close(sparse.to_dense(), 1.5 * first + 2 * second)
    assert sparse.values().numel() == 5  # nothing but what was touched


@pytest.mark.parametrize(
    ("owner", "index", "reason"),
    [
        ([0, 1], [0, 9], "an unknown row"),
        ([0, 1], [0, -1], "an unknown row"),
        ([0, 1, 1], [0, 3, 3], "rows repeated or out of order"),
        ([0, 1, 1], [0, 3, 2], "rows repeated or out of order"),
        ([1, 0], [0, 3], "rows repeated or out of order"),
    ],
)
def test_a_faulty_user_is_named_and_the_others_are_not(owner: list[int], index: list[int], reason: str) -> None:
    rows = Rows(torch.tensor(owner), torch.tensor(index), torch.ones(len(owner), 1))
    faults = rows.faults(2, (5, 1))
    assert list(faults.values()) == [reason]
    assert owner[-1] in faults


def test_interleaved_duplicates_are_seen_for_every_owner() -> None:
    rows = Rows(torch.tensor([0, 1, 0, 1, 0, 1]), torch.zeros(6, dtype=torch.int64), torch.ones(6, 1))
    assert set(rows.faults(2, (5, 1))) == {0, 1}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8, torch.int64])
def test_a_type_whose_norm_cannot_be_trusted_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(DataError, match="use float32 or float64"):
        Rows(torch.tensor([0]), torch.tensor([0]), torch.ones(1, 2).to(dtype)).faults(1, (5, 2))


def test_norms_are_taken_in_double() -> None:
    many = torch.zeros(30_000, dtype=torch.int64)
    rows = Rows(many, torch.arange(30_000), torch.full((30_000, 1), 1e-24))
    assert rows.squared_norms(1).item() == pytest.approx(30_000 * float(torch.tensor(1e-24)) ** 2, rel=1e-9)


def test_an_answer_that_cannot_be_told_apart_by_user_raises() -> None:
    with pytest.raises(DataError, match="does not fit a table of width 2"):
        Rows(torch.tensor([0]), torch.tensor([0]), torch.ones(1, 3)).faults(1, (5, 2))
    with pytest.raises(DataError, match="outside the cohort"):
        Rows(torch.tensor([4]), torch.tensor([0]), torch.ones(1, 2)).faults(1, (5, 2))
    with pytest.raises(DataError, match="square"):
        Outer(torch.tensor([0]), torch.tensor([0]), torch.ones(1)).faults(1, (5, 2))


@pytest.mark.parametrize("value_type", [torch.float32, torch.float64])
@pytest.mark.parametrize("total_type", [torch.float32, torch.float64])
def test_compiled_loops_equal_the_plain_ones(
    value_type: torch.dtype, total_type: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    raw = torch.randint(9, (200,), generator=generator), torch.randint(30, (200,), generator=generator)
    rows = Rows.coalesce(*raw, torch.randn(200, 5, generator=generator, dtype=value_type), n_rows=30)
    strided = Rows(rows.owner, rows.index, rows.value.T.contiguous().T)
    scale = torch.rand(9, generator=generator, dtype=torch.float64)
    found = {}
    for compiled in ("0", "1"):
        monkeypatch.setenv("FEDREC_COMPILED", compiled)
        totals = [torch.ones(30, 5, dtype=total_type) for _ in range(2)]
        rows.add_to(totals[0], None)
        strided.add_to(totals[1], scale)
        found[compiled] = totals, strided.squared_norms(9)
        assert rows.faults(9, (30, 5)) == {}
        with pytest.raises((IndexError, RuntimeError), match=r"rows|out of bounds"):
            rows.add_to(torch.zeros(29, 5), None)
    assert torch.equal(found["0"][0][0], found["1"][0][0])
    torch.testing.assert_close(found["0"][0][1], found["1"][0][1])  # a product in single or in double precision
    torch.testing.assert_close(found["0"][1], found["1"][1], rtol=1e-14, atol=0)
