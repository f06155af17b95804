"""A summary from resampled sums says what one from users' values says, as far as sums can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from fedrec.evaluation import poisson_weights
from fedrec.experiment import ExperimentConfig, Result
from fedrec.experiment.resampled import COUNTED, Resampled, summarise_resampled
from fedrec.experiment.summary import summarise
from fedrec.streams import Streams, keys_of
from tests.experiment.tiny import experiment

N = 400
USERS = [f"u{user}" for user in range(N)]
WOMEN = torch.arange(N) % 3 == 0
WEIGHTS = poisson_weights(Streams(3), keys_of(USERS), 1000)


def values(shift: float, seed: int) -> Tensor:
    """One value a user; what a user's values have in common is the same for every shift and seed."""
    common = torch.rand(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = torch.rand(N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.5 * common + 0.2 * own + shift + 0.05 * WOMEN


def both(of_users: Tensor) -> tuple[tuple[Result, pd.DataFrame], tuple[Result, pd.DataFrame]]:
    """A result with users' values, and one with resampled means."""
    metrics = [("test", "users", "", float(N)), ("test", "ndcg@5", "", float(of_users.mean()))]
    for label, members in (("F", WOMEN), ("M", ~WOMEN)):
        group = f"gender={label}"
        metrics += [("test", "users", group, float(members.sum()))]
        metrics += [("test", "ndcg@5", group, float(of_users[members].mean()))]
    result = Result(metrics, [], None, {"rounds": 3.0}, 1.0)
    gender = pd.Categorical.from_codes((~WOMEN).long().numpy(), pd.Index(["F", "M"]))
    table = pd.DataFrame({"user": USERS, "ndcg@5": of_users.numpy(), "group:gender": gender})
    means = {"ndcg@5": of_users @ WEIGHTS / WEIGHTS.sum(dim=0)}
    for label, members in (("F", WOMEN), ("M", ~WOMEN)):
        weights = WEIGHTS[members]
        means[f"ndcg@5/gender={label}"] = of_users[members] @ weights / weights.sum(dim=0)
    means[COUNTED] = WEIGHTS.sum(dim=0)
    return (result, table), (result, pd.DataFrame({name: mean.numpy() for name, mean in means.items()}))


def test_arms_that_were_resampled_otherwise_are_not_compared_and_their_intervals_are_no_narrower() -> None:
    """A node that lost its secret draws other weights: of arms `a` and `b` alike, of one seed of arm `c` not."""
    config = ExperimentConfig.read(experiment(Path("ratings.csv")))
    fits: dict[str, Resampled] = {
        arm: {seed: both(values(shift, seed))[1] for seed in (3, 5)}
        for arm, shift in (("a", 0.0), ("b", 0.02), ("c", 0.04))
    }
    result, table = fits["c"][5]
    shuffled = table.iloc[np.random.default_rng(0).permutation(len(table))].reset_index(drop=True)
    found = summarise_resampled({**fits, "c": {3: fits["c"][3], 5: (result, shuffled)}}, config)
    assert [(test["a"], test["b"]) for test in found["tests"]] == [("a", "b")]
    assert found["tests"] == summarise_resampled({"a": fits["a"], "b": fits["b"]}, config)["tests"]
    assert "a node was lost between their tests" in found["omitted"]["tests"]
    ends = [summarise_resampled({"c": {seed: fits["c"][seed]}}, config)["arms"]["c"] for seed in (3, 5)]
    low, high = found["arms"]["c"]["metrics"]["ndcg@5"]["ci95"]
    for end, place in ((low, 0), (high, 1)):
        assert end == pytest.approx(sum(arm["metrics"]["ndcg@5"]["ci95"][place] for arm in ends) / 2, abs=1e-12)
    assert "tests" not in summarise_resampled(fits, config)["omitted"]


def test_it_is_the_summary_of_the_users_values_as_far_as_sums_go() -> None:
    config = ExperimentConfig.read(experiment(Path("ratings.csv")))  # seeds 3 and 5, ndcg@5
    fits = {arm: {seed: both(values(shift, seed)) for seed in (3, 5)} for arm, shift in (("a", 0.0), ("b", 0.02))}
    exact = summarise({arm: {seed: pair[0] for seed, pair in fit.items()} for arm, fit in fits.items()}, config)
    resampled: dict[str, Resampled] = {arm: {seed: pair[1] for seed, pair in fit.items()} for arm, fit in fits.items()}
    found = summarise_resampled(resampled, config)
    assert found["omitted"]["wilcoxon"]
    for arm in ("a", "b"):
        of_arm, wanted = found["arms"][arm], exact["arms"][arm]
        assert of_arm["metrics"]["users"]["ci95"] is None
        one, other = of_arm["metrics"]["ndcg@5"], wanted["metrics"]["ndcg@5"]
        for name in ("mean", "per_seed", "seed_deviation"):
            assert one[name] == pytest.approx(other[name], abs=1e-12)
        assert of_arm["groups"]["gender"]["gap"]["value"] == pytest.approx(wanted["groups"]["gender"]["gap"]["value"])
        assert of_arm["groups"]["gender"]["gap"]["p"] is None
        for label in ("F", "M"):
            group, expected = (summary["groups"]["gender"]["groups"][label] for summary in (of_arm, wanted))
            assert (group["users"], group["mean"]) == (expected["users"], pytest.approx(expected["mean"], abs=1e-12))
            # Ends of 1,000 resamples deviate by .084 of their deviation each: five of a difference, .15 of the width.
            width = expected["ci95"][1] - expected["ci95"][0]
            assert group["ci95"] == pytest.approx(expected["ci95"], abs=0.15 * width)
    (test,), (wanted,) = found["tests"], exact["tests"]
    assert test["difference"] == pytest.approx(wanted["difference"], abs=1e-12)
    assert test["difference"] == pytest.approx(-0.02)  # every user differs by as much: no resample is another
    assert test["ci95"] == pytest.approx([-0.02, -0.02], abs=1e-12)
    assert test["p_bootstrap"] == pytest.approx(1 / 1001)
    assert (test["p_wilcoxon"], test["p_wilcoxon_holm"], test["d_z"], test["rank_biserial"]) == (None,) * 4
    assert set(test) == set(wanted)


def test_a_difference_that_is_chance_is_told_as_such() -> None:
    config = ExperimentConfig.read(experiment(Path("ratings.csv")))
    one, other = ({seed: both(values(0.0, seed + more))[1] for seed in (3, 5)} for more in (0, 100))
    (test,) = summarise_resampled({"a": one, "b": other}, config)["tests"]
    low, high = test["ci95"]
    assert low < test["difference"] < high
    # 400 users whose differences deviate by .058: the interval is 3.92 · .058 / 20 wide; by a third wrong never.
    assert high - low == pytest.approx(0.0114, rel=0.33)
