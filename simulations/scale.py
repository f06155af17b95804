"""How do time and memory of a round grow with the number of clients?

    python simulations/scale.py

Full rounds of ego LightGCN (d = 32, one local step, otherwise the default settings) on synthetic clients: 50,000 items,
about 20 interactions a client, one user a client. Each size is measured in a process of its own:

    first, second    seconds of the first round, in which every client draws its vector, and of the next
    us a client      microseconds a client of the slower one: constant if time is linear
    held MB          the clients' data and private state, the latter twice, since a round can be taken back
    round MB         what the rounds took beyond what is held: does not grow with the number of clients
    peak MB          the most memory that the process had, from drawing the clients to the end

Prints a table and writes scale.png. Exit code 1 if a round of the largest size takes 90 seconds or 4 GB or more. A few
minutes for a million clients.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import psutil
import torch
from matplotlib.figure import Figure

from fedrec.data.synthetic import SyntheticConfig, generate
from fedrec.federated import Devices, Federation, LocalEngine
from fedrec.federated.methods.ego_lightgcn import EgoLightGCN, EgoLightGCNConfig
from fedrec.streams import Streams
from simulations.processes import environment, forget_peak, peak_memory

SECONDS, MEGABYTES = 90.0, 4000.0  # what a round of the largest size must stay below
STREAMS = Streams(0)


def measure(clients: int, items: int, dim: int, cores: int) -> dict[str, float]:
    """Two rounds of some number of clients, in this process."""
    devices = Devices.of(generate(SyntheticConfig(users=clients, items=items, interactions=20, communities=10)))
    method = EgoLightGCN(EgoLightGCNConfig(dim=dim))
    query = method.memory(method.start(Federation(clients, items, STREAMS)))
    LocalEngine(devices.take(torch.arange(8)), STREAMS).sum(query, round=1)  # compiles, or loads what was compiled
    before, drawing = psutil.Process().memory_info().rss, peak_memory()
    forget_peak()
    engine = LocalEngine(devices, STREAMS, threads=cores)
    seconds = []
    for round in (1, 2):
        began = time.perf_counter()
        totals = engine.sum(query, round=round)
        seconds.append(time.perf_counter() - began)
        assert totals.answered == clients
    peak = peak_memory()
    data = sum(tensor.nbytes for tensor in (devices.keys, devices.indptr, devices.items))
    state = 2 * clients * dim * query.items.element_size()
    return {
        "clients": clients,
        "interactions": len(devices.items),
        "first": seconds[0],
        "second": seconds[1],
        "us a client": max(seconds) / clients * 1e6,
        "held MB": (data + state) / 1e6,
        "round MB": (peak - before - state) / 1e6,
        "peak MB": max(peak, drawing) / 1e6,
    }


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Seconds and megabytes against the number of clients, on logarithmic axes."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    times, memory = figure.subplots(1, 2)
    for column in ("first", "second"):
        times.plot(rows["clients"], rows[column], marker="o", label=f"{column} round")
    for column in ("peak MB", "held MB", "round MB"):
        memory.plot(rows["clients"], rows[column], marker="o", label=column.removesuffix(" MB"))
    for axes, what in ((times, "seconds"), (memory, "megabytes")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("clients")
        axes.set_ylabel(what)
        axes.legend()
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every size, print the table, draw the picture."""
    description, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [1_000, 10_000, 100_000, 1_000_000]
    parser.add_argument("--clients", type=int, nargs="+", default=sizes, help="default: 1000 to a million, in tens")
    parser.add_argument("--items", type=int, default=50_000, help="size of the catalogue (default: 50000)")
    parser.add_argument("--dim", type=int, default=32, help="embedding width (default: 32)")
    parser.add_argument("--cores", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/scale"), help="folder of the picture")
    parser.add_argument("--here", action="store_true", help="one size, in this process, as JSON")
    asked = parser.parse_args(arguments)
    if asked.here:
        print(json.dumps(measure(asked.clients[0], asked.items, asked.dim, asked.cores)))
        return 0
    rows = pd.DataFrame([_elsewhere(clients, asked) for clients in sorted(asked.clients)])
    print(rows.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    asked.out.mkdir(parents=True, exist_ok=True)
    draw(rows, asked.out / "scale.png")
    largest = rows.iloc[-1]
    slow, large = max(largest["first"], largest["second"]) >= SECONDS, largest["peak MB"] >= MEGABYTES
    print(f"{int(largest['clients']):,} clients: " + ("falls short" if slow or large else "below 90 seconds and 4 GB"))
    return 1 if slow or large else 0


def _elsewhere(clients: int, asked: argparse.Namespace) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "simulations.scale", "--here", "--clients", str(clients)]
    command += ["--items", str(asked.items), "--dim", str(asked.dim), "--cores", str(asked.cores)]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    print(f"{clients:,} clients: {max(found['first'], found['second']):.3g} s", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
