"""EASE from one sum against EASE from the dense matrix."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError
from fedrec.federated import Ask, Devices, FederatedRecommender, Federation, LocalEngine, Query, State, Totals
from fedrec.federated.methods import EASE, EASEConfig
from fedrec.federated.methods.ease import item_weights
from fedrec.federated.noisy_gram import noise_radius, row_sums, shrink_spectrum, within_attributes
from fedrec.federated.queries import Gram
from fedrec.privacy import Clip, PrivacyConfig
from fedrec.recommenders import Training
from fedrec.streams import Streams


def dense(train: Interactions) -> Tensor:
    matrix = torch.zeros(train.n_users, train.n_items, dtype=torch.float64)
    matrix[torch.from_numpy(train.user), torch.from_numpy(train.item)] = 1
    return matrix


def fitted(devices: Devices, dtype: torch.dtype, config: EASEConfig) -> Tensor:
    method = EASE(config)
    federation = Federation(len(devices), devices.n_items, Streams(0), dtype)
    state = method.round(method.start(federation), Ask(LocalEngine(devices, Streams(0)), 1))
    return method.score(state, devices.cohort(torch.arange(len(devices))), State())


def test_two_items_by_hand() -> None:
    """XᵀX + λI = [[3, 1], [1, 2]] has the inverse [[2, -1], [-1, 3]] / 5, so B_12 = 1/3 and B_21 = 1/2."""
    weights = item_weights(torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=torch.float64), 1.0)
    torch.testing.assert_close(weights, torch.tensor([[0, 1 / 3], [1 / 2, 0]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [0.0, 0.5])
def test_the_weights_solve_each_items_own_ridge_regression(
    train: Interactions, devices: Devices, dtype: torch.dtype, power: float
) -> None:
    """Without the formula: item j is regressed on all others, which is what a zero diagonal means."""
    matrix, penalty = dense(train), 3.0
    scaled = matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1) ** power
    weights = torch.zeros(25, 25, dtype=torch.float64)
    for item in range(25):
        others = torch.arange(25) != item
        rest = scaled[:, others]
        left = rest.T @ rest + penalty * torch.eye(24, dtype=torch.float64)
        weights[others, item] = torch.linalg.solve(left, rest.T @ scaled[:, item])
    scores = fitted(devices, dtype, EASEConfig(regularization=penalty, activity_power=power))
    torch.testing.assert_close(scores.double(), matrix @ weights, rtol=0, atol=1e-6)


def test_a_clip_of_one_is_the_normalised_matrix(devices: Devices) -> None:
    ones = torch.ones(25, dtype=torch.float64)
    clipped = LocalEngine(devices, Streams(0)).sum(Gram(ones, 0.0), round=1, clip=Clip(1.0)).sums["gram"]
    torch.testing.assert_close(clipped, LocalEngine(devices, Streams(0)).sum(Gram(ones), round=1).sums["gram"])


def test_under_a_guarantee_the_noise_sets_the_least_regularization(train: Interactions) -> None:
    privacy = PrivacyConfig(noise_multiplier=2.0, delta=1e-3)
    scores = {}
    for penalty in (1e-6, 1e-3, 1e3):
        model = FederatedRecommender(EASE(EASEConfig(regularization=penalty)), privacy=privacy)
        model.fit(train, Training(device="cpu"))
        scores[penalty] = model.score(torch.arange(40))
    assert torch.isfinite(scores[1e-6]).all()
    assert scores[1e-6].abs().max() < 40  # a nearly singular matrix would have an inverse without bounds
    assert scores[1e3].abs().max() < 0.1


def test_the_head_is_a_catalogue_of_its_own(train: Interactions, devices: Devices) -> None:
    """Without noise: EASE on the ten most popular items, and below them the others by their counts."""
    counts = torch.from_numpy(train.item_degrees).double()
    head = counts.sort(descending=True, stable=True).indices[:10].sort().values
    matrix = dense(train)[:, head]
    scores = fitted(devices, torch.float64, EASEConfig(regularization=3.0, head=0.4))
    active = matrix.any(dim=1)
    expected = matrix @ item_weights(matrix.T @ matrix, 3.0)
    torch.testing.assert_close(scores[active][:, head], expected[active])
    rest = torch.ones(25, dtype=torch.bool)
    rest[head] = False
    assert bool((scores[:, rest].max(dim=1).values <= scores[:, head].min(dim=1).values).all())
    assert torch.equal(scores[:, rest].argsort(dim=1, stable=True)[0], counts[rest].argsort(stable=True))
    assert torch.equal(scores[11], counts - counts[head].min())  # user 11 has nothing: the most popular


def test_under_a_guarantee_the_head_is_a_release(train: Interactions) -> None:
    """A twentieth of the budget finds the head: 1/σ² of the two releases is in the ratio 1 to 19."""
    model = FederatedRecommender(EASE(EASEConfig(head=0.4)), privacy=PrivacyConfig(noise_multiplier=2.0, delta=1e-3))
    model.fit(train, Training(device="cpu"))
    assert torch.isfinite(model.score(torch.arange(40))).all()
    method = EASE(EASEConfig(head=0.4))
    shares = {release.query: release.share for release in method.releases()}
    assert shares == {"count": 0.05, "gram": 0.95}
    assert model.tensors()["server/weights"].shape == (10, 10)


class Released(Ask):
    """Whatever is asked, the release is one that was made before."""

    def __init__(self, gram: Tensor, *, noised: bool) -> None:
        self.gram, self.noised = gram, noised

    def __call__(self, query: Query) -> Totals:
        return Totals({"gram": self.gram}, noised=self.noised)


def test_a_noisy_matrix_is_denoised_and_an_exact_one_is_not() -> None:
    """From the same 6 x 6 matrix: λ is at least R, the eigenvalues are shrunk, what genres explain is added twice."""
    noise = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gram = noise + noise.T + 5
    genre = pd.DataFrame({"genre": ["a", "b", "a", "b", "a", "b"]})
    federation = Federation(9, 6, Streams(0), torch.float64, item_attributes=genre)
    method = EASE(EASEConfig(regularization=1e-3, noise_margin=1.5, attributes=("genre",), attribute_weight=2.0))
    state = method.start(federation)
    radius = noise_radius(gram)
    assert radius > 1
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).repeat(3, 1)
    added = gram + 2 * within_attributes(gram, features, row_sums(gram, radius))
    expected = item_weights(shrink_spectrum(added, radius, 0.3), 1.5 * radius)
    torch.testing.assert_close(method.round(state, Released(gram, noised=True))["weights"], expected)
    exact = gram + 10 * torch.eye(6, dtype=torch.float64)
    weights = method.round(state, Released(exact, noised=False))["weights"]
    torch.testing.assert_close(weights, item_weights(exact, 1e-3))


def test_scores_are_divided_by_popularity() -> None:
    """Row sums 7, 3 and 2 are 7/4, 3/4 and 2/4 of their mean: at power ½, the columns of B over their square roots."""
    gram = torch.tensor([[5.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    federation = Federation(9, 3, Streams(0), torch.float64)
    plain, damped = (EASE(EASEConfig(regularization=1.0, popularity_power=power)) for power in (0.0, 0.5))
    weights = plain.round(plain.start(federation), Released(gram, noised=False))["weights"]
    expected = weights / torch.tensor([7 / 4, 3 / 4, 2 / 4], dtype=torch.float64).sqrt()
    found = damped.round(damped.start(federation), Released(gram, noised=False))["weights"]
    torch.testing.assert_close(found, expected)


def test_attributes_that_the_items_do_not_have_are_refused(train: Interactions) -> None:
    known = replace(train, item_attributes=pd.DataFrame({"genre": ["a"] * 25}))
    with pytest.raises(ConfigError, match=r"method.attributes: no column 'gneres'"):
        FederatedRecommender(EASE(EASEConfig(attributes=("gneres",)))).check(known)


def test_a_margin_that_leaves_the_matrix_singular_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise_margin = 0.5 is not above bulk = 0.5"):
        EASEConfig(noise_margin=0.5, bulk=0.5)
