"""Secure sums: the server learns Σ_u x_u and nothing else about any x_u, although it carries every message.

Bonawitz et al. 2017 ("Practical Secure Aggregation for Privacy-Preserving Machine Learning", the protocol against an
honest but curious server), with the sparse graph of Bell et al. 2020 ("Secure Single-Server Aggregation with
(Poly)Logarithmic Overhead"): a user exchanges masks with k neighbours instead of with everybody.

    1. advertise   u -> server: two X25519 public keys, one for masks and one for sealing shares.
    2. share       u -> each neighbour: Shamir shares of its mask key and of a seed b_u, sealed by ChaCha20-Poly1305.
    3. mask        u -> server: y_u = x_u + PRG(b_u) + Σ_{v>u} PRG(s_uv) − Σ_{v<u} PRG(s_uv)   (mod 2^32)
    4. unmask      u -> server: for each neighbour a share of b_v if v's y_v arrived, of v's mask key if not.

The masks of a pair cancel in the sum. Those of a pair of which one dropped out after step 2 do not: the server recovers
the mask key of the one who dropped and removes them, and the seeds of those who answered. Nobody ever reveals both
shares of one user, which would open y_u. PRG is ChaCha20, s_uv comes from X25519 and HKDF-SHA256, bound to the session.

Within its trust model: the server follows the protocol and fewer than `threshold` of a user's neighbours tell it what
they know. With k neighbours there is one more condition: those who tell it, together with those who are lost, must not
cut the ring of users in two. Where k/2 of them sit side by side at two places, no mask spans the gaps, and the server
learns the sum of each part. So the ring's order must be random, and k large enough to make that unlikely (Bell et al.
say how large). A server that names different survivors to different users is not detected (that takes signatures).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedrec.errors import PrivacyError
from fedrec.privacy import shamir
from fedrec.privacy.fixed_point import Words

_KEY_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True)
class Session:
    """What server and users agree on, in public, before a sum. No two sums may have the same `label`.

    Attributes:
        users: numbers of those who take part, distinct and positive, in an order that the server draws at random.
        length: number of words that are summed.
        threshold: shares that recover a secret. A user's neighbours may lose all but this many.
        neighbors: k, an even number of users with whom each exchanges masks; None is everybody.
        label: names the sum: run, round, phase and query.

    Raises:
        PrivacyError: if the numbers do not fit each other.
    """

    users: tuple[int, ...]
    length: int
    threshold: int
    neighbors: int | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if len(set(self.users)) < max(len(self.users), 2) or min(self.users) < 1:
            raise PrivacyError(f"a secure sum of users {self.users}: give at least two distinct numbers above 0")
        if self.neighbors is not None and (self.neighbors % 2 or not 2 <= self.neighbors < len(self.users)):
            raise PrivacyError(
                f"neighbors = {self.neighbors} among {len(self.users)} users; give an even number from 2 to "
                f"{len(self.users) - 1}, or none for everybody"
            )
        # With k/2 shares or fewer, two halves of the neighbours could each give one of a user's two secrets.
        if not self.degree / 2 < self.threshold <= self.degree:
            raise PrivacyError(
                f"threshold = {self.threshold} of {self.degree} neighbours; it must be above half of them, and no more"
            )

    @property
    def degree(self) -> int:
        """Number of neighbours of each user."""
        return len(self.users) - 1 if self.neighbors is None else self.neighbors

    @property
    def tolerated(self) -> int:
        """Users of any choice who may be lost after sharing without losing the sum."""
        return self.degree - self.threshold

    def point_of(self, user: int) -> int:
        """Where the polynomials are evaluated for a user: its place from 1."""
        return self._place[user] + 1

    @cached_property
    def _place(self) -> Mapping[int, int]:
        return {user: place for place, user in enumerate(self.users)}

    def neighbors_of(self, user: int) -> tuple[int, ...]:
        """Those with whom a user exchanges masks: the nearest on the ring of `users`, on both sides.

        Raises:
            PrivacyError: if the user takes no part.
        """
        if user not in self._place:
            raise PrivacyError(f"user {user} takes no part in the secure sum '{self.label}'")
        here, n = self._place[user], len(self.users)
        if self.neighbors is None:
            return tuple(other for other in self.users if other != user)
        steps = (*range(-(self.neighbors // 2), 0), *range(1, self.neighbors // 2 + 1))
        return tuple(self.users[(here + step) % n] for step in steps)


@dataclass(frozen=True)
class Advert:
    """Step 1: the public keys of a user, 32 bytes each."""

    user: int
    mask_key: bytes
    seal_key: bytes


@dataclass(frozen=True)
class Sealed:
    """Step 2: the shares that `sender` gives to `receiver`, which only they can read."""

    sender: int
    receiver: int
    box: bytes


@dataclass(frozen=True, eq=False)
class Masked:
    """Step 3: a user's answer, [length] words that look uniform to whoever lacks the masks."""

    user: int
    words: Words


