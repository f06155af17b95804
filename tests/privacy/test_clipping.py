"""Clipping bounds a user's part in a sum: by hand, and as a sensitivity over random adjacent data sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedrec.errors import ModelError, PrivacyError
from fedrec.privacy import Clip, scales


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
