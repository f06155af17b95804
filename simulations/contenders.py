"""The contenders of `bench_round.py`, which starts each in a process of its own."""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fedrec.data import DATASETS, DataConfig, load_split
from fedrec.federated import Cohort, Devices, Federation, LocalEngine
from fedrec.federated.methods.ego_lightgcn import EgoLightGCN, EgoLightGCNConfig
from fedrec.federated.queries import LocalTraining
from fedrec.recommenders.sampling import negatives
from fedrec.streams import Streams
from simulations.processes import peak_memory

STREAMS = Streams(0)
Rounds = tuple[list[float], list[Tensor]]
"""Seconds and the summed change of the item table, by round."""


@dataclass(frozen=True, eq=False)
class Problem:
    """The users, and the query that they are all asked."""

    devices: Devices
    query: LocalTraining

    @classmethod
    def of(cls, data: str) -> Problem:
        """The training part of a data set of the catalogue, or of a file or folder."""
        named = data in DATASETS or data == "synthetic"
        train = load_split(DataConfig(name=data) if named else DataConfig(path=data), seed=0).split.train
        method = EgoLightGCN(EgoLightGCNConfig())
        state = method.start(Federation(train.n_users, train.n_items, STREAMS))
        return cls(Devices.of(train), method.memory(state))

    def save(self, folder: Path) -> None:
        """For another process."""
        devices = self.devices
        tensors = {"keys": devices.keys, "indptr": devices.indptr, "items": devices.items}
        settings = json.dumps({"n_items": devices.n_items} | dict(self.query.settings))
        torch.save(tensors | {"table": self.query.items}, folder / "problem.pt")
        (folder / "problem.json").write_text(settings)

    @classmethod
    def load(cls, folder: Path) -> Problem:
        """What another process saved."""
        tensors = torch.load(folder / "problem.pt")
        settings = json.loads((folder / "problem.json").read_text())
        devices = Devices(tensors["keys"], tensors["indptr"], tensors["items"], settings.pop("n_items"))
        return cls(devices, LocalTraining(tensors["table"], **settings))


def local(problem: Problem, rounds: int, cores: int) -> Rounds:
    """Rounds of `LocalEngine`."""
    few = problem.devices.take(torch.arange(min(8, len(problem.devices))))
    LocalEngine(few, STREAMS).sum(problem.query, round=1)  # compiles, or loads what was compiled
    engine = LocalEngine(problem.devices, STREAMS, threads=cores)
    seconds, sums = [], []
    for round in range(1, rounds + 1):
        began = time.perf_counter()
        total = engine.sum(problem.query, round=round).sums["items"]
        seconds.append(time.perf_counter() - began)
        sums.append(total)
    return seconds, sums


def loop(problem: Problem, rounds: int, cores: int) -> Rounds:
    """Rounds of one client at a time, as one would write them first."""
    devices, query = problem.devices, problem.query
    everyone = devices.cohort(torch.arange(len(devices)))
    vectors = query.initial(everyone, STREAMS).dense["user"]
    torch.set_num_threads(_faster_threads(problem, vectors, cores))
    seconds, sums = [], []
    for round in range(1, rounds + 1):
        drawn = _drawn(query, everyone, round)
        began = time.perf_counter()
        total = _loop_round(problem, vectors, drawn, range(len(devices)))
        seconds.append(time.perf_counter() - began)
        sums.append(total)
    return seconds, sums


def _faster_threads(problem: Problem, vectors: Tensor, cores: int) -> int:
    """Whether the loop is faster on one thread or on all: operations this small may lose more than they win."""
    some = torch.arange(min(100, len(problem.devices)))
    drawn, seconds = _drawn(problem.query, problem.devices.cohort(some), 1), {}
    for threads in (cores, 1, cores, 1):  # the second time all is warm
        torch.set_num_threads(threads)
        began = time.perf_counter()
        _loop_round(problem, vectors.clone(), drawn, range(len(some)))
        seconds[threads] = time.perf_counter() - began
    return min(seconds, key=lambda threads: seconds[threads])


def _drawn(query: LocalTraining, cohort: Cohort, round: int) -> Tensor:
    """The negatives of every item of the cohort: [R, negatives]."""
    count = query.negatives
    user = cohort.owner.repeat_interleave(count)
    counter = torch.arange(len(user)) - cohort.indptr[user] * count
    draw = STREAMS.at(round)
    return negatives(draw, cohort.keys, cohort.indptr, cohort.items, user, counter, cohort.n_items).view(-1, count)


def _loop_round(problem: Problem, vectors: Tensor, drawn: Tensor, users: Sequence[int]) -> Tensor:
    devices, query = problem.devices, problem.query
    total = torch.zeros_like(query.items)
    ends: list[int] = devices.indptr.tolist()
    for user in users:
        own, sampled = devices.items[ends[user] : ends[user + 1]], drawn[ends[user] : ends[user + 1]]
        size = len(own)
        if size in (0, devices.n_items):
            continue
        touched, place = torch.unique(torch.cat([own, sampled.flatten()]), return_inverse=True)
        table = query.items[touched].requires_grad_()
        vector = vectors[user].clone().requires_grad_()
        embedding = 0.5 * (vector + table[place[:size]].sum(dim=0) / size**0.5)
        scores = table[place] @ embedding
        loss = (F.softplus(-scores[:size]).sum() + F.softplus(scores[size:]).sum()) / size**query.activity_power
        loss.backward()
        assert table.grad is not None
        assert vector.grad is not None
        vectors[user] -= query.user_rate * vector.grad
        total.index_add_(0, touched, table.grad, alpha=-query.item_rate)
    return total


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one contender and leave what it found in the folder of the problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["local", "loop", "flower"])
    parser.add_argument("folder", type=Path, help="holds the problem")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--cores", type=int, required=True)
    asked = parser.parse_args(arguments)
    if asked.name == "flower":
        seconds, sums = importlib.import_module("simulations.contender_flower").flower(
            asked.folder, asked.rounds, asked.cores
        )
    else:
        contender = {"local": local, "loop": loop}[asked.name]
        seconds, sums = contender(Problem.load(asked.folder), asked.rounds, asked.cores)
    torch.save({"sums": torch.stack(sums)}, asked.folder / f"{asked.name}.pt")
    found = {"seconds": seconds, "peak": peak_memory()}
    (asked.folder / f"{asked.name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
