"""What a noisy Gram matrix still says. All of it is computed from the release, so that it costs no privacy.

A release is N = M + Z: M = Σ_u c_u c_uᵀ, positive semi-definite and with few large eigenvalues, and Z symmetric
Gaussian noise, whose spectrum is a half circle about zero (Wigner 1955). Three things help:

- what lies above the half circle is mostly M, and what lies within mostly Z (`shrink_spectrum`);
- M varies with what is publicly known of the items (genres, say) along few directions, on which little noise falls
  (`within_attributes`);
- an item that few users have has a row of noise; better not to ask for it (`fedrec.federated.head`).
"""

from __future__ import annotations

import torch
from torch import Tensor

_NEARLY_DEPENDENT = 1e-3  # singular value over the largest, below which a direction is rounding and not attributes


def noise_radius(gram: Tensor) -> float:
    """How far below zero the noise takes the spectrum of a Gram matrix, which has none there of its own.

    Where few of the eigenvalues of M are large, the least one of the sum is minus the radius of the half circle.
    """
    return max(0.0, -float(torch.linalg.eigvalsh(gram)[0]))


def shrink_spectrum(gram: Tensor, radius: float, bulk: float) -> Tensor:
    """The matrix with each eigenvalue cut down to what is expected to be signal.

    An eigenvalue e of N above the radius R comes from one of M that noise has raised and whose eigenvector it has
    turned; √(e² − R²) is the value that, put on the turned eigenvector, is nearest to M (Shabalin and Nobel 2013,
    "Reconstruction of a Low-Rank Matrix in the Presence of Gaussian Noise"; Gavish and Donoho 2017, "Optimal Shrinkage
    of Singular Values", in Frobenius norm). Below R nothing would be left. Yet the many small eigenvalues of M that
    drown there say together which items belong to each other, and ranking wants some of them: a share of every
    eigenvalue stays.

    Args:
        gram: [n, n] N, symmetric, in double precision.
        radius: R.
        bulk: the share that stays, in [0, 1]; 1 leaves the matrix as it is.

    Returns:
        [n, n], its least eigenvalue at least −bulk · R.
    """
    values, vectors = torch.linalg.eigh(gram)
    signal = (values.square() - radius**2).clamp(min=0.0).sqrt()
    shrunk = torch.where(values > radius, torch.maximum(signal, bulk * values), bulk * values)
    cut: Tensor = (vectors * shrunk) @ vectors.T
    return cut


def row_sums(gram: Tensor, radius: float) -> Tensor:
    """How many users each item has, read off a Gram matrix: with c_u = x_u / ‖x_u‖, Σ_j M_ij is that number.

    Args:
        gram: [n, n] N.
        radius: R, of the noise. Row sums of noise have deviation R/2: what is less is taken to be that, and at least 1.

    Returns:
        [n], above 0.
    """
    return gram.sum(dim=1).clamp(min=max(radius / 2, 1.0))


def within_attributes(gram: Tensor, features: Tensor, users: Tensor) -> Tensor:
    """The part of a Gram matrix that its items' attributes explain.

    If users chose by genre alone, M_ij would be r_i r_j h(genres of i, genres of j), r_i being the number of users of
    item i, and so the columns of M would lie in the span of r and of r times each feature. P N P, P the projection on
    that span, is the matrix of this form nearest to N; of the noise it keeps what falls on k² of n² dimensions.

    Args:
        gram: [n, n] N, symmetric, in double precision.
        features: [n, k], k far below n; what is known of each item, such as 0 and 1 for each genre.
        users: [n] r, such as `row_sums`.

    Returns:
        [n, n], positive semi-definite.
    """
    columns = users.unsqueeze(1) * torch.nn.functional.pad(features, (1, 0), value=1.0)
    basis, singular, _ = torch.linalg.svd(columns, full_matrices=False)
    basis = basis[:, singular > _NEARLY_DEPENDENT * singular[0]]
    values, vectors = torch.linalg.eigh(basis.T @ gram @ basis)
    vectors = basis @ vectors
    explained: Tensor = (vectors * values.clamp(min=0.0)) @ vectors.T
    return explained
