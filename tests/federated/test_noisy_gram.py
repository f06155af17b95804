"""What is made of a noisy Gram matrix, against matrices whose signal is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedrec.federated.noisy_gram import noise_radius, row_sums, shrink_spectrum, within_attributes

DOUBLE = torch.float64


def noise(n: int, deviation: float, seed: int) -> Tensor:
    """As it is added to a symmetric sum: half of the variance off the diagonal."""
    generator = torch.Generator().manual_seed(seed)
    entries = torch.randn(n, n, dtype=DOUBLE, generator=generator) * deviation
    return (entries + entries.T) / 2


def test_the_noises_radius_is_that_of_the_half_circle() -> None:
    """Entries of deviation 1, symmetrised: the spectrum ends at √2 √n, off by O(n^-2/3) of that."""
    assert noise_radius(noise(400, 1.0, seed=0)) == pytest.approx(math.sqrt(2 * 400), rel=0.05)
    assert noise_radius(torch.eye(3, dtype=DOUBLE)) == 0.0


def test_eigenvalues_by_hand() -> None:
    """R = 3: 5 becomes √(25 − 9) = 4, 3.1 would become .78 and keeps half of itself, 2 and −3 keep half."""
    rotation = torch.linalg.qr(noise(4, 1.0, seed=1)).Q
    matrix = rotation @ torch.diag(torch.tensor([5.0, 3.1, 2.0, -3.0], dtype=DOUBLE)) @ rotation.T
    expected = rotation @ torch.diag(torch.tensor([4.0, 1.55, 1.0, -1.5], dtype=DOUBLE)) @ rotation.T
    torch.testing.assert_close(shrink_spectrum(matrix, 3.0, 0.5), expected)


def test_a_bulk_of_one_changes_nothing_and_one_of_zero_leaves_no_negative_eigenvalue() -> None:
    matrix = noise(30, 1.0, seed=2) + 40 * torch.eye(30, dtype=DOUBLE)[:, :1] @ torch.eye(30, dtype=DOUBLE)[:1]
    torch.testing.assert_close(shrink_spectrum(matrix, 7.0, 1.0), matrix)
    assert torch.linalg.eigvalsh(shrink_spectrum(matrix, 7.0, 0.0)).min() > -1e-9


def test_a_strong_signal_is_nearer_after_shrinking() -> None:
    """One eigenvalue of 2R: theory leaves 1/4 of 4R² of error, and n R²/4 before."""
    n, deviation = 200, 1.0
    radius = math.sqrt(2 * n) * deviation
    direction = torch.ones(n, dtype=DOUBLE) / math.sqrt(n)
    signal = 2 * radius * torch.outer(direction, direction)
    noisy = signal + noise(n, deviation, seed=3)
    error = float((shrink_spectrum(noisy, noise_radius(noisy), 0.0) - signal).square().sum())
    assert error < 1.5 * radius**2 < float((noisy - signal).square().sum()) / 10


def planted(users: Tensor, genre: Tensor) -> Tensor:
    """r_i r_j h_ij, h being 2 within a genre and 1 across. If r sums to the same in both, the row sums are ~ r."""
    return torch.outer(users, users) * (1 + (genre.unsqueeze(1) == genre).double())


def test_attributes_by_hand() -> None:
    """What r and genres explain comes back whole; what tells two items of one genre apart is taken away."""
    users = torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0], dtype=DOUBLE)
    genre = torch.tensor([0, 0, 0, 1, 1])
    apart = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0], dtype=DOUBLE)
    matrix = planted(users, genre)
    features = torch.nn.functional.one_hot(genre).double()
    torch.testing.assert_close(within_attributes(matrix, features, users), matrix)
    torch.testing.assert_close(within_attributes(matrix + 3 * torch.outer(apart, apart), features, users), matrix)
    across = within_attributes(matrix, features[[0, 3, 1, 4, 2]], users)  # attributes of other items explain less
    assert (across - matrix).abs().max() > 0.1


def test_attributes_take_most_of_the_noise_away() -> None:
    """Noise of 2 of 200 dimensions is left. With probability below 1e-9 the bound is missed without an error."""
    users = torch.rand(200, dtype=DOUBLE, generator=torch.Generator().manual_seed(4)) + 1
    genre = torch.arange(200) % 2
    users[1::2] *= users[::2].sum() / users[1::2].sum()
    matrix, features = planted(users, genre), torch.nn.functional.one_hot(genre).double()
    noisy = matrix + noise(200, 5.0, seed=5)
    explained = within_attributes(noisy, features, row_sums(noisy, noise_radius(noisy)))
    before, after = (float((one - matrix).square().sum()) for one in (noisy, explained))
    assert after < before / 20
    assert torch.linalg.eigvalsh(explained).min() > -1e-9


def test_row_sums_are_numbers_of_users_and_no_less_than_their_noise() -> None:
    """Users with items {0, 1}, {0} and {0, 1}: 3, 2 and nobody. With R = 5 nobody counts as 2.5."""
    histories = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=DOUBLE)
    normalised = histories / histories.norm(dim=1, keepdim=True)
    gram = normalised.T @ normalised
    torch.testing.assert_close(row_sums(gram, 0.0), torch.tensor([3.0, 2.0, 1.0], dtype=DOUBLE))
    torch.testing.assert_close(row_sums(gram, 5.0), torch.tensor([3.0, 2.5, 2.5], dtype=DOUBLE))
