"""`engine.kind = "ray"`: a simulation whose users are dealt to nodes on Ray workers, by Flower's simulation.

Each node has a shard of the users in a file of its own and keeps their private state beside it, so that this process
can look at it as any simulation can: for scoring, and for checkpoints, which are those of `LocalEngine`.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from torch import Tensor

from fedrec.errors import ConfigError, RunError
from fedrec.federated import (
    ENGINES,
    Cohort,
    Dealt,
    Devices,
    EngineConfig,
    LocalEngine,
    OverEngine,
    Query,
    State,
    Totals,
)
from fedrec.federated.answers import Answer
from fedrec.federated.private_sums import PrivateSums
from fedrec.flower.client import Values, client_app
from fedrec.flower.engine import FlowerEngine
from fedrec.flower.holdings import load_devices, save_devices
from fedrec.flower.internals import run_on_ray
from fedrec.flower.node import Holding
from fedrec.flower.post import Post, greet
from fedrec.flower.requests import Moment
from fedrec.flower.server import server_app
from fedrec.flower.stores import FolderStore, Kept
from fedrec.privacy import Clip, Mechanism, PrivacyConfig, UniformSource
from fedrec.streams import Streams

_SESSION = "simulation"
_START_SECONDS = 120.0  # Ray takes five on an idle machine


def deal(devices: Devices, nodes: int) -> list[Tensor]:
    """The users of each node, positions: whole clients, by a hash of their keys, in parts of equal numbers of clients.

    Raises:
        ConfigError: if there are fewer clients than nodes.
    """
    keys = devices.client_keys
    if nodes > len(keys):
        raise ConfigError(f"engine.nodes = {nodes}: there are {len(keys)} clients; give each node one at least")
    order = Streams(0).words("shard", keys).argsort(stable=True)
    return [devices.members(part.sort().values) for part in torch.tensor_split(order, nodes)]


def _held(folder: Path, node_config: Values, _: Values) -> Holding:
    return Holding(load_devices(_of_node(folder, int(node_config["partition-id"])) / "devices.safetensors"), _SESSION)


def _state(folder: Path, node_config: Values) -> Path:
    return _of_node(folder, int(node_config["partition-id"]))


def _of_node(folder: Path, number: int) -> Path:
    return folder / f"node-{number}"


class RaySimulation(OverEngine):
    """An engine over nodes on Ray workers, whose files this process can read.

    Args:
        engine: over the nodes.
        dealt: what it is made of.
        parts: the users of each node.
        folder: that the nodes' files are in; it is kept as long as this object is.
    """

    engine: FlowerEngine

    def __init__(self, engine: FlowerEngine, dealt: Dealt, parts: Sequence[Tensor], folder: Path) -> None:
        self.devices = dealt.devices
        self.engine = engine
        self._dealt = dealt
        self._parts = parts
        self._folder = folder
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._seen: tuple[object, LocalEngine] | None = None

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """As `FlowerEngine.sum`."""
        return self.engine.sum(query, round=round, phase=phase, clip=clip)

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """As `FlowerEngine.answers`."""
        return self.engine.answers(query, round=round, phase=phase, clip=clip)

    def private_sums(
        self, privacy: PrivacyConfig, mechanism: Mechanism, source: UniformSource, clients: int
    ) -> PrivateSums:
        """As `FlowerEngine.private_sums`."""
        return self.engine.private_sums(privacy, mechanism, source, clients)

    def passed(self, moment: Moment) -> None:
        """As `FlowerEngine.passed`."""
        self.engine.passed(moment)

    def look(self, users: Tensor, query: Query) -> tuple[Cohort, State]:
        """What some users' devices hold."""
        moment = tuple(self.engine.tensors()["moment"].tolist())
        if self._seen is None or self._seen[0] != moment:
            local = LocalEngine(self.devices, self._dealt.streams, self._dealt.participation)
            local.restore(self.tensors())
            self._seen = (moment, local)
        return self._seen[1].look(users, query)

    def tensors(self) -> dict[str, Tensor]:
        """The users' private state, as `LocalEngine.tensors` gives it."""
        moment = self.engine.tensors()["moment"]
        round, phase = moment.tolist()
        kept = [store.load(_SESSION) for store in self._stores]
        states = [(found.at((round, phase)) if found is not None else None) or {} for found in kept]
        return {"committed": moment} | merge(self._parts, states, len(self.devices))

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Roll the users back to a checkpoint."""
        round, phase = tensors["committed"].tolist()
        for part, store, state in zip(self._parts, self._stores, split(tensors, self._parts), strict=True):
            before = store.load(_SESSION)
            secret = before.secret if before is not None else ""
            assert len(part)
            store.save(Kept(_SESSION, 0, (round, phase), {(round, phase): state}, secret))
        moment = torch.tensor([round, phase])
        self.engine.restore({"moment": moment, "kept": moment.unsqueeze(0)})
        self._seen = None

    @property
    def _stores(self) -> list[FolderStore]:
        return [FolderStore(_of_node(self._folder, number)) for number in range(len(self._parts))]


def merge(parts: Sequence[Tensor], states: Sequence[Mapping[str, Tensor]], n_users: int) -> dict[str, Tensor]:
    """The private state of a population whose users are dealt to nodes, from that of each node.

    Args:
        parts: the users of each node, positions in the population.
        states: of each node, as `LocalEngine.tensors` gives it; empty where nobody was ever asked.
        n_users: size of the population.
    """
    merged: dict[str, Tensor] = {}
    ragged: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for part, state in zip(parts, states, strict=True):
        for name, tensor in state.items():
            sort, _, of = name.partition("/")
            if sort in ("dense", "known", "length"):
                table = merged.setdefault(name, tensor.new_zeros(n_users, *tensor.shape[1:]))
                table[part] = tensor
            elif sort == "index":
                owner = torch.repeat_interleave(part, state[f"length/{of}"])
                ragged.setdefault(of, []).append((owner, tensor, state[f"value/{of}"]))
            elif sort == "late":  # sums on their way, and how many there are
                merged[name] = merged[name] + tensor if name in merged else tensor
    for of, found in ragged.items():
        owner, index, value = (torch.cat([rows[column] for rows in found]) for column in range(3))
        order = owner.argsort(stable=True)
        merged |= {f"index/{of}": index[order], f"value/{of}": value[order]}
    return merged


def split(tensors: Mapping[str, Tensor], parts: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """The counterpart of `merge`. Sums on their way are of no single user, and are given to the first node."""
    found = []
    for number, part in enumerate(parts):
        state = {"committed": tensors["committed"]}
        for name, tensor in tensors.items():
            sort, _, of = name.partition("/")
            if sort in ("dense", "known", "length"):
                state[name] = tensor[part]
            elif sort == "index":
                length = tensors[f"length/{of}"]
                start = (length.cumsum(0) - length)[part]
                counts = length[part]
                offset = torch.repeat_interleave(start - (counts.cumsum(0) - counts), counts)
                rows = offset + torch.arange(len(offset))
                state |= {name: tensor[rows], f"value/{of}": tensors[f"value/{of}"][rows]}
            elif sort == "late" and number == 0:
                state[name] = tensor
        found.append(state)
    return found


@contextmanager
def open_ray(dealt: Dealt) -> Iterator[RaySimulation]:
    """Deal a population to nodes on Ray workers, for one fit.

    Raises:
        ConfigError: if there are fewer clients than nodes, or Ray is not installed.
        RunError: if the nodes do not start.
    """
    config, devices = dealt.config, dealt.devices
    parts = deal(devices, config.nodes)
    folder = Path(tempfile.mkdtemp(prefix="fedrec-ray-"))
    for number, part in enumerate(parts):
        save_devices(_of_node(folder, number) / "devices.safetensors", devices.take(part))
    app = client_app(partial(_held, folder), partial(_state, folder))
    with _grid(app, config) as grid:
        post = Post(grid, config.timeout)
        engine = FlowerEngine(
            post,
            greet(post, config.nodes, _START_SECONDS),
            session=_SESSION,
            seed=dealt.streams.seed,
            participation=dealt.participation,
            randomness=config.randomness,
            silos=devices.silo is not None,
        )
        yield RaySimulation(engine, dealt, parts, folder)


@contextmanager
def _grid(app: ClientApp, config: EngineConfig) -> Iterator[Grid]:
    """A grid of Flower's simulation, whose loop runs in a thread of its own until the context is left."""
    grids: queue.Queue[Grid] = queue.Queue()
    done, failures = threading.Event(), list[BaseException]()

    def serve(grid: Grid, _: Values) -> None:
        grids.put(grid)
        done.wait()

    def simulate() -> None:
        try:
            run_on_ray(server_app(serve), app, config.nodes, _resources(config))
        except BaseException as error:  # reported below, in the thread that can act on it
            failures.append(error)

    thread = threading.Thread(target=simulate, name="fedrec-ray", daemon=True)
    thread.start()
    try:
        yield _first(grids, thread, failures)
    finally:
        done.set()
        thread.join()


def _first(grids: queue.Queue[Grid], thread: threading.Thread, failures: list[BaseException]) -> Grid:
    while True:
        try:
            return grids.get(timeout=0.2)
        except queue.Empty:
            if not thread.is_alive():
                raise RunError(
                    f"Flower's simulation did not start: {failures[0] if failures else 'its log above says why'}"
                ) from None


def _resources(config: EngineConfig) -> dict[str, dict[str, object]]:
    """What Ray is started with: a worker a node, as far as there are cores."""
    start: dict[str, object] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if config.address is None:
        start["num_cpus"] = min(config.nodes, os.cpu_count() or 1)
    else:
        start["address"] = config.address
    return {"init_args": start, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}


ENGINES["ray"] = open_ray
