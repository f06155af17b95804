"""The compiled products against dense ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedrec.graph import kernels
from fedrec.graph.kernels import add_sparse_product, times_rows

LEFT = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, -3.0]])
RIGHT = torch.tensor([[1.0, 0.0], [0.5, 4.0], [0.0, 2.0]])


def csr(dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(indptr, column, value) of a matrix."""
    row, column = torch.nonzero(dense).T
    return torch.searchsorted(row, torch.arange(len(dense) + 1)), column, dense[row, column]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_rows(dtype: torch.dtype) -> None:
    product = times_rows(csr(LEFT.to(dtype)), RIGHT.to(dtype))
    assert product.dtype == dtype
    assert product.tolist() == [[1.0, 8.0], [0.0, 0.0], [1.0, -6.0]]  # the row without an entry is zero, not left over
    # A view with other strides is the same matrix.
    assert torch.equal(times_rows(csr(LEFT.to(dtype)), RIGHT.to(dtype).T.contiguous().T), product)


def test_a_sparse_product_is_added_scaled() -> None:
    total = torch.ones(3, 2)
    add_sparse_product(csr(LEFT), csr(RIGHT), 0.5, total)
    assert total.tolist() == [[1.5, 5.0], [1.0, 1.0], [1.5, -2.0]]


def test_rows_are_shared_out_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(40, 30, generator=generator) * (torch.rand(40, 30, generator=generator) < 0.3)
    right, alone = torch.randn(30, 5, generator=generator), torch.zeros(40, 5)
    add_sparse_product(csr(left), csr(right), 2.0, alone)
    product = times_rows(csr(left), right)
    torch.testing.assert_close(product, left @ right)
    monkeypatch.setattr(kernels, "_ENTRIES_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    together = torch.zeros(40, 5)
    add_sparse_product(csr(left), csr(right), 2.0, together)
    assert torch.equal(together, alone)
    assert torch.equal(times_rows(csr(left), right), product)


def test_another_precision_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"float32 times a dense one of torch\.float64"):
        times_rows(csr(LEFT), RIGHT.double())
