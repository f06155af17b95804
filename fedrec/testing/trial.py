"""A federated method on trial: a small population, engines that hold it in different ways, and what a run came to.

`fedrec.testing.method` asks the same method of these engines and compares. Everything is in double precision, so that
two ways of adding up the same numbers agree to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fedrec.errors import ModelError
from fedrec.federated import (
    Ask,
    Cohort,
    Devices,
    Engine,
    FederatedMethod,
    Federation,
    ParticipationConfig,
    Query,
    State,
    Totals,
)
from fedrec.federated.method import NobodyAnswered
from fedrec.privacy import Clip
from fedrec.recommenders.recommender import Tensors
from fedrec.streams import Streams, keys_of
from fedrec.testing.nodes import ALL_AT_ONCE, Asked, Nodes, Recorder

N_ITEMS = 30
_SIZES = (3, 1, 8, 5, 2, 6, 12, 4)  # training items of the population's users, in turn
N_USERS = 3 * len(_SIZES)


@dataclass(frozen=True)
class WatchedStreams(Streams):
    """Streams that remember which purposes were drawn for."""

    drawn: set[str] = field(default_factory=set)

    def _start(self, purpose: str) -> int:
        self.drawn.add(purpose)
        return super()._start(purpose)


def population(histories: Sequence[Sequence[int]] | None = None) -> Devices:
    """Devices with the given items of a catalogue of 30; by default 24 users with 1 to 12 random ones."""
    keys = keys_of(f"user {user}" for user in range(len(histories or range(N_USERS))))
    if histories is None:
        order = Streams(0).uniform("trial", keys.unsqueeze(1), torch.arange(N_ITEMS)).argsort(dim=1)
        histories = [order[user, : _SIZES[user % len(_SIZES)]].tolist() for user in range(N_USERS)]
    sizes = torch.tensor([0, *(len(items) for items in histories)])
    items = torch.tensor([item for history in histories for item in sorted(history)], dtype=torch.int64)
    return Devices(keys, sizes.cumsum(0), items, N_ITEMS)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What some rounds came to.

    Attributes:
        state: the server's.
        private: what the devices hold, in the order of the population, as plain tensors by "kind/name".
        scores: [N_USERS, N_ITEMS], of everybody.
        asked: every query, in order.
    """

    state: Tensors
    private: Tensors
    scores: Tensor
    asked: tuple[Asked, ...]


@dataclass(frozen=True, eq=False)
class Trial:
    """One method and how it is run.

    Attributes:
        build: makes the method afresh, so that what an object keeps to itself is lost between runs.
        most_rounds: rounds of a run, unless the method has fewer.
    """

    build: Callable[[], FederatedMethod]
    most_rounds: int = 5

    @cached_property
    def devices(self) -> Devices:
        """The population."""
        return population()

    @cached_property
    def rounds(self) -> int:
        """Rounds of a run."""
        return min(self.most_rounds, self.build().rounds)

    @cached_property
    def whole(self) -> Outcome:
        """The run that others are compared with: all rounds, everybody in one chunk."""
        return self.run()

    def engine(
        self,
        devices: Devices | None = None,
        parts: Sequence[Tensor] | None = None,
        *,
        streams: Streams | None = None,
        rate: float = 1.0,
        chunk_bytes: int = ALL_AT_ONCE,
    ) -> Nodes:
        """An engine over the population; by default one node with everybody."""
        devices = devices or self.devices
        streams = streams or Streams(0)
        return Nodes(
            devices, parts or [torch.arange(len(devices))], streams, ParticipationConfig(rate=rate), chunk_bytes
        )

    def federation(self, n_users: int = N_USERS, streams: Streams | None = None) -> Federation:
        """What the server knows."""
        return Federation(n_users, N_ITEMS, streams or Streams(0), torch.float64)

    def run(
        self,
        engine: Nodes | None = None,
        *,
        method: FederatedMethod | None = None,
        streams: Streams | None = None,
        recorder: Recorder | None = None,
        state: Tensors | None = None,
        rounds: Sequence[int] | None = None,
    ) -> Outcome:
        """Some rounds of the method.

        Args:
            engine: who answers; one node with everybody if None.
            method: a fresh one if None.
            streams: of the run.
            recorder: over the engine.
            state: to continue from; a fresh start if None.
            rounds: their numbers; all of the trial's if None.
        """
        method = method or self.build()
        engine = engine or self.engine(streams=streams)
        recorder = recorder or Recorder(engine)
        if state is None:
            state = method.start(self.federation(len(engine.devices), streams))
        for number in range(1, self.rounds + 1) if rounds is None else rounds:
            state = one_round(method, state, recorder, number)
        private = remembered(engine, [asked.query for asked in recorder.asked])
        return Outcome(state, private, scores(method, state, engine), tuple(recorder.asked))

    def replay(self, asked: Sequence[Asked], engine: Nodes, clips: Sequence[Clip] | None = None) -> list[Totals]:
        """Ask the very same queries of other devices."""
        return [
            engine.sum(one.query, round=one.round, phase=one.phase, clip=clips[number] if clips else None)
            for number, one in enumerate(asked)
        ]


