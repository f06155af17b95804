"""What is made of releases: likelihood ratios against dense Gaussians, and whitening undoes correlation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from fedrec.attacks.evidence import Evidence, Whitening, inner_products, measured_deviation, sparse_rows
from fedrec.federated import Outer, Rows
from fedrec.privacy import CorrelatedNoise, Correlation
from fedrec.privacy.continual import square_root


def evidence_of(added: np.ndarray, beyond: np.ndarray, deviation: float) -> Evidence:
    found = Evidence.none(len(added))
    found.add(added @ added.T, added @ beyond, deviation)
    return found


def test_a_canary_with_rows_of_its_own_is_read_by_itself() -> None:
    # c = (3, 4), s = 2: y = ⟨r, c⟩/4 = (3 + 8)/4 and g = 25/4; the ratio of N(c, 4) and N(0, 4) is y − g/2.
    added = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
    ratios = evidence_of(added, np.array([1.0, 2.0, 5.0]), 2.0).log_ratios(0.5)
    assert ratios.tolist() == pytest.approx([11 / 4 - 25 / 8, 5 / 4 - 1 / 8])


@pytest.mark.parametrize("chance", [0.5, 0.1])
@pytest.mark.parametrize("noise", [1.0, 0.1])
def test_where_rows_are_shared_the_others_coins_are_noise(chance: float, noise: float) -> None:
    numbers = np.random.default_rng(0)
    added, beyond, deviation = numbers.normal(size=(5, 4)), numbers.normal(size=4), 1.3  # more canaries than entries
    ratios = evidence_of(added, beyond, deviation).log_ratios(chance, noise)
    for canary in range(5):
        own, others = added[canary], np.delete(added, canary, axis=0)
        covariance = (noise * deviation) ** 2 * np.eye(4) + chance * (1 - chance) * others.T @ others
        centred = beyond - chance * others.sum(axis=0)
        towards = np.linalg.solve(covariance, own)
        assert float(ratios[canary]) == pytest.approx(towards @ centred - towards @ own / 2)


@pytest.mark.parametrize("chance", [0.5, 0.05])
def test_without_noise_to_speak_of_every_coin_is_told(chance: float) -> None:
    # A noise of 1e-8: ratios are ±½‖c‖²/s² and more, some 1e17, and K_uu some 1e-17.
    numbers = np.random.default_rng(6)
    added, coins = numbers.normal(size=(12, 40)), np.arange(12) % 2 == 0
    ratios = evidence_of(added, coins @ added, 1e-8).log_ratios(chance).numpy()
    assert np.isfinite(ratios).all()
    assert ((ratios > 0) == coins).all()
    # What counts is the part of a canary beside all others: 1 over the diagonal of the Gram matrix's inverse.
    beside = 1 / np.diag(np.linalg.inv(added @ added.T))
    assert np.abs(ratios) == pytest.approx(beside / 2e-16, rel=1e-6)


def test_independent_releases_add_up() -> None:
    numbers = np.random.default_rng(1)
    found, whole, seen = Evidence.none(3), [], []
    for deviation in (1.0, 2.0):
        added, beyond = numbers.normal(size=(3, 4)), numbers.normal(size=4)
        found.add(added @ added.T, added @ beyond, deviation)
        whole.append(added / deviation)
        seen.append(beyond / deviation)
    together = evidence_of(np.concatenate(whole, axis=1), np.concatenate(seen), 1.0)
    assert torch.allclose(found.log_ratios(0.5), together.log_ratios(0.5))


@pytest.mark.parametrize("band", [1, 3, 5])
def test_whitened_noise_is_the_noise_that_was_correlated(band: int) -> None:
    correlated, whitening = CorrelatedNoise(Correlation(7, 1, band)), Whitening(square_root(band))
    numbers, nothing = np.random.default_rng(2), csr_array((2, 6))
    for _ in range(7):
        fresh = torch.from_numpy(numbers.normal(size=(3, 2)))
        noise = correlated.next("items", fresh)
        _, white = whitening.next("items", nothing, noise.reshape(-1).numpy())
        assert white == pytest.approx(fresh.reshape(-1).numpy(), abs=1e-12)


def test_what_canaries_add_goes_the_way_of_what_is_seen() -> None:
    # By hand, c_1 = ½: the second round's is A_2 + A_1/2, table by table.
    whitening = Whitening(square_root(2))
    first, second = csr_array(np.array([[2.0, 0.0]])), csr_array(np.array([[0.0, 3.0]]))
    whitening.next("items", first, np.array([4.0, 6.0]))
    whitening.next("network", second, np.array([9.0, 9.0]))
    added, seen = whitening.next("items", second, np.array([1.0, 1.0]))
    assert added.toarray().tolist() == [[1.0, 3.0]]
    assert seen.tolist() == [3.0, 4.0]


def test_whitening_by_another_band_leaves_noise_correlated() -> None:
    correlated, wrong = CorrelatedNoise(Correlation(400, 1, 4)), Whitening(square_root(1))
    numbers, nothing = np.random.default_rng(3), csr_array((1, 100))
    noises = [correlated.next("items", torch.from_numpy(numbers.normal(size=100))) for _ in range(400)]
    white = np.stack([wrong.next("items", nothing, noise.numpy())[1] for noise in noises])
    # w_t = z_t − w_(t−1)/2 − ...: neighbouring rounds are correlated by about −.4, which 40,000 pairs tell to .005.
    assert (white[1:] * white[:-1]).mean() / np.square(white).mean() < -0.3


def test_noise_is_measured_where_no_canary_adds_anything() -> None:
    numbers = np.random.default_rng(4)
    added = csr_array(np.concatenate([np.ones((2, 50)), np.zeros((2, 5000))], axis=1))
    beyond = np.concatenate([np.full(50, 1e6), 3.0 * numbers.normal(size=5000)])
    # 5,000 entries tell a deviation to 1%; within five of these.
    assert measured_deviation(added, beyond, 1.0, symmetric=False) == pytest.approx(3.0, rel=0.05)
    assert measured_deviation(added, beyond, 1.0, symmetric=True) == pytest.approx(3.0 * 2**0.5, rel=0.05)
    assert measured_deviation(added[:, :60], beyond[:60], 7.0, symmetric=False) == 7.0  # too few entries
    assert measured_deviation(added, np.zeros(5050), 7.0, symmetric=False) == pytest.approx(7e-6)  # no noise at all


def test_contributions_become_rows_of_a_sparse_matrix() -> None:
    numbers = torch.tensor([2, 0])  # owner 0 is canary 2
    rows = Rows(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]), torch.tensor([[1.0, 2.0], [3.0, 0.0], [5.0, 6.0]]))
    found = sparse_rows([(numbers, rows)], 3, (3, 2))
    assert found.toarray().tolist() == [[0, 0, 5, 6, 0, 0], [0] * 6, [1, 2, 0, 0, 3, 0]]
    assert found.nnz == 5
    vector = Outer(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]), torch.tensor([2.0, 3.0, 4.0]))
    square = sparse_rows([(numbers, vector)], 3, (3, 3)).toarray()
    assert square[2].reshape(3, 3).tolist() == [[4, 0, 6], [0, 0, 0], [6, 0, 9]]
    assert square[0].reshape(3, 3).tolist() == [[0, 0, 0], [0, 16, 0], [0, 0, 0]]


def test_inner_products_of_sparse_and_of_dense_rows() -> None:
    numbers = np.random.default_rng(5)
    dense, sparse = numbers.normal(size=(4, 30)), np.zeros((40, 200))
    sparse[np.arange(40), numbers.integers(0, 200, 40)] = 1.0
    for matrix in (dense, sparse):
        assert inner_products(csr_array(matrix)) == pytest.approx(matrix @ matrix.T)
