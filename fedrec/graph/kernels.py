"""Products of sparse matrices with dense rows, compiled: what torch's and scipy's own leave on the table.

A row of the result is one thread's work from beginning to end, so that results do not depend on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import torch
from numba import njit, prange
from torch import Tensor

IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.floating]


def times_rows(indptr: Tensor, column: Tensor, weight: Tensor, dense: Tensor) -> Tensor:
    """A sparse matrix in CSR times a dense one, on the CPU.

    Against torch's product of a sparse CSR tensor, for 1.6 million entries and a width of 64: half the time.

    Args:
        indptr: [rows + 1] int64, where each row's entries begin.
        column: [entries] int64 column of each entry.
        weight: [entries] its value.
        dense: [columns, width], in the dtype of `weight`.

    Returns:
        [rows, width].

    Raises:
        RuntimeError: if the dtypes differ.
    """
    if weight.dtype != dense.dtype:
        raise RuntimeError(f"a sparse matrix of {weight.dtype} times a dense one of {dense.dtype}: make them one dtype")
    _as_many_threads_as_torch()
    product = dense.new_empty(len(indptr) - 1, dense.shape[1])
    _times_rows(indptr.numpy(), column.numpy(), weight.numpy(), dense.contiguous().numpy(), product.numpy())
    return product


def add_sparse_product(
    left: tuple[Tensor, Tensor, Tensor], right: tuple[Tensor, Tensor, Tensor], scale: float, total: Tensor
) -> None:
    """Add scale · L R to a dense table, L and R in CSR as (indptr, column, value), in place, computed on the CPU.

    Args:
        left: of L, [n, m].
        right: of R, [m, width].
        scale: of the product.
        total: [n, width].
    """
    _as_many_threads_as_torch()
    here = total.cpu()
    _add_sparse_product(*(part.cpu().numpy() for part in (*left, *right)), scale, here.numpy())
    if here is not total:  # it came from another device
        total.copy_(here)


def _as_many_threads_as_torch() -> None:
    """`torch.set_num_threads` and OMP_NUM_THREADS hold here too."""
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))


@njit(parallel=True, cache=True, fastmath={"contract"})  # type: ignore[untyped-decorator, unused-ignore]
def _times_rows(indptr: IntArray, column: IntArray, weight: FloatArray, dense: FloatArray, product: FloatArray) -> None:
    width = dense.shape[1]
    for row in prange(len(indptr) - 1):
        for k in range(width):
            product[row, k] = 0
        for entry in range(indptr[row], indptr[row + 1]):
            source, value = column[entry], weight[entry]
            for k in range(width):
                product[row, k] += value * dense[source, k]


@njit(parallel=True, cache=True, fastmath={"contract"})  # type: ignore[untyped-decorator, unused-ignore]
def _add_sparse_product(
    indptr: IntArray,
    column: IntArray,
    value: FloatArray,
    right_indptr: IntArray,
    right_column: IntArray,
    right_value: FloatArray,
    scale: float,
    total: FloatArray,
) -> None:
    for row in prange(len(indptr) - 1):
        for entry in range(indptr[row], indptr[row + 1]):
            middle, factor = column[entry], scale * value[entry]
            for place in range(right_indptr[middle], right_indptr[middle + 1]):
                total[row, right_column[place]] += factor * right_value[place]