def one_round(method: FederatedMethod, state: Tensors, engine: Engine, number: int) -> Tensors:
    """The state after one more round, the same if nobody answers."""
    with suppress(NobodyAnswered):
        return method.round(state, Ask(engine, number))
    return state


def scores(method: FederatedMethod, state: Tensors, engine: Nodes, users: Tensor | None = None) -> Tensor:
    """Scores of some users, of everybody if None, on their own devices."""
    return method.score(state, *on_devices(method, state, engine, users))


def on_devices(
    method: FederatedMethod, state: Tensors, engine: Nodes, users: Tensor | None = None
) -> tuple[Cohort, State]:
    """What the devices of some users hold when they score."""
    users = torch.arange(len(engine.devices)) if users is None else users
    query = method.memory(state)
    return engine.devices.cohort(users), State() if query is None else engine.remember(query).take(users)


def remembered(engine: Nodes, queries: Sequence[Query]) -> dict[str, Tensor]:
    """The private state behind each kind of query, as plain tensors by "kind/name"."""
    found: dict[str, Tensor] = {}
    for query in {query.kind: query for query in queries if query.private}.values():
        state = engine.remember(query)
        found |= {f"{query.kind}/{name}": values for name, values in state.dense.items()}
        for name, rows in state.ragged.items():
            found[f"{query.kind}/{name}/place"] = torch.stack([rows.owner, rows.index], dim=1)
            found[f"{query.kind}/{name}"] = rows.value
    return found


def difference(one: Tensor, other: Tensor) -> float:
    """How far two tensors are apart: the largest difference of an entry, inf if they have different shapes.

    A matrix with orthonormal columns stands for the subspace that they span, and a subspace has many bases: two such
    matrices are compared by their projectors V Vᵀ.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if not one.numel() or torch.equal(one, other):
        return 0.0
    apart = float((one.double() - other.double()).abs().max())
    if _orthonormal(one) and _orthonormal(other):
        apart = min(apart, float((one @ one.T - other @ other.T).abs().max()))
    return apart


def _orthonormal(basis: Tensor) -> bool:
    if basis.dim() != 2 or basis.shape[0] < basis.shape[1] or not basis.is_floating_point():
        return False
    unit = torch.eye(basis.shape[1], dtype=basis.dtype)
    return bool((basis.T @ basis - unit).abs().max() < 1e-8)


def require_same(one: Outcome, other: Outcome, *, within: float, why: str) -> None:
    """Raise if two runs differ in the server's state, the devices' or the scores.

    Raises:
        ModelError: that names what differs most, and by how much; `why` says what broke and how to mend it.
    """
    pairs = {"scores": (one.scores, other.scores)}
    for what, mine, theirs in (
        ("server state", one.state, other.state),
        ("private state", one.private, other.private),
    ):
        if set(mine) != set(theirs):
            raise ModelError(f"{why} ({what}: {sorted(mine)} against {sorted(theirs)})")
        pairs |= {f"{what} '{name}'": (mine[name], theirs[name]) for name in mine}
    apart = {what: difference(*pair) for what, pair in pairs.items()}
    worst = max(apart, key=lambda what: apart[what])
    if not apart[worst] <= within:
        raise ModelError(f"{why} ({worst} differs by {apart[worst]:.2g}; at most {within:.0e} is rounding)")
