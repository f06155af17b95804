"""Block Lanczos against the dense eigenproblem."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedrec.graph.lanczos import next_block, project, ritz_vectors


def psd(size: int, rank: int) -> Tensor:
    factor = torch.randn(size, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return factor @ factor.T


def krylov(matrix: Tensor, block: int, rounds: int) -> tuple[Tensor, Tensor]:
    """Qᵀ M Q and Q after some rounds."""
    start = torch.randn(len(matrix), block, dtype=matrix.dtype, generator=torch.Generator().manual_seed(2))
    basis, projected = torch.linalg.qr(start).Q, matrix.new_zeros(0, 0)
    for number in range(1, rounds + 1):
        product = matrix @ basis[:, -block:]
        projected = project(projected, basis, product)
        if number < rounds:
            basis = torch.cat([basis, next_block(basis, product)], dim=1)
    return projected, basis


@pytest.mark.parametrize("rank", [30, 5, 1])  # of 5 and 1 the products soon add nothing new
def test_the_basis_stays_orthonormal_and_the_projection_exact(rank: int) -> None:
    matrix = psd(30, rank)
    projected, basis = krylov(matrix, block=3, rounds=7)
    torch.testing.assert_close(basis.T @ basis, torch.eye(21, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(projected, basis.T @ matrix @ basis, rtol=0, atol=1e-9)


def test_the_whole_space_gives_the_eigenvectors() -> None:
    matrix = psd(12, 12)
    vectors = ritz_vectors(*krylov(matrix, block=3, rounds=4), count=5)
    expected = torch.linalg.eigh(matrix)
    torch.testing.assert_close(vectors.T @ matrix @ vectors, torch.diag(expected.eigenvalues[-5:]), rtol=0, atol=1e-9)


def test_what_is_kept_beats_what_is_forgotten() -> None:
    """After as many products of as many columns the Ritz values are no less than those of subspace iteration."""
    matrix = psd(60, 60)
    projected, basis = krylov(matrix, block=4, rounds=5)
    kept = ritz_vectors(projected, basis, count=4)
    forgetful = basis[:, :4]
    for _ in range(4):
        forgetful = torch.linalg.qr(matrix @ forgetful).Q
    captured = [torch.linalg.eigvalsh(vectors.T @ matrix @ vectors) for vectors in (kept, forgetful)]
    assert bool((captured[0] > captured[1]).all())


def test_the_projection_of_a_noised_product_is_symmetric() -> None:
    matrix = psd(9, 9)
    basis = torch.linalg.qr(matrix[:, :2]).Q
    noise = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    projected = project(matrix.new_zeros(0, 0), basis, matrix @ basis + noise)
    assert torch.equal(projected, projected.T)
    exact = basis.T @ matrix @ basis
    torch.testing.assert_close(projected - exact, (basis.T @ noise + noise.T @ basis) / 2)
