"""Clipping bounds a user's part in a sum: by hand, and as a sensitivity over random adjacent data sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedrec.errors import ModelError, PrivacyError
from fedrec.privacy import AdaptiveClipConfig, Clip, Part, scales, scales_by_table


def test_worked_by_hand() -> None:
    # norms 5, 1, 2 and 0 under a clip of 2: only the first is scaled down.
    squared = torch.tensor([25.0, 1.0, 4.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(scales(squared, Clip(2.0)), torch.tensor([0.4, 1.0, 1.0, 1.0], dtype=torch.float64))


def test_keeps_the_dtype_and_an_empty_cohort() -> None:
    assert scales(torch.ones(3, dtype=torch.float32), Clip(1.0)).dtype == torch.float32
    assert scales(torch.zeros(0), Clip(1.0)).shape == (0,)


@given(
    users=hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 6), st.integers(1, 5)),
        elements=st.floats(-1e6, 1e6) | st.floats(-1e-6, 1e-6) | st.floats(-1e150, 1e150),
    ),
    norm=st.floats(1e-3, 1e3),
    split=st.integers(0, 5),
    removed=st.integers(0, 5),
)
def test_adding_or_removing_a_user_moves_the_sums_by_at_most_the_clip(
    users: np.ndarray, norm: float, split: int, removed: int
) -> None:
    everyone = torch.from_numpy(users)
    # The query has two tables (the split may leave one empty); the norm that counts is that of both together.
    squared = everyone[:, :split].square().sum(dim=1) + everyone[:, split:].square().sum(dim=1)
    clipped = everyone * scales(squared, Clip(norm)).unsqueeze(1)
    user = removed % len(users)
    rest = torch.cat([clipped[:user], clipped[user + 1 :]])
    rounding = 1e-12 * norm * len(users)
    assert float((clipped.sum(dim=0) - rest.sum(dim=0)).norm()) <= norm + rounding
    # Scaling shortens and never turns, and leaves a short contribution as it is.
    short = squared.sqrt() <= norm
    assert torch.equal(clipped[short], everyone[short])
    assert bool((clipped * everyone >= 0).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_contribution_without_a_finite_norm_is_refused(value: float) -> None:
    with pytest.raises(ModelError, match="1 of 2 contributions have no finite norm"):
        scales(torch.tensor([1.0, value]), Clip(1.0))


@pytest.mark.parametrize("norm", [0.0, -1.0, float("inf"), float("nan")])
def test_a_clip_is_a_positive_number(norm: float) -> None:
    with pytest.raises(PrivacyError, match="clip = "):
        Clip(norm)


TABLES = {"items": 2.0, "network": 0.5}


def test_clips_by_table_by_hand() -> None:
    clip = Clip.by_table({"network": 3.0, "items": 4.0})
    assert clip.norm == 5.0
    assert clip.tables == (("items", 4.0), ("network", 3.0))
    squared = {"items": torch.tensor([64.0, 1.0]), "network": torch.tensor([4.0, 36.0])}
    factors = scales_by_table(squared, clip)
    torch.testing.assert_close(factors["items"], torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(factors["network"], torch.tensor([1.0, 0.5]))
    # Under one clip of the same norm: √68 and √37 are both above 5.
    together = scales_by_table(squared, Clip(5.0))
    assert together["items"] is together["network"]
    torch.testing.assert_close(together["items"], 5 / torch.tensor([68.0, 37.0]).sqrt())


@pytest.mark.parametrize("sigma", [0.6, 1.0, 7.0])
def test_noise_by_table_costs_what_one_noise_does(sigma: float) -> None:
    """What tells two sums apart is Σ (difference/deviation)²: at most (C/σC)² = 1/σ² under either way."""
    (flat,) = Clip(1.5).parts(("items", "network"), sigma)
    assert flat == Part(("items", "network"), 1.5, sigma)
    parts = Clip.by_table(TABLES).parts(("items", "network"), sigma)
    assert {part.tables[0]: part.clip for part in parts} == TABLES
    worst = sum((part.clip / (part.noise_multiplier * part.clip)) ** 2 for part in parts)
    assert worst == pytest.approx(1 / sigma**2)


@given(
    users=hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.just(5)), elements=st.floats(-1e6, 1e6)),
    removed=st.integers(0, 5),
)
def test_clips_by_table_bound_a_user_in_each_table_and_in_all(users: np.ndarray, removed: int) -> None:
    split = {"items": torch.from_numpy(users[:, :3]), "network": torch.from_numpy(users[:, 3:])}
    clip = Clip.by_table(TABLES)
    factors = scales_by_table({name: part.square().sum(dim=1) for name, part in split.items()}, clip)
    user = removed % len(users)
    moved = {name: float((part * factors[name].unsqueeze(1))[user].norm()) for name, part in split.items()}
    assert all(moved[name] <= norm * (1 + 1e-12) for name, norm in TABLES.items())
    assert math.hypot(*moved.values()) <= clip.norm * (1 + 1e-12)


@pytest.mark.parametrize(("norms", "message"), [({}, "none is given"), ({"items": 0.0}, "clip of table 'items' = 0.0")])
def test_impossible_clips_by_table_are_refused(norms: dict[str, float], message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        Clip.by_table(norms)


def test_clips_of_other_tables_are_refused() -> None:
    with pytest.raises(PrivacyError, match="clips for the tables items, network of a query of items; name each"):
        Clip.by_table(TABLES).parts(("items",), 1.0)
    with pytest.raises(PrivacyError, match="of a query of items, networks"):
        scales_by_table(dict.fromkeys(("items", "networks"), torch.ones(1)), Clip.by_table(TABLES))


def test_the_clip_adapts_the_right_way_round() -> None:
    config = AdaptiveClipConfig(quantile=0.5, rate=0.2)
    assert config.next_norm(1.0, 0.9) == pytest.approx(np.exp(-0.2 * 0.4))  # too many are whole: it falls
    assert config.next_norm(1.0, 0.1) == pytest.approx(np.exp(0.2 * 0.4))
    assert config.next_norm(1.0, 0.5) == 1.0
    assert config.next_norm(1.0, 7.0) == config.next_norm(1.0, 1.0)  # noise takes a mean outside, and moves no further


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_an_adaptive_clip_finds_the_quantile(quantile: float) -> None:
    """The defect that the design names ends at .0003 or 2,000 from here; the quantiles of these norms are e^±.84, 1."""
    config, norm = AdaptiveClipConfig(quantile=quantile, rate=0.3), 5.0
    norms = np.exp(np.random.default_rng(0).standard_normal(2000))
    for _ in range(80):
        norm = config.next_norm(norm, float((norms <= norm).mean()))
    assert norm == pytest.approx(np.quantile(norms, quantile), rel=0.05)


def test_a_clip_is_not_so_small_that_squares_of_larger_norms_vanish() -> None:
    """An answer of norm 1e-170 has the squared norm 0 in double precision, and would pass a clip of 1e-200 whole."""
    assert torch.tensor(1e-170, dtype=torch.float64).square() == 0
    with pytest.raises(PrivacyError, match="clip = 1e-200: so small a norm cannot be told from 0"):
        Clip(1e-200)
    with pytest.raises(PrivacyError, match="clip of table 'bias' = 1e-200: so small a norm cannot be told from 0"):
        Clip.by_table({"items": 1.0, "bias": 1e-200})
