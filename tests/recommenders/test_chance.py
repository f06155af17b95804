from __future__ import annotations

import torch

from fedrec.recommenders import Random, RandomConfig, Training
from tests.recommenders.planted import blocks


def test_scores_are_uniform_and_differ_between_users_and_seeds() -> None:
    train, _ = blocks()
    scores = []
    for seed in (0, 1):
        model = Random(RandomConfig())
        model.fit(train, Training(seed=seed))
        scores.append(model.score(torch.arange(train.n_users)))
    assert scores[0].min() >= 0
    assert scores[0].max() < 1
    # The mean of 1,440 uniform numbers has a deviation of .0076: 4 of them are left once in 16,000 seeds.
    assert abs(torch.cat(scores).mean().item() - 0.5) < 4 * (12 * 1440) ** -0.5
    assert len(set(torch.cat(scores).flatten().tolist())) == 1440
