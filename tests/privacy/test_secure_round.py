"""A whole secure sum, how sparse its masks may be, and what it sends."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from fedrec.errors import PrivacyError
from fedrec.privacy import shamir
from fedrec.privacy.fixed_point import Words
from fedrec.privacy.secure_round import FAILURE, Traffic, secure_sum, sparse_enough
from fedrec.privacy.secure_sum import Masked, Session, Summand, add_masked


def answers_of(session: Session) -> dict[int, Words]:
    generator = np.random.default_rng(0)
    return {user: generator.integers(0, 2**32, session.length, dtype=np.uint32) for user in session.users}


def test_the_share_that_is_stated_may_be_lost() -> None:
    users, lost = 60, 6
    neighbors, threshold = sparse_enough(users, answering=0.9)
    order = tuple((np.random.default_rng(1).permutation(users) + 1).tolist())
    session = Session(order, length=7, threshold=threshold, neighbors=neighbors, label="sum")
    answers = answers_of(session)
    for gone in (order[:lost], range(1, lost + 1)):  # side by side on the ring, which is worst, and anywhere
        kept = [user for user in session.users if user not in gone]
        total = secure_sum(session, {user: partial(answers.__getitem__, user) for user in kept})
        assert np.array_equal(total, np.sum([answers[user] for user in kept], axis=0, dtype=np.uint32))


def test_more_than_the_graph_survives_is_refused() -> None:
    session = Session(tuple(range(1, 11)), length=3, threshold=3, neighbors=4, label="sum")
    answers = answers_of(session)
    kept = [user for user in session.users if user > 4]
    with pytest.raises(PrivacyError, match="and 3 are needed"):
        secure_sum(session, {user: partial(answers.__getitem__, user) for user in kept})


@pytest.mark.parametrize("answering", [0.95, 0.9])
def test_sparse_graphs_keep_their_promises_as_often_as_they_say(answering: float) -> None:
    """At a bound of .1 instead of 1e-9, losses break it in less than a tenth of the cases, and less would not do."""
    users = 400
    k, threshold = sparse_enough(users, answering, failure=0.1)
    assert k is not None
    bad = round((1 - answering) * users)

    def broken(k: int, threshold: int, trials: int = 400) -> float:
        generator, failed = np.random.default_rng(2), 0
        offsets = np.concatenate([np.arange(-k // 2, 0), np.arange(1, k // 2 + 1)])
        for _ in range(trials):
            lost = np.zeros(users, dtype=bool)
            lost[generator.choice(users, bad, replace=False)] = True
            around = lost[(np.arange(users)[:, None] + offsets) % users].sum(axis=1)
            failed += bool((around > k - threshold).any())
        return failed / trials

    # 400 trials of .1 deviate by .015: a false alarm beyond .175 has odds of 10^-6.
    assert broken(k, threshold) < 0.175
    assert broken(k - 6, (k - 6) // 2 + 1) > 0.1
    strict, _ = sparse_enough(users, answering)
    assert strict is not None
    assert strict > k
    assert FAILURE == 1e-9


def test_few_users_exchange_masks_with_everybody_or_not_at_all() -> None:
    assert sparse_enough(10, 0.9) == (4, 3)  # who loses one neighbour of four has three
    assert sparse_enough(4, 0.75) == (None, 2)
    assert sparse_enough(3, 1.0) == (None, 2)
    with pytest.raises(PrivacyError, match="a secure sum of 4 users of whom 2 may be lost"):
        sparse_enough(4, 0.5)
    with pytest.raises(PrivacyError, match="a secure sum of 1 users"):
        sparse_enough(1, 1.0)


def test_nobody_answers_twice() -> None:
    session = Session((1, 2, 3), length=2, threshold=2, label="sum")
    answer = Masked(1, np.zeros(2, dtype=np.uint32))
    with pytest.raises(PrivacyError, match="user 1 answered the secure sum 'sum' twice"):
        add_masked(session, [answer, answer])


def test_traffic_is_what_the_messages_hold() -> None:
    session = Session(tuple(range(1, 6)), length=9, threshold=3, label="sum")
    users = {user: Summand(user, session) for user in session.users}
    adverts = [user.advertise() for user in users.values()]
    boxes = [box for user in users.values() for box in user.share(adverts)]
    masked = [user.mask(np.zeros(9, dtype=np.uint32), boxes) for user in users.values()]
    shares = [user.unmask(session.users) for user in users.values()]
    up = sum(4 + len(advert.mask_key) + len(advert.seal_key) for advert in adverts)
    up += sum(8 + len(box.box) for box in boxes)
    up += sum(4 + 4 * len(answer.words) for answer in masked)
    up += sum(4 + len(share) for one in shares for share in (*one.seeds.values(), *one.mask_keys.values()))
    down = sum(4 * (4 + 64) for _ in users) + sum(8 + len(box.box) for box in boxes) + 5 * 4 * 4
    assert Traffic.of(session, 5) == Traffic(up, down)
    assert all(len(share) == shamir.SHARE_BYTES for one in shares for share in one.seeds.values())
