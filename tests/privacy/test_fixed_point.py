"""Fixed point for sums over users of nodes: whole numbers exactly, in one word or in two, and nothing wraps around."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import PrivacyError
from fedrec.privacy.fixed_point import SharedPoint


def summed(point: SharedPoint, answers: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """What the server decodes of the nodes' (users, sums)."""
    total = np.zeros((point.words, len(answers[0][1])), dtype=np.uint32)
    for users, values in answers:
        total += point.encode(values, users)
    return point.decode(total)


def test_one_word_by_hand() -> None:
    """Two nodes of 3 and 1 users: 4 · 2^28 + 1 < 2^31 − 1, and 4 · 2^29 is not."""
    point = SharedPoint(bound=1.0, users=4, nodes=2)
    assert (point.words, point.bits, point.resolution, point.largest_error) == (1, 28, 2.0**-28, 2.0**-28)
    assert point.encode(np.array([1.0, -0.5, 2.0**-29]), 3).tolist() == [[2**28, 2**32 - 2**27, 0]]
    found = summed(point, [(3, np.array([3.0, -2.9])), (1, np.array([1.0, -1.0]))])
    assert found[0] == 4.0
    assert abs(found[1] + 3.9) <= point.largest_error


def test_two_words_by_hand() -> None:
    """A thousand users of ten million items each are too many for 32 bits. Three nodes leave a lower word 30 bits."""
    point = SharedPoint(bound=1e7, users=1000, nodes=3)
    assert (point.words, point.low) == (2, 30)
    # 1e10 · 2^f + 1.5 < (2^31 − 1 − 3) · 2^30: f = 27.
    assert point.bits == 27
    words = point.encode(np.array([-1.0]), 1)  # −2^27 = −1 · 2^30 + (2^30 − 2^27)
    assert words.tolist() == [[2**32 - 1], [2**30 - 2**27]]
    assert point.decode(words).tolist() == [-1.0]


@given(
    st.integers(2, 300),
    st.integers(1, 2000),
    st.sampled_from([1e-3, 1.0, 4.6, 3706.0, 1e7]),
    st.integers(0, 2**32 - 1),
)
def test_the_largest_sums_do_not_wrap_and_whole_numbers_are_exact(
    nodes: int, most: int, bound: float, seed: int
) -> None:
    """Nodes of any sizes, with everything at its bound, at its negative, whole, or anything between."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, most, nodes, endpoint=True)
    point = SharedPoint(bound, int(sizes.sum()), nodes)
    answers = []
    for users in sizes.tolist():
        largest = bound * users
        whole = float(generator.integers(-int(largest), int(largest), endpoint=True))
        answers.append((users, np.array([largest, -largest, whole, largest * generator.uniform(-1, 1)])))
    expected = np.sum([values for _, values in answers], axis=0)
    found = summed(point, answers)
    assert point.bits >= 0
    assert np.abs(found - expected).max() <= point.largest_error + 1e-12 * np.abs(expected).max()
    assert found[2] == expected[2]


def test_the_resolution_is_as_fine_as_the_words_allow() -> None:
    """At twice as fine a step the largest sum would wrap around."""
    for point in (SharedPoint(1.0, 6040, 3), SharedPoint(4.6, 29_858, 29_858), SharedPoint(91_599.0, 52_643, 10)):
        steps = point.users * point.bound * 2.0 ** (point.bits + 1) + point.nodes / 2
        assert steps >= (2**31 - 1 - (point.nodes if point.low else 0)) * 2**point.low
    assert SharedPoint(1.0, 6040, 3).largest_error / 6040 < 1e-9  # of a mean


@pytest.mark.parametrize("value", [30.001, -30.001, np.nan, np.inf])
def test_what_so_many_users_cannot_add_up_to_is_refused(value: float) -> None:
    point = SharedPoint(bound=10.0, users=100, nodes=4)
    with pytest.raises(PrivacyError, match=r"an entry not within ±30\.0; it is more than the query says"):
        point.encode(np.array([0.0, value]), 3)
    assert point.encode(np.array([30.0 * (1 + 1e-15)]), 3).tolist() == point.encode(np.array([30.0]), 3).tolist()


def test_nonsense_and_what_two_words_cannot_hold_is_refused() -> None:
    for bound, users, nodes in ((0.0, 3, 2), (np.nan, 3, 2), (1.0, 0, 2), (1.0, 3, 1)):
        with pytest.raises(PrivacyError, match="all must be above 0"):
            SharedPoint(bound, users, nodes)
    with pytest.raises(PrivacyError, match="two words cannot hold a sum of 1000000 users"):
        SharedPoint(1e14, 1_000_000, 2)