@dataclass(frozen=True)
class Shares:
    """Step 4: what a user reveals. By the number of the user they belong to."""

    user: int
    seeds: Mapping[int, bytes]
    mask_keys: Mapping[int, bytes]


class Summand:
    """A user's side of one secure sum. Its secrets are fresh, from the operating system, and serve once.

    Args:
        user: its number.
        session: as agreed.
    """

    def __init__(self, user: int, session: Session) -> None:
        self.user, self.session = user, session
        self.neighbors = session.neighbors_of(user)
        self._mask_key, self._seal_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._seed = secrets.token_bytes(_KEY_BYTES)
        self._adverts: Mapping[int, Advert] = {}
        self._boxes: Mapping[int, bytes] = {}
        self._shared = self._masked = self._revealed = False

    def advertise(self) -> Advert:
        """Step 1."""
        return Advert(self.user, _public(self._mask_key), _public(self._seal_key))

    def share(self, adverts: Iterable[Advert]) -> list[Sealed]:
        """Step 2.

        Args:
            adverts: of all who are still there; those of its neighbours are used.

        Raises:
            PrivacyError: if it is asked a second time (shares for other keys would open an answer that was given), or
                fewer neighbours are there than recover a secret: the sum would be lost.
        """
        if self._shared:
            raise PrivacyError(f"user {self.user} has shared its secrets of '{self.session.label}' already")
        self._shared = True
        self._adverts = {advert.user: advert for advert in adverts if advert.user in self.neighbors}
        there, threshold = list(self._adverts), self.session.threshold
        if len(there) < threshold:
            raise PrivacyError(
                f"user {self.user} has {len(there)} neighbours left and needs {threshold}; ask for the sum again"
            )
        points = [self.session.point_of(other) for other in there]
        seeds = shamir.split(self._seed, points, threshold)
        keys = shamir.split(self._mask_key.private_bytes_raw(), points, threshold)
        return [
            Sealed(self.user, other, _seal(self._sealing_key(other), seeds[at] + keys[at], f"{self.user}>{other}"))
            for other, at in zip(there, points, strict=True)
        ]

    def mask(self, words: Words, boxes: Iterable[Sealed]) -> Masked:
        """Step 3.

        Args:
            words: [length], the answer in fixed point.
            boxes: what its neighbours sealed for it; their senders are those whose masks it adds.

        Raises:
            PrivacyError: if it is asked a second time (two answers under one mask give away their difference), the
                length is wrong, or too few neighbours are left.
        """
        if self._masked:
            raise PrivacyError(f"user {self.user} has answered the secure sum '{self.session.label}' already")
        if words.shape != (self.session.length,):
            raise PrivacyError(f"an answer of {words.shape} words to a sum of {self.session.length}")
        self._boxes = {
            box.sender: box.box for box in boxes if box.receiver == self.user and box.sender in self._adverts
        }
        if len(self._boxes) < self.session.threshold:
            raise PrivacyError(
                f"user {self.user} has {len(self._boxes)} neighbours left and needs {self.session.threshold}; "
                "ask for the sum again"
            )
        self._masked = True
        total = words + _expand(self._seed, self.session.length)
        for other in self._boxes:
            mask = _pair_mask(self._mask_key, self._adverts[other].mask_key, self.session)
            total += mask if other > self.user else np.negative(mask)
        return Masked(self.user, total)

    def unmask(self, answered: Iterable[int]) -> Shares:
        """Step 4.

        Args:
            answered: the users whose masked answers the server has.

        Raises:
            PrivacyError: if it is asked a second time (other survivors would open a user's answer), or a neighbour's
                box was tampered with.
        """
        if self._revealed:
            raise PrivacyError(f"user {self.user} has revealed its shares of '{self.session.label}' already")
        self._revealed = True
        there, seeds, keys = set(answered), {}, {}
        for other, box in self._boxes.items():
            try:
                opened = _unseal(self._sealing_key(other), box, f"{other}>{self.user}")
            except InvalidTag:
                raise PrivacyError(f"the shares of user {other} for user {self.user} were tampered with") from None
            if other in there:
                seeds[other] = opened[: shamir.SHARE_BYTES]
            else:
                keys[other] = opened[shamir.SHARE_BYTES :]
        return Shares(self.user, seeds, keys)

    def pack(self) -> dict[str, Any]:
        """Everything that it remembers, JSON-able: for a device whose process ends between steps.

        Secrets are among it until it has revealed its shares. Then they have served, and whoever reads what is kept
        opens nothing by it that was recorded before.
        """
        done = {"shared": self._shared, "masked": self._masked, "revealed": self._revealed}
        if self._revealed:
            return done
        adverts = [[advert.user, advert.mask_key.hex(), advert.seal_key.hex()] for advert in self._adverts.values()]
        return {
            "mask_key": self._mask_key.private_bytes_raw().hex(),
            "seal_key": self._seal_key.private_bytes_raw().hex(),
            "seed": self._seed.hex(),
            "adverts": adverts,
            "boxes": {str(user): box.hex() for user, box in self._boxes.items()},
            **done,
        }

    @classmethod
    def unpack(cls, user: int, session: Session, packed: Mapping[str, Any]) -> Summand:
        """The counterpart of `pack`."""
        summand = cls(user, session)
        summand._shared, summand._masked = packed["shared"], packed["masked"]
        summand._revealed = packed["revealed"]
        if summand._revealed:
            return summand
        summand._mask_key = X25519PrivateKey.from_private_bytes(bytes.fromhex(packed["mask_key"]))
        summand._seal_key = X25519PrivateKey.from_private_bytes(bytes.fromhex(packed["seal_key"]))
        summand._seed = bytes.fromhex(packed["seed"])
        adverts = [Advert(n, bytes.fromhex(mask), bytes.fromhex(seal)) for n, mask, seal in packed["adverts"]]
        summand._adverts = {advert.user: advert for advert in adverts}
        summand._boxes = {int(sender): bytes.fromhex(box) for sender, box in packed["boxes"].items()}
        return summand

    def _sealing_key(self, other: int) -> bytes:
        return _agree(self._seal_key, self._adverts[other].seal_key, f"seal/{self.session.label}")


