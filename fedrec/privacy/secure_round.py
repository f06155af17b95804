"""A secure sum from its first message to its last, in one process: for simulation, tests and measurements.

Over a network the same `Summand`s run on the users' devices, and only `add_masked` and `unmask` on the server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from fedrec.errors import PrivacyError
from fedrec.privacy import shamir
from fedrec.privacy.fixed_point import Words
from fedrec.privacy.secure_sum import Masked, Sealed, Session, Summand, add_masked, unmask

FAILURE = 1e-9
"""Chance that a sparse graph of masks does not keep what is promised of a sum, see `sparse_enough`."""
_SEAL_BYTES = 12 + 16  # nonce and tag of a sealed box
_NUMBER_BYTES = 4  # a user's number in a message


@dataclass(frozen=True)
class Traffic:
    """Bytes of one secure sum, without the framing of a transport.

    Attributes:
        up: sent by all users together.
        down: sent to them.
    """

    up: int = 0
    down: int = 0

    @classmethod
    def of(cls, session: Session, answered: int) -> Traffic:
        """That of a sum in which all of a session's users share, and some number of them answers and unmasks."""
        users, degree = len(session.users), session.degree
        advert, box = _NUMBER_BYTES + 64, 2 * _NUMBER_BYTES + 2 * shamir.SHARE_BYTES + _SEAL_BYTES
        shares = degree * (_NUMBER_BYTES + shamir.SHARE_BYTES)
        up = users * (advert + degree * box) + answered * (_NUMBER_BYTES + 4 * session.length + shares)
        # Neighbours' public keys, their boxes, and who of them answered.
        return cls(up, users * degree * (advert + box) + answered * degree * _NUMBER_BYTES)


@lru_cache(maxsize=256)
def sparse_enough(users: int, answering: float, failure: float = FAILURE) -> tuple[int | None, int]:
    """The neighbours that each user needs on a random ring, and the shares that recover a secret.

    Of n users a share `answering` answers and keeps its secrets; the others, ⌊(1 − answering) n⌋, are lost or tell the
    server what they know, whichever is worse. With k neighbours and a threshold t = k/2 + 1, all of the following fails
    with probability `failure` at most, by the union bound over users (Bell et al. 2020, "Secure Single-Server
    Aggregation with (Poly)Logarithmic Overhead", section 3): that every user keeps t neighbours who answer, so that its
    secret is recovered; that none has t who tell; and that nowhere on the ring k/2 of the bad ones are side by side, so
    that masks span every gap.

    Returns:
        k, an even number, or None for everybody if no k below n − 1 is enough; and t.

    Raises:
        PrivacyError: if there are too few users for any threshold to work.
    """
    from scipy import stats  # slow to import, and no node needs it

    bad = math.floor((1 - answering) * users + 1e-9)
    for k in range(2, users - 1, 2):
        # A neighbour is drawn from the n − 1 others, of whom all the bad ones may be.
        few = stats.hypergeom.sf(k - (k // 2 + 1), users - 1, bad, k)
        # The chance that k/2 given places of the ring are all bad.
        gap = math.exp(_log_choose(users - k // 2, bad - k // 2) - _log_choose(users, bad)) if bad >= k // 2 else 0.0
        if users * (few + gap) <= failure:
            return k, k // 2 + 1
    threshold = (users - 1) // 2 + 1
    if users < 2 or users - 1 - bad < threshold:
        raise PrivacyError(
            f"a secure sum of {users} users of whom {bad} may be lost or tell the server: too few are left to recover "
            "a mask and to keep it; take more users, or a larger privacy.answering"
        )
    return None, threshold


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def secure_sum(session: Session, answers: Mapping[int, Callable[[], Words]]) -> Words:
    """Run all steps of a sum: every user of the session advertises and shares; those with an answer mask and unmask.

    Args:
        session: as agreed.
        answers: user -> what gives its answer, asked for once, so that not all need to be there at a time. A user of
            the session without one was lost after sharing.

    Returns:
        Σ of the answers modulo 2^32, [length].

    Raises:
        PrivacyError: if more users are lost than the session survives; nothing is learnt then.
    """
    summands = {user: Summand(user, session) for user in session.users}
    adverts = [summand.advertise() for summand in summands.values()]
    by_user = {advert.user: advert for advert in adverts}
    inbox: dict[int, list[Sealed]] = {user: [] for user in session.users}
    for summand in summands.values():
        for box in summand.share([by_user[other] for other in summand.neighbors]):
            inbox[box.receiver].append(box)

    def masked() -> Iterator[Masked]:
        for user, answer in answers.items():
            yield summands[user].mask(answer(), inbox[user])

    total, answered = add_masked(session, masked())
    revealed = [summands[user].unmask(answered) for user in answers]
    return unmask(session, adverts, session.users, total, answered, revealed)
