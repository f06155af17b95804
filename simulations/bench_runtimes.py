"""What does a round take on each runtime, and what does a node cost?

    python simulations/bench_runtimes.py --data ml-100k path/to/ml-1m/ratings.parquet --column user=user_id item=item_id

All users take one local step of ego LightGCN's default settings on the same item table, round after round, and keep
their vectors. Each runtime does the same rounds, after one that starts processes and compiles:

    local       `LocalEngine` in this process, on one thread
    ray-1       Flower's Ray simulation, all users on one worker
    ray-2       the same on two workers, each with half of the users
    one-user    a node for every user, behind `InProcessGrid`: what Flower's messages cost without its processes
    superlink   a SuperLink with TLS and node authentication, and three SuperNodes with a third of the users each. A
                SuperNode starts a process for every message (with --superlink)

Seconds are medians of rounds. `ms a node` is what a round takes beyond `local`, for each node. All come to the same sum
in every round. Prints a table for each data set; exit code 1 if the sums differ. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import tomli_w
import torch
from torch import Tensor

from fedrec.data import DATASETS, load_interactions, load_split, shard
from fedrec.data.loading import DataConfig
from fedrec.federated import (
    Dealt,
    Devices,
    Engine,
    EngineConfig,
    Federation,
    LocalEngine,
    ParticipationConfig,
)
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig
from fedrec.federated.queries import LocalTraining
from fedrec.flower import FlowerEngine, Holding, InProcessGrid, Post, client_app, greet
from fedrec.flower.rays import open_ray
from fedrec.streams import Streams
from simulations.deployment import Deployment

STREAMS = Streams(0)
TOLERANCE = 1e-4  # of the largest entry: sums of single-precision numbers in different orders
SUPERNODES = 3

Rounds = tuple[list[float], list[Tensor]]
"""Seconds and the summed change of the item table, by round."""


def timed(engine: Engine, query: LocalTraining, rounds: int) -> Rounds:
    """Ask an engine round after round; the first is not counted."""
    seconds, sums = [], []
    for round in range(1, rounds + 2):
        began = time.perf_counter()
        total = engine.sum(query, round=round).sums["items"]
        seconds.append(time.perf_counter() - began)
        sums.append(total)
    return seconds[1:], sums[1:]


def on_local(devices: Devices, query: LocalTraining, rounds: int) -> Rounds:
    """In this process, on one thread."""
    return timed(LocalEngine(devices, STREAMS, threads=1), query, rounds)


def on_ray(devices: Devices, query: LocalTraining, rounds: int, nodes: int) -> Rounds:
    """On Ray workers."""
    config = EngineConfig(kind="ray", nodes=nodes)
    with open_ray(Dealt(config, devices, STREAMS, ParticipationConfig(), None, 2)) as engine:
        return timed(engine, query, rounds)


def on_one_user_nodes(devices: Devices, query: LocalTraining, rounds: int) -> Rounds:
    """A node for every user, in this process."""
    held = [Holding(devices.take(torch.tensor([user])), "bench") for user in range(len(devices))]
    app = client_app(lambda config, _: held[int(config["number"])])
    post = Post(InProcessGrid(app, {n + 1: {"number": n} for n in range(len(held))}), timeout=3600.0)
    return timed(FlowerEngine(post, greet(post, len(held), 1.0), session="bench", seed=0), query, rounds)


def on_superlink(data: DataConfig, rounds: int) -> float:
    """Mean seconds of a round on SuperNodes."""
    experiment = {
        "name": "bench",
        "seeds": [0],
        "data": data.model_dump(exclude_defaults=True, mode="json"),
        "engine": {"kind": "flower", "nodes": SUPERNODES},
        "arms": [{"name": "bench", "method": {"kind": "ego-lightgcn", "rounds": rounds, "stopping": {"patience": 0}}}],
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "experiment.toml").write_text(tomli_w.dumps(experiment))
        shards = shard(load_interactions(data)[0], SUPERNODES, folder / "shards")
        with Deployment.of(folder / "deployment", shards, folder / "shards" / "catalogue.parquet") as deployment:
            command = [sys.executable, "-m", "fedrec.cli", "run", str(folder / "experiment.toml")]
            command += ["--superlink", deployment.address, "--out", str(folder / "run")]
            subprocess.run(command, env=deployment.environment(deployment.home), check=True, capture_output=True)
        return float(json.loads((folder / "run" / "summary.json").read_text())["arms"]["bench"]["seconds"]) / rounds


def measure(data: DataConfig, rounds: int, runtimes: Sequence[str]) -> pd.DataFrame:
    """One row a runtime."""
    train = load_split(data, seed=0).split.train
    devices, method = Devices.of(train), EgoLightGCN(EgoLightGCNConfig())
    query = method.memory(method.start(Federation(train.n_users, train.n_items, STREAMS)))
    print(f"{data.name or data.path}: {train.n_users:,} users, {len(train):,} interactions", flush=True)
    offered: dict[str, tuple[int, Callable[[], Rounds]]] = {
        "local": (0, lambda: on_local(devices, query, rounds)),
        "ray-1": (1, lambda: on_ray(devices, query, rounds, 1)),
        "ray-2": (2, lambda: on_ray(devices, query, rounds, 2)),
        "one-user": (len(devices), lambda: on_one_user_nodes(devices, query, rounds)),
    }
    rows: dict[str, dict[str, float]] = {}
    expected: list[Tensor] = []
    for name in ("local", *(name for name in runtimes if name != "local")):
        if name == "superlink":
            nodes, seconds, difference = SUPERNODES, on_superlink(data, rounds), float("nan")
        else:
            nodes, run = offered[name]
            times, sums = run()
            seconds, expected = statistics.median(times), expected or sums
            largest = max(float((one - other).abs().max()) for one, other in zip(sums, expected, strict=True))
            difference = largest / float(expected[0].abs().max())
        beyond = seconds - rows["local"]["seconds"] if rows else 0.0
        rows[name] = {
            "nodes": nodes,
            "seconds": seconds,
            "times local": seconds / rows["local"]["seconds"] if rows else 1.0,
            "ms a node": 1000 * beyond / nodes if nodes else float("nan"),
            "difference": difference,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def verdict(rows: pd.DataFrame) -> list[str]:
    """What falls short, a line each. SuperNodes are not handed a table to sum, and have no difference."""
    return [
        f"{name} comes to another sum: {difference:.1e} of the largest entry apart"
        for name, difference in rows["difference"].dropna().items()
        if not difference <= TOLERANCE
    ]


def config_of(data: str, columns: Sequence[str]) -> DataConfig:
    """A data set's name, or a path and what its columns are called."""
    if data in DATASETS or data == "synthetic":
        return DataConfig.model_validate({"name": data})
    named = dict(column.partition("=")[::2] for column in columns)
    return DataConfig.model_validate({"path": data, "columns": named} if named else {"path": data})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every runtime on every data set, and print the tables."""
    description, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["ml-100k"], help="names or paths (default: ml-100k)")
    parser.add_argument(
        "--column", nargs="*", default=[], metavar="user=NAME", help="what the files' columns are called"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each runtime, after the first (default: 3)")
    parser.add_argument("--runtimes", nargs="*", default=["ray-1", "ray-2", "one-user"], help="beside local")
    parser.add_argument("--superlink", action="store_true", help="also on a SuperLink with three SuperNodes")
    asked = parser.parse_args(arguments)
    short = []
    for data in asked.data:
        runtimes = [*asked.runtimes, *(["superlink"] if asked.superlink else [])]
        rows = measure(config_of(data, asked.column), asked.rounds, runtimes)
        print(rows.to_string(float_format=lambda value: f"{value:.4g}"), flush=True)
        if {"ray-1", "ray-2"} <= set(rows.index):
            seconds = rows["seconds"].to_dict()
            speedup = seconds["ray-1"] / seconds["ray-2"]
            print(f"two workers are {speedup:.2f} times as fast as one")
        short += verdict(rows)
    print("\n".join(short) or "the same sums everywhere")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
