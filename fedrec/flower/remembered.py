"""What a node remembers of a session: whether it may answer, and what it keeps once it has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from fedrec.errors import ConfigError, PrivacyError
from fedrec.flower.requests import Request
from fedrec.flower.stores import Kept, Store
from fedrec.privacy.secure_sum import Session, Summand


def remembered(store: Store, request: Request) -> Kept:
    """What is remembered of a request's session.

    Raises:
        ConfigError: if a later moment was answered already.
        PrivacyError: if what follows from a release was asked since, and other noise would be added to it; or what was
            released in that session is not remembered.
    """
    kept = store.load(request.run)
    if kept is None:
        kept = Kept(request.session)
    elif kept.session != request.session:
        left = tuple(name for name in kept.left if name != kept.session)
        kept = Kept(request.session, secret=kept.secret, left=(*left, kept.session), tested=kept.tested)
    _require_current(kept, request)
    return kept


def _require_current(kept: Kept, request: Request) -> None:
    """Refuse what was sent before the last message that was answered, unless the server goes back on purpose."""
    if request.attempt < kept.attempt or (request.attempt == kept.attempt and request.moment < kept.latest):
        raise ConfigError(
            f"an old query: round {request.round}, phase {request.phase} of attempt {request.attempt}, and round "
            f"{kept.latest[0]}, phase {kept.latest[1]} of attempt {kept.attempt} was answered already"
        )
    if not (request.clip and request.randomness == "os"):  # a seed would repeat the noise
        return
    if request.session in kept.left:
        raise PrivacyError(
            f"session '{request.session}' was left for another of its run, and what was released in it is not "
            "remembered; other noise on its sums is a release that no ledger has: start a new run"
        )
    # What was asked later was computed from what was released then.
    if request.moment < kept.latest:
        raise PrivacyError(
            f"round {request.round}, phase {request.phase} was released before, which the server's journal has lost; "
            "other noise on its sum is a release that no ledger has: start a new run"
        )


def require_unopened(kept: Kept, request: Request) -> None:
    """Refuse to add other noise to a sum that may have been opened.

    Raises:
        PrivacyError: if what opens it was revealed.
    """
    if request.randomness == "os" and request.moment <= max(kept.opened, kept.noised[0]):
        raise PrivacyError(
            f"round {request.round}, phase {request.phase} may have been opened before, which the server's journal has "
            "lost; other noise on its sum is a release that no ledger has: start a new run"
        )


def require_same(kept: Kept, request: Request, content: str) -> None:
    """Refuse to noise a moment's sum for another question than before: the mean of two noised sums has less noise.

    Args:
        kept: what is remembered.
        request: that asks for noise by the node's secret.
        content: what the noise would be for.

    Raises:
        PrivacyError: if something else was noised at that moment, or a later one.
    """
    moment, before = kept.noised
    last = max(moment, kept.opened)
    if request.moment < last or (request.moment == last and content != before):
        raise PrivacyError(
            f"round {request.round}, phase {request.phase} was noised for another question before; other noise on its "
            "sum is a release that no ledger has: start a new run"
        )


def require_tested(kept: Kept, held: str) -> None:
    """Refuse an exact sum over other data than those of the run's earlier tests.

    Args:
        kept: what is remembered.
        held: what the node's users hold, as a digest.

    Raises:
        PrivacyError: if they held something else then.
    """
    if kept.tested not in ("", held):
        raise PrivacyError(
            "this node's data are not those of the run's earlier tests; sums of both tell by subtraction what changed: "
            "put the earlier data back, then resume, or start a new run"
        )


def begun(kept: Kept, session: Session, number: int, request: Request) -> tuple[Summand, bool]:
    """The node's side of a secure sum that has begun, and whether noise of its users went under its mask.

    Raises:
        PrivacyError: if it is not this one: what was agreed on has changed, or its secrets are gone.
    """
    packed = json.loads(kept.summand) if kept.summand else {}
    if (packed.get("agreed"), packed.get("number")) != (agreed(session, request), number):
        raise PrivacyError(f"no secure sum '{session.label}' was begun here; ask for the sum again")
    return Summand.unpack(number, session, packed), packed["noised"]


def agreed(session: Session, request: Request) -> str:
    """What all steps of a secure sum have in common, as a digest.

    With another threshold fewer masks would be added; and of another moment's last step the node would remember that
    this moment's sum was not opened, and noise it anew.
    """
    return hashlib.sha256(repr((session, request)).encode()).hexdigest()


def after(kept: Kept, request: Request, state: Mapping[str, Tensor], content: str = "") -> Kept:
    """What is remembered once a request is answered: its own state, where it began, and what the server may need.

    Args:
        kept: what was remembered.
        request: that is answered.
        state: of the users.
        content: what noise by the node's secret was for; "" where there is none.
    """
    needed = {kept.moment_at(moment) for moment in (request.base, *request.kept)}
    states = {moment: before for moment, before in kept.states.items() if moment in needed}
    kept = replace(kept, attempt=request.attempt, latest=request.moment, states={**states, request.moment: state})
    return replace(kept, noised=(request.moment, content)) if content else kept
