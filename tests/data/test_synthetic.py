"""The shape of synthetic data, and that a user's draws depend on nobody else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data import SyntheticConfig, generate, synthetic

from .conftest import pairs_of


def test_the_default_is_what_its_settings_say() -> None:
    data = generate(SyntheticConfig())
    assert (data.n_users, data.n_items) == (200, 120)
    # A log-normal of mean 20 and σ = .5 has deviation 10.7: the mean of 200 is 20 ± .75, give it five of them.
    assert abs(data.user_degrees.mean() - 20) < 3.8
    assert data.user_degrees.min() >= 1
    assert set(data.user_attributes["group"]) == {"group-0", "group-1"}
    assert {genre for joined in data.item_attributes["genres"] for genre in joined.split("|")} == {
        f"genre-{c}" for c in range(4)
    }


configs = st.builds(
    SyntheticConfig,
    users=st.integers(2, 20),
    items=st.integers(8, 20),
    interactions=st.floats(1, 4),
    communities=st.integers(1, 5),
    affinity=st.floats(0, 1),
    skew=st.floats(0, 2),
    groups=st.integers(1, 3),
)


@given(configs, st.integers(0, 100))
@settings(deadline=None, max_examples=25)
def test_pairs_are_distinct_and_times_ascend(config: SyntheticConfig, seed: int) -> None:
    data = generate(config, seed)
    _ = data.csr  # raises at a repeated pair
    assert data.time is not None
    assert (np.diff(data.user) >= 0).all()
    assert (np.diff(data.time)[np.diff(data.user) == 0] >= 0).all()
    assert data.user_degrees.max() <= config.items // 2


def test_the_seed_and_nothing_else_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SyntheticConfig(users=20)
    expected = generate(config, 1).fingerprint
    assert generate(config, 2).fingerprint != expected
    monkeypatch.setattr(synthetic, "_CHUNK", 8)
    assert generate(config, 1).fingerprint == expected


def test_a_user_draws_the_same_in_a_larger_crowd() -> None:
    few, many = (generate(SyntheticConfig(users=users), 3) for users in (40, 90))
    assert pairs_of(many.take(many.user < 40)) == pairs_of(few)


def test_communities_attract_their_own() -> None:
    def share_of_own_genre(affinity: float) -> float:
        data = generate(SyntheticConfig(affinity=affinity, groups=4, skew=0.0), 5)
        home = data.user_attributes["group"].str.removeprefix("group-").astype("int64").to_numpy()
        return float((home[data.user] == data.item % 4).mean())  # with as many groups as communities they coincide

    assert share_of_own_genre(1.0) == 1.0
    # A quarter of the items is of one's own community: about 3,800 draws, deviation .007.
    assert abs(share_of_own_genre(0.0) - 0.25) < 0.035


def test_skew_concentrates_interactions() -> None:
    flat, steep = (generate(SyntheticConfig(skew=skew), 5).item_degrees for skew in (0.0, 1.5))
    assert np.sort(steep)[-12:].sum() > 2 * np.sort(flat)[-12:].sum()


def test_popularity_does_not_follow_the_code() -> None:
    degrees = generate(SyntheticConfig(communities=1), 5).item_degrees
    # Under independence the rank correlation of 120 items has deviation .09.
    assert abs(np.corrcoef(np.argsort(np.argsort(-degrees)), np.arange(120))[0, 1]) < 0.4


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"items": 3}, "4 communities for 3 items"), ({"interactions": 100.0}, "at most half the items")],
)
def test_what_cannot_be_drawn_is_refused(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SyntheticConfig.model_validate(settings)
