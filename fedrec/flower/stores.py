"""Where a node keeps its users' private state between messages: in Flower's `Context`, or on its disk.

The state is kept under the moments (round, phase) that the server may ask it to start from: the last one and the one
before it, so that a message that comes twice steps nothing twice; and those of the server's checkpoints. Of a run one
session is kept at a time. `Context` lives as long as the run and the SuperNode; a folder also outlives them, so that a
ServerApp that was killed can be resumed.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import safetensors
import safetensors.torch
from flwr.app import ConfigRecord, Context
from torch import Tensor

from fedrec.errors import DataError
from fedrec.files import replace_file
from fedrec.flower.records import arrays, tensors
from fedrec.flower.requests import Moment, run_of

_NAME = "fedrec"
_ENDING = ".state.safetensors"

RUNS = 8
"""Of how many runs a node's folder holds what its users remember: several may go on at a time."""

_UNBOUNDED = 1 << 62  # what a node reads of its own is as large as it is


@dataclass(frozen=True, eq=False)
class Kept:
    """What a node remembers of one session.

    Attributes:
        session: its name.
        attempt: the highest that was asked.
        latest: the moment that was answered last.
        states: moment -> the users' private state, as `LocalEngine.tensors` gives it.
        summand: the node's side of a secure sum that has begun, as JSON; "" is none.
        opened: the last moment of whose noised words the node has revealed what opens their sum; (0, 0) is none.
        noised: the last moment of a sum that it noised by its secret, and what was asked then; "" is none.
        secret: of the run, from which the node draws what no seed is to tell; "" is not drawn yet.
        left: earlier sessions of the run, of which nothing else is remembered.
        paid: what was last charged to its users' account, and how much; "" is nothing.
        tested: what its users held, as a digest, when the run's first test under masks was asked; "" is none yet.
    """

    session: str
    attempt: int = 0
    latest: Moment = (0, 0)
    states: Mapping[Moment, Mapping[str, Tensor]] = field(default_factory=dict)
    secret: str = ""
    summand: str = ""
    opened: Moment = (0, 0)
    noised: tuple[Moment, str] = ((0, 0), "")
    left: tuple[str, ...] = ()
    paid: tuple[str, float] = ("", 0.0)
    tested: str = ""

    @property
    def run(self) -> str:
        """What the session is part of."""
        return run_of(self.session)

    def moment_at(self, moment: Moment) -> Moment | None:
        """The last moment with a state that is not after this one, since a node may have missed some; None if new."""
        return max((known for known in self.states if known <= moment), default=None)

    def at(self, moment: Moment) -> Mapping[str, Tensor] | None:
        """The users' state at a moment; None if they were never asked before."""
        known = self.moment_at(moment)
        return None if known is None else self.states[known]


class Store(Protocol):
    """Keeps what a node remembers of a run: that of its last session.

    Attributes:
        lasting: whether it outlives a ServerApp that was killed, and is there when the run is resumed.
    """

    lasting: ClassVar[bool]

    def load(self, run: str) -> Kept | None:
        """What was kept last of a run, or None."""

    def save(self, kept: Kept) -> None:
        """Keep this instead of what was kept of its run."""

    def alone(self, run: str) -> AbstractContextManager[None]:
        """While nobody else loads and saves what is remembered of a run: a node's processes answer side by side."""


def _pack(kept: Kept) -> tuple[dict[str, Tensor], str]:
    """Tensors by name, each once, and where they belong, as JSON."""
    names: dict[int, str] = {}
    packed: dict[str, Tensor] = {}
    states: dict[str, dict[str, str]] = {}
    for (round, phase), state in kept.states.items():
        for name, tensor in state.items():
            if id(tensor) not in names:
                names[id(tensor)] = str(len(packed))
                packed[names[id(tensor)]] = tensor
            states.setdefault(f"{round}/{phase}", {})[name] = names[id(tensor)]
    facts = {"session": kept.session, "attempt": kept.attempt, "latest": list(kept.latest)}
    facts |= {"secret": kept.secret, "summand": kept.summand, "opened": list(kept.opened)}
    facts |= {"noised": [list(kept.noised[0]), kept.noised[1]], "left": list(kept.left), "paid": list(kept.paid)}
    facts |= {"tested": kept.tested}
    return packed, json.dumps({**facts, "states": states})