def open_sum(
    session: Session,
    adverts: Sequence[Advert],
    sharing: Iterable[int],
    masked: Iterable[Masked],
    revealed: Sequence[Shares],
) -> Words:
    """The server's side of step 4: Σ x_u over the users who answered, modulo 2^32, [length].

    Args:
        session: as agreed.
        adverts: of step 1.
        sharing: the users who did step 2: others have added masks with each of these among their neighbours.
        masked: of step 3, from any part of those who shared.
        revealed: of step 4, from any part of those who answered.

    Raises:
        PrivacyError: if too many users are lost for some secret to be recovered; nothing is learnt then.
    """
    total, answered = add_masked(session, masked)
    return unmask(session, adverts, sharing, total, answered, revealed)


def add_masked(session: Session, masked: Iterable[Masked]) -> tuple[Words, set[int]]:
    """The server's side of step 3: the sum of the masked answers as they come, and whose they are.

    Raises:
        PrivacyError: if an answer has the wrong length, or a user has two.
    """
    total, answered = np.zeros(session.length, dtype=np.uint32), set[int]()
    for answer in masked:
        if answer.words.shape != (session.length,):
            raise PrivacyError(f"user {answer.user} sent {answer.words.shape} words to a sum of {session.length}")
        if answer.user in answered:
            raise PrivacyError(f"user {answer.user} answered the secure sum '{session.label}' twice")
        answered.add(answer.user)
        total += answer.words
    return total, answered


def unmask(
    session: Session,
    adverts: Sequence[Advert],
    sharing: Iterable[int],
    total: Words,
    answered: set[int],
    revealed: Sequence[Shares],
) -> Words:
    """As `open_sum`, from what `add_masked` found."""
    public = {advert.user: advert.mask_key for advert in adverts}
    revealing = {shares.user: shares for shares in revealed}
    total = total.copy()
    for user in set(sharing):
        neighbors = session.neighbors_of(user)
        secrets_of = [
            (other, shares.seeds if user in answered else shares.mask_keys)
            for other in neighbors
            if (shares := revealing.get(other)) is not None
        ]
        held = {session.point_of(other): known[user] for other, known in secrets_of if user in known}
        if user in answered:
            total -= _expand(_recover(user, held, session), session.length)
            continue
        partners = [other for other in neighbors if other in answered]
        if partners:
            key = X25519PrivateKey.from_private_bytes(_recover(user, held, session))
            for other in partners:
                mask = _pair_mask(key, public[other], session)  # which `other` added or took away
                total += mask if user < other else np.negative(mask)
    return total


def _recover(user: int, held: Mapping[int, bytes], session: Session) -> bytes:
    if len(held) < session.threshold:
        raise PrivacyError(
            f"secure sum '{session.label}': {len(held)} of user {user}'s {session.degree} neighbours are left and "
            f"{session.threshold} are needed; more than {session.tolerated} were lost: ask for the sum again"
        )
    return shamir.combine(held, session.threshold, _KEY_BYTES)


def _public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _agree(own: X25519PrivateKey, other: bytes, purpose: str) -> bytes:
    """A key that two users share, for one purpose."""
    secret = own.exchange(X25519PublicKey.from_public_bytes(other))
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=f"fedrec/secure-sum/{purpose}".encode()).derive(secret)


def _expand(key: bytes, length: int) -> Words:
    """PRG: the key stream of ChaCha20 as words. A key serves one stream, so the nonce may be constant."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(4 * length))
    return np.frombuffer(stream, dtype="<u4").astype(np.uint32)


def _pair_mask(own: X25519PrivateKey, other: bytes, session: Session) -> Words:
    return _expand(_agree(own, other, f"mask/{session.label}"), session.length)


def _seal(key: bytes, text: bytes, route: str) -> bytes:
    """Authenticated encryption; the nonce stands before the text."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, text, route.encode())


def _unseal(key: bytes, box: bytes, route: str) -> bytes:
    return ChaCha20Poly1305(key).decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], route.encode())
