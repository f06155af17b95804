"""Our clipped sums against Opacus', on a matrix factorisation whose per-sample gradients Opacus can take."""

from __future__ import annotations

import warnings

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedrec.federated import Devices, LocalEngine
from fedrec.federated.queries import FactorTraining
from fedrec.federated.queries.samples import Samples
from fedrec.privacy import Clip
from fedrec.streams import Streams


class Factorisation(nn.Module):
    """Scores of users' samples, p_u · q_i; a user is one sample to Opacus, whatever the number of its items."""

    def __init__(self, items: Tensor) -> None:
        super().__init__()
        self.items = nn.Embedding(items.shape[0], items.shape[1], _weight=items.clone())

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, d] and [B, S] -> [B, S]."""
        scores: Tensor = (self.items(items) * users.unsqueeze(1)).sum(dim=2)
        return scores


def padded(values: Tensor, samples: Samples) -> Tensor:
    """[users, most samples] the users' values side by side, and zeros behind them."""
    found = values.new_zeros(len(samples.sizes), int(samples.sizes.max()))
    found[samples.owner, samples.slot] = values
    return found


@pytest.mark.parametrize("clip", [0.05, 0.5, 50.0])
def test_clipped_sums_equal_those_of_opacus(devices: Devices, clip: float) -> None:
    items = torch.randn(25, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    query = FactorTraining(items, "bce", 1, 1.0, 0.7, 2, 0.5, 0.0, 0.5)
    streams = Streams(3)
    ours = LocalEngine(devices, streams).sum(query, round=1, clip=Clip(clip))

    cohort = devices.cohort(torch.arange(len(devices)))
    samples = Samples.draw(cohort, streams.at(1), query.negatives, items.dtype)
    weights = samples.weights(cohort, query.activity_power)
    item, target, weight = (padded(x, samples) for x in (samples.item, samples.target, weights))
    users = query.initial(cohort, streams.at(0)).dense["user"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch on hooks that Opacus registers
        model = GradSampleModule(Factorisation(items), loss_reduction="sum")
        optimizer = DPOptimizer(
            torch.optim.SGD(model.parameters(), lr=1.0),
            noise_multiplier=0.0,
            max_grad_norm=clip,
            expected_batch_size=40,
            loss_reduction="sum",
        )
        losses = nn.functional.binary_cross_entropy_with_logits(model(users, item), target, reduction="none")
        (losses * weight).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.clip_and_accumulate()
    (parameter,) = model.parameters()
    # A step of rate 1 is minus the gradient. Opacus divides by the norm and 1e-6, so that it clips a millionth lower.
    torch.testing.assert_close(-ours.sums["items"], parameter.summed_grad, rtol=0, atol=1e-6)
    norms = parameter.grad_sample.flatten(1).norm(dim=1)
    assert ours.clipped == int((norms > clip).sum())
    assert (ours.clipped == 0) == (clip == 50.0)
