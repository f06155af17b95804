from collections.abc import Callable
from math import exp, log

import pytest
import torch
from torch import Tensor

from fedrec.recommenders import bce, bpr, sampled_softmax, softmax
from fedrec.recommenders.losses import shared_softmax

PairLoss = Callable[[Tensor, Tensor], Tensor]


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def with_gradient(loss: PairLoss, positive: list[float], negative: list[list[float]]) -> tuple[float, Tensor, Tensor]:
    """The loss of scores, and its gradient by each of them."""
    up = torch.tensor(positive, dtype=torch.float64, requires_grad=True)
    down = torch.tensor(negative, dtype=torch.float64, requires_grad=True)
    value = loss(up, down)
    by_positive, by_negative = torch.autograd.grad(value, (up, down))
    return value.item(), by_positive, by_negative


def test_bpr_by_hand() -> None:
    value, by_positive, by_negative = with_gradient(bpr, [2.0], [[1.0, 3.0]])
    assert value == pytest.approx((-log(sigmoid(1)) - log(sigmoid(-1))) / 2)
    assert by_positive.tolist() == pytest.approx([-(sigmoid(-1) + sigmoid(1)) / 2])
    assert by_negative.tolist()[0] == pytest.approx([sigmoid(-1) / 2, sigmoid(1) / 2])


def test_bce_by_hand() -> None:
    value, by_positive, by_negative = with_gradient(bce, [2.0], [[1.0, -1.0]])
    assert value == pytest.approx((-log(sigmoid(2)) - log(sigmoid(-1)) - log(sigmoid(1))) / 3)
    assert by_positive.tolist() == pytest.approx([(sigmoid(2) - 1) / 3])
    assert by_negative.tolist()[0] == pytest.approx([sigmoid(1) / 3, sigmoid(-1) / 3])


def test_sampled_softmax_by_hand() -> None:
    value, by_positive, by_negative = with_gradient(sampled_softmax, [1.0], [[0.0, 2.0]])
    total = exp(1) + exp(0) + exp(2)
    assert value == pytest.approx(-log(exp(1) / total))
    assert by_positive.tolist() == pytest.approx([exp(1) / total - 1])
    assert by_negative.tolist()[0] == pytest.approx([exp(0) / total, exp(2) / total])


def test_shared_softmax_is_sampled_softmax_with_the_negatives_repeated() -> None:
    generator = torch.Generator().manual_seed(0)
    owner = torch.tensor([0, 0, 1])
    positive, shared = torch.randn(3, generator=generator), torch.randn(2, 5, generator=generator)
    repeated, alike = sampled_softmax(positive, shared[owner]), torch.ones(3)
    torch.testing.assert_close(shared_softmax(positive, shared, owner, alike), repeated)
    first = shared_softmax(positive, shared, owner, torch.tensor([2.0, 0.0, 0.0]))
    torch.testing.assert_close(first, sampled_softmax(positive[:1], shared[:1]))
    assert shared_softmax(torch.tensor([-1e4]), torch.tensor([[1e4]]), torch.tensor([0]), alike[:1]).item() == 2e4


def test_softmax_by_hand() -> None:
    scores = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = softmax(scores, torch.tensor([0, 0, 1]), torch.tensor([2, 0, 1]))
    total = exp(1) + exp(0) + exp(2)
    assert value.item() == pytest.approx((-log(exp(2) / total) - log(exp(1) / total) + log(3)) / 3)
    (gradient,) = torch.autograd.grad(value, scores)
    probability = torch.tensor([exp(1), exp(0), exp(2)], dtype=torch.float64) / total
    expected = torch.stack([2 * probability - torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, -2.0, 1.0]) / 3]) / 3
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("loss", "value"), [(bpr, log(2)), (bce, log(2)), (sampled_softmax, log(5))])
def test_indifferent_scores(loss: PairLoss, value: float) -> None:
    assert loss(torch.zeros(3), torch.zeros(3, 4)).item() == pytest.approx(value)


def test_sampled_softmax_with_one_negative_is_bpr() -> None:
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(9, generator=generator), torch.randn(9, 1, generator=generator)
    torch.testing.assert_close(sampled_softmax(positive, negative), bpr(positive, negative))


@pytest.mark.parametrize("loss", [bpr, bce, sampled_softmax])
def test_extreme_scores_stay_finite(loss: PairLoss) -> None:
    assert loss(torch.tensor([-1e4]), torch.tensor([[1e4]])).item() >= 1e4
    assert loss(torch.tensor([1e4]), torch.tensor([[-1e4]])).item() == 0.0