def _unpack(packed: Mapping[str, Tensor], header: str) -> Kept:
    facts = json.loads(header)
    states = {}
    for moment, state in facts["states"].items():
        round, phase = map(int, moment.split("/"))
        states[round, phase] = {name: packed[place] for name, place in state.items()}
    moments = (facts["latest"], facts["opened"], facts["noised"][0])
    latest, opened, noised = ((round, phase) for round, phase in moments)
    own = facts["secret"], facts["summand"], opened, (noised, facts["noised"][1])
    # Earlier versions kept none of these three.
    left, paid, tested = tuple(facts.get("left", ())), tuple(facts.get("paid", ("", 0.0))), facts.get("tested", "")
    return Kept(facts["session"], facts["attempt"], latest, states, *own, left, paid, tested)


class ContextStore:
    """In the node's own part of Flower's context, which no message carries."""

    lasting: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self._state = context.state

    def load(self, run: str) -> Kept | None:
        """What was kept last of a run, or None."""
        if _NAME not in self._state:
            return None
        header = str(self._state.config_records[_NAME]["header"])
        kept = _unpack(tensors(self._state.array_records[f"{_NAME}-tensors"], _UNBOUNDED), header)
        return kept if kept.run == run else None

    def save(self, kept: Kept) -> None:
        """Keep this instead, of whichever run: a context belongs to one."""
        packed, header = _pack(kept)
        self._state[f"{_NAME}-tensors"] = arrays(packed)
        self._state[_NAME] = ConfigRecord({"header": header})

    def alone(self, run: str) -> AbstractContextManager[None]:
        """Nothing to wait for: every message is given a context of its own."""
        return nullcontext()


class FolderStore:
    """In one file a run, replaced whole. Of old runs the latest `RUNS` are kept.

    Args:
        folder: of this node alone.
    """

    lasting: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, run: str) -> Kept | None:
        """What was kept last of a run, or None.

        Raises:
            DataError: if the file is damaged.
        """
        path = self._path(run)
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
                return _unpack(packed, file.metadata()["kept"])
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"what was kept of users is damaged; delete {path} ({error}), and they begin anew"
            ) from error

    def save(self, kept: Kept) -> None:
        """Keep this instead of what was kept of its run.

        Raises:
            DataError: if it cannot be written: no room, no permission. Nothing is lost then.
        """
        packed, header = _pack(kept)
        own = {name: tensor.contiguous() for name, tensor in packed.items()}
        path = self._path(kept.run)
        try:
            new = not path.exists()
            write_whole(path, safetensors.torch.save(own, {"kept": header}))
            if new:
                self._forget()
        except OSError as error:
            raise _unwritable(path, error) from error

    def alone(self, run: str) -> AbstractContextManager[None]:
        """While no other process of the node answers a message of the run; those wait.

        Raises:
            DataError: if there is no room for a file to lock, or no permission.
        """
        return alone(self._lock(run))

    def _lock(self, run: str) -> Path:
        return self._folder / f"{run}.state.lock"  # no run's name makes it another file of the folder

    def _path(self, run: str) -> Path:
        return self._folder / f"{run}{_ENDING}"

    def _forget(self) -> None:
        """Delete what is kept of runs that others came after."""
        kept = sorted(self._folder.glob(f"*{_ENDING}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in kept[RUNS:]:
            path.unlink(missing_ok=True)
            self._lock(path.name.removesuffix(_ENDING)).unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that the path holds all of the new content or what it held before, on the disk itself.

    Raises:
        DataError: if it cannot be written: no room, no permission. Nothing is lost then.
    """
    try:
        replace_file(path, content)  # a power cut that undid it would have the node forget what it noised
    except OSError as error:
        raise _unwritable(path, error) from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While no other process has locked a file, which is made if it is not there; it is let go of if this one ends.

    Raises:
        DataError: if it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a")  # it keeps what is in it
    except OSError as error:
        raise _unwritable(path, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"what is kept of users cannot be written ({error.strerror}); make room for {path}")
