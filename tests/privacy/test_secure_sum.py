"""Secure sums: equal to the plain sum, whoever drops out; useless to whoever lacks the masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedrec.errors import PrivacyError
from fedrec.privacy import Clip, scales, shamir
from fedrec.privacy.fixed_point import FixedPoint, Words
from fedrec.privacy.secure_sum import Advert, Masked, Sealed, Session, Shares, Summand, open_sum


class Round:
    """One secure sum as it runs, with users who are lost after advertising, sharing or masking."""

    def __init__(self, session: Session, answers: dict[int, Words]) -> None:
        self.session, self.answers = session, answers
        self.users = {user: Summand(user, session) for user in session.users}

    def run(
        self, *, before: tuple[int, ...] = (), after_sharing: tuple[int, ...] = (), late: tuple[int, ...] = ()
    ) -> Words:
        self.adverts: list[Advert] = [user.advertise() for user in self.users.values()]
        sharing = [number for number in self.users if number not in before]
        there = [advert for advert in self.adverts if advert.user in sharing]
        self.boxes: list[Sealed] = [box for number in sharing for box in self.users[number].share(there)]
        masking = [number for number in sharing if number not in after_sharing]
        self.masked: list[Masked] = [
            self.users[number].mask(self.answers[number], [b for b in self.boxes if b.sender in sharing])
            for number in masking
        ]
        self.revealed: list[Shares] = [self.users[number].unmask(masking) for number in masking if number not in late]
        return open_sum(self.session, self.adverts, sharing, self.masked, self.revealed)


def words(session: Session, seed: int = 0) -> dict[int, Words]:
    generator = np.random.default_rng(seed)
    return {u: generator.integers(0, 2**32, session.length, dtype=np.uint32) for u in session.users}


def plain(answers: dict[int, Words], users: list[int]) -> Words:
    total: Words = np.sum([answers[user] for user in users], axis=0, dtype=np.uint32)
    return total


def test_masks_cancel_and_the_sum_is_exact() -> None:
    session = Session(users=(3, 1, 7, 5), length=50, threshold=2, label="sum")
    answers = words(session)
    assert np.array_equal(Round(session, answers).run(), plain(answers, [1, 3, 5, 7]))


@pytest.mark.parametrize("neighbors", [None, 6])
def test_every_kind_of_dropout_is_recovered(neighbors: int | None) -> None:
    threshold = 6 if neighbors is None else 4
    session = Session(tuple(range(1, 12)), length=9, threshold=threshold, neighbors=neighbors, label="sum")
    answers = words(session, 1)
    found = Round(session, answers).run(before=(2,), after_sharing=(6,), late=(9,))
    assert np.array_equal(found, plain(answers, [1, 3, 4, 5, 7, 8, 9, 10, 11]))


@given(st.integers(0, 2**32 - 1))
def test_any_loss_within_the_stated_share_is_survived(seed: int) -> None:
    session = Session(users=(4, 2, 9, 1, 6), length=3, threshold=3, label="sum")
    assert session.tolerated == 1
    generator = np.random.default_rng(seed)
    lost = tuple(int(u) for u in generator.choice(session.users, session.tolerated, replace=False))
    answers = words(session, seed)
    kept = [user for user in session.users if user not in lost]
    assert np.array_equal(Round(session, answers).run(after_sharing=lost), plain(answers, kept))


def test_more_losses_than_stated_are_refused_and_nothing_is_learnt() -> None:
    session = Session(users=(1, 2, 3, 4, 5), length=3, threshold=3, label="sum")
    with pytest.raises(PrivacyError, match="more than 1 were lost: ask for the sum again"):
        Round(session, words(session)).run(after_sharing=(1, 2), late=(3,))
    with pytest.raises(PrivacyError, match="neighbours left and needs 3"):
        Round(session, words(session)).run(before=(1, 2))


def test_a_masked_answer_looks_uniform_and_is_another_one_each_time() -> None:
    session = Session(users=(1, 2, 3), length=40_000, threshold=2, label="sum")
    zeros = {user: np.zeros(session.length, dtype=np.uint32) for user in session.users}
    first, second = (Round(session, zeros) for _ in range(2))
    first.run(), second.run()
    for one, other in zip(first.masked, second.masked, strict=True):
        # Kolmogorov and Smirnov's test at 1e-6 on three answers: a false alarm in 300,000 runs.
        assert stats.kstest(one.words / 2**32, "uniform").pvalue > 1e-6
        assert (one.words == other.words).mean() < 0.001


def test_a_mask_is_used_once_and_shares_are_revealed_once() -> None:
    session = Session(users=(1, 2, 3), length=2, threshold=2, label="sum")
    done = Round(session, words(session))
    done.run()
    with pytest.raises(PrivacyError, match="answered the secure sum 'sum' already"):
        done.users[1].mask(done.answers[1], done.boxes)
    strangers = [Summand(other, session).advertise() for other in (2, 3)]
    for user in (done.users[1], Summand.unpack(1, session, done.users[1].pack())):
        with pytest.raises(PrivacyError, match="shared its secrets of 'sum' already"):
            user.share(strangers)  # whose keys are the server's: it would have both secrets of user 1
    assert done.users[1].pack() == {"shared": True, "masked": True, "revealed": True}  # and no secret
    with pytest.raises(PrivacyError, match="revealed its shares"):
        done.users[1].unmask([1, 3])  # user 2 "dropped out" after all: both of its secrets would be known


def test_no_user_reveals_both_secrets_of_another() -> None:
    session = Session(users=(1, 2, 3, 4), length=2, threshold=2, label="sum")
    done = Round(session, words(session))
    adverts = [user.advertise() for user in done.users.values()]
    boxes = [box for user in done.users.values() for box in user.share(adverts)]
    for user in done.users.values():
        user.mask(done.answers[user.user], boxes)
    shares = done.users[1].unmask([1, 2, 3])
    assert set(shares.seeds) == {2, 3}
    assert set(shares.mask_keys) == {4}


def test_colluders_side_by_side_at_two_places_of_the_ring_learn_the_sum_of_each_part() -> None:
    """The limit that the module states: no honest user has `threshold` colluding neighbours, and it is not enough."""
    session = Session(tuple(range(1, 13)), length=5, threshold=3, neighbors=4, label="sum")
    answers, colluders, part = words(session), (1, 2, 7, 8), [3, 4, 5, 6]
    honest = [user for user in session.users if user not in colluders]
    assert all(len(set(colluders) & set(session.neighbors_of(user))) < session.threshold for user in honest)
    done = Round(session, answers)
    done.run()
    # To the server that they help they are as good as lost: it has their mask keys.
    keys = {
        user: shamir.split(done.users[user]._mask_key.private_bytes_raw(), range(1, 13), session.threshold)
        for user in colluders
    }
    known = [
        replace(shares, mask_keys={user: keys[user][session.point_of(shares.user)] for user in colluders})
        for shares in done.revealed
    ]
    masked = [answer for answer in done.masked if answer.user in part]
    found = open_sum(session, done.adverts, [*part, *colluders], masked, known)
    assert np.array_equal(found, plain(answers, part))


def test_a_box_that_was_tampered_with_is_refused() -> None:
    session = Session(users=(1, 2, 3), length=2, threshold=2, label="sum")
    users = {number: Summand(number, session) for number in session.users}
    adverts = [user.advertise() for user in users.values()]
    boxes = [box for user in users.values() for box in user.share(adverts)]
    flipped = [replace(box, box=box.box[:-1] + bytes([box.box[-1] ^ 1])) for box in boxes]
    users[1].mask(np.zeros(2, dtype=np.uint32), flipped)
    with pytest.raises(PrivacyError, match="tampered"):
        users[1].unmask([1, 2, 3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"users": (1,)}, "at least two distinct"),
        ({"users": (1, 1, 2)}, "at least two distinct"),
        ({"neighbors": 3}, "an even number"),
        ({"neighbors": 6}, "an even number from 2 to 4"),
        ({"threshold": 2}, "above half"),
        ({"threshold": 5}, "above half"),
    ],
)
def test_a_session_that_is_unsound_is_refused(settings: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"users": (1, 2, 3, 4, 5), "length": 1, "threshold": 3}
    with pytest.raises(PrivacyError, match=message):
        Session(**(good | settings))  # type: ignore[arg-type]


def test_neighbours_are_mutual_on_a_ring_of_any_order() -> None:
    session = Session(users=(5, 3, 8, 1, 9, 2, 7), length=1, threshold=3, neighbors=4, label="sum")
    assert session.neighbors_of(1) == (3, 8, 9, 2)
    for user in session.users:
        assert len(set(session.neighbors_of(user))) == 4
        assert all(user in session.neighbors_of(other) for other in session.neighbors_of(user))
    with pytest.raises(PrivacyError, match="takes no part"):
        session.neighbors_of(4)


def test_any_threshold_of_shares_gives_the_secret_and_fewer_say_nothing() -> None:
    secret = bytes(31) + b"\x07"
    shares = shamir.split(secret, [1, 2, 5, 9], threshold=3)
    for left_out in shares:
        assert shamir.combine({x: s for x, s in shares.items() if x != left_out}, 3, 32) == secret
    with pytest.raises(PrivacyError, match="2 shares of a secret that takes 3"):
        shamir.combine(dict(list(shares.items())[:2]), 3, 32)
    # With one share less than the threshold every secret is as likely: some polynomial explains any of them.
    assert shamir.split(secret, [1, 2, 5, 9], threshold=3) != shares


def test_a_wrong_share_is_noticed_and_shamir_refuses_nonsense() -> None:
    shares = shamir.split(b"k" * 32, [1, 2, 3], threshold=2)
    wrong = {1: shares[1], 2: (int.from_bytes(shares[2], "big") ^ 1 << 400).to_bytes(shamir.SHARE_BYTES, "big")}
    with pytest.raises(PrivacyError, match="do not belong to one secret"):
        shamir.combine(wrong, 2, 32)
    with pytest.raises(PrivacyError, match="does not fit"):
        shamir.split(bytes(65), [1, 2], threshold=2)
    for points in ([1], [0, 1], [2, 2]):
        with pytest.raises(PrivacyError, match="distinct points above 0"):
            shamir.split(b"k", points, threshold=2)


def test_shamir_by_hand() -> None:
    # Degree 0: with threshold 1 every share is the secret.
    assert set(shamir.split(b"\x05", [1, 2], threshold=1).values()) == {(5).to_bytes(shamir.SHARE_BYTES, "big")}
    # f(x) = 7 + 3x: f(1) = 10, f(2) = 13; at 0 it is 2·10 − 13 = 7.
    line = {x: (7 + 3 * x).to_bytes(shamir.SHARE_BYTES, "big") for x in (1, 2)}
    assert shamir.combine(line, 2, 1) == b"\x07"


def test_fixed_point_by_hand() -> None:
    # 2 answers of at most 1: 2 (2^f + ½) < 2^31 holds for f = 29 and fails for f = 30.
    point = FixedPoint(bound=1.0, answers=2)
    assert point.bits == 29
    assert point.resolution == 2.0**-29
    assert point.encode(np.array([1.0, -1.0, 0.0])).tolist() == [2**29, 2**32 - 2**29, 0]
    total = point.encode(np.array([-0.25])) + point.encode(np.array([-0.5]))
    assert point.decode(total).tolist() == [-0.75]


@given(st.integers(1, 3000), st.floats(1e-6, 1e6), st.integers(0, 2**32 - 1))
def test_a_sum_of_the_largest_answers_does_not_overflow(answers: int, bound: float, seed: int) -> None:
    point = FixedPoint(bound, answers)
    for sign in (1.0, -1.0):
        largest = point.encode(np.array([sign * bound])).astype(np.uint64) * answers
        total = point.decode(largest.astype(np.uint32))
        assert abs(total[0] - sign * bound * answers) <= point.largest_error * (1 + 1e-9)
    values = np.random.default_rng(seed).uniform(-bound, bound, (20, 4))
    summed = FixedPoint(bound, 20)
    decoded = summed.decode(np.sum(summed.encode(values), axis=0, dtype=np.uint32))
    assert np.abs(decoded - values.sum(axis=0)).max() <= summed.largest_error * (1 + 1e-9)


@pytest.mark.parametrize("value", [1.0001, -1.0001, np.nan, np.inf])
def test_what_does_not_fit_is_refused_and_never_wraps(value: float) -> None:
    with pytest.raises(PrivacyError, match="clip the answer") as refusal:
        FixedPoint(bound=1.0, answers=10).encode(np.array([0.0, value]))
    assert str(abs(value)) not in str(refusal.value)  # which a node sends to the server


def test_an_answer_that_rounding_leaves_above_its_clip_is_taken_and_does_not_overflow() -> None:
    norms = 5 + 0.37 * torch.arange(1, 2000, dtype=torch.float64)
    clipped = (norms * scales(norms.square(), Clip(0.1))).numpy()
    assert (clipped > 0.1).any()
    point = FixedPoint(bound=0.1, answers=len(clipped))
    total = point.decode(np.sum(point.encode(clipped), dtype=np.uint32, keepdims=True))
    assert abs(float(total[0]) - clipped.sum()) <= point.largest_error


def test_fixed_point_refuses_what_32_bits_cannot_hold() -> None:
    with pytest.raises(PrivacyError, match="groups of fewer users"):
        FixedPoint(bound=1.0, answers=2**31)
    with pytest.raises(PrivacyError, match="groups of fewer users"):
        FixedPoint(bound=1.0, answers=2**33)
    with pytest.raises(PrivacyError, match="above 0"):
        FixedPoint(bound=0.0, answers=2)


def test_secure_sum_of_clipped_answers_equals_the_plain_sum_to_the_stated_resolution() -> None:
    session = Session(users=tuple(range(1, 9)), length=30, threshold=5, label="round 1")
    values = np.random.default_rng(5).normal(size=(8, 30))
    values /= np.linalg.norm(values, axis=1, keepdims=True)  # clipped to norm 1
    point = FixedPoint(bound=1.0, answers=8)
    answers = {user: point.encode(values[user - 1]) for user in session.users}
    total = point.decode(Round(session, answers).run(after_sharing=(3,)))
    assert np.abs(total - np.delete(values, 2, axis=0).sum(axis=0)).max() <= point.largest_error
    assert point.largest_error < 1e-7
