"""How fast is a full round of ego LightGCN, one user a client, and what else would one round take?

    python simulations/bench_round.py --data ml-100k
    python simulations/bench_round.py --data path/to/ratings.parquet

All users take one local step of the method's default settings (d = 64, BCE, 4 negatives an item) on the same item
table, round after round, and keep their vectors. Three contenders, each in a process of its own, one after the other:

    local    `LocalEngine`, on all cores: draws, trains, checks and adds up
    loop     PyTorch with autograd, one client at a time, on the rows that the client touches, on one thread or on all,
             whichever is faster; its negatives are drawn beforehand and not timed
    flower   Flower's Ray simulation, one user a node and one warm actor a core: each node answers the same query with
             the same `contribute` and sends only the rows that changed

Seconds are medians of rounds, after a warm-up that compiles and loads; memory is the peak of the process, and for
flower that of all its processes together. In every round the three must come to the same sum. Prints a table and writes
bench_round.png. Exit code 1 if `local` is less than 100 times as fast as `flower` or less than 4 times as fast as
`loop`, or if the sums differ. About three minutes on two cores for MovieLens-100K, and a quarter of an hour for
MovieLens-1M.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from simulations.contenders import Problem
from simulations.processes import TreeMemory, environment

BARS = {"flower": 100.0, "loop": 4.0}  # how many times as fast `local` must be
TOLERANCE = 1e-4  # of the largest entry: sums of thousands of single-precision numbers in different orders


def compete(name: str, folder: Path, rounds: int, cores: int) -> dict[str, float]:
    """Run one contender in a process of its own.

    Raises:
        CalledProcessError: if it fails.
    """
    command = [sys.executable, "-m", "simulations.contenders", name, str(folder)]
    command += ["--rounds", str(rounds), "--cores", str(cores)]
    with subprocess.Popen(command, env=environment()) as process, TreeMemory(process.pid) as tree:
        if process.wait() != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
    found = json.loads((folder / f"{name}.json").read_text())
    return {
        "rounds": rounds,
        "seconds": statistics.median(found["seconds"]),
        "fastest": min(found["seconds"]),
        "slowest": max(found["seconds"]),
        "peak MB": (tree.peak if name == "flower" else found["peak"]) / 1e6,
    }


def largest_difference(folder: Path, name: str) -> float:
    """Between a contender's sums and those of `local`, over the rounds that both did, as a share of the largest."""
    mine, other = (torch.load(folder / f"{each}.pt")["sums"] for each in ("local", name))
    both = min(len(mine), len(other))
    return float((mine[:both] - other[:both]).abs().max() / mine[:both].abs().max())


def run(problem: Problem, rounds: Mapping[str, int], cores: int) -> pd.DataFrame:
    """One row a contender that is given any rounds."""
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        problem.save(folder)
        for name, number in rounds.items():
            if number:
                rows[name] = compete(name, folder, number, cores)
                rows[name]["times local"] = rows[name]["seconds"] / rows["local"]["seconds"]
                rows[name]["difference"] = largest_difference(folder, name)
    return pd.DataFrame.from_dict(rows, orient="index")


def verdict(rows: pd.DataFrame) -> list[str]:
    """What falls short, a line each."""
    times = rows["times local"].to_dict()
    short = [
        f"local is {times[name]:.1f} times as fast as {name}, and should be {bar:g} times"
        for name, bar in BARS.items()
        if name in times and not times[name] >= bar
    ]
    return short + [
        f"{name} comes to another sum: {difference:.1e} of the largest entry apart"
        for name, difference in rows["difference"].items()
        if not difference <= TOLERANCE
    ]


def draw(rows: pd.DataFrame, title: str, path: Path) -> None:
    """Seconds a round, a bar each, on a logarithmic axis."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(rows.index[::-1], rows["seconds"][::-1])
    labels = [
        f"{seconds:.3g} s" if ratio == 1 else f"{seconds:.3g} s, {ratio:.0f} times"
        for seconds, ratio in zip(rows["seconds"][::-1], rows["times local"][::-1], strict=True)
    ]
    axes.bar_label(bars, labels, padding=3)
    axes.set_xscale("log")
    axes.set_xlim(rows["seconds"].min() / 3, rows["seconds"].max() * 20)
    axes.set_xlabel("seconds a round")
    axes.set_title(title)
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the contenders, print the table, draw the picture."""
    description, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", default="ml-100k", help="a data set of the catalogue, synthetic, or a path (default: ml-100k)"
    )
    parser.add_argument("--local-rounds", type=int, default=9, help="of local (default: 9)")
    parser.add_argument("--loop-rounds", type=int, default=3, help="of loop (default: 3)")
    parser.add_argument("--ray-rounds", type=int, default=3, help="of flower; 0 leaves it out (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="threads of local and loop, actors of flower (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-round"), help="folder of the picture")
    asked = parser.parse_args(arguments)
    problem = Problem.of(asked.data)
    rounds = {"local": asked.local_rounds, "loop": asked.loop_rounds, "flower": asked.ray_rounds}
    title = f"{asked.data}: {len(problem.devices):,} clients, {len(problem.devices.items):,} interactions, "
    title += f"{asked.cores} cores"
    print(title, flush=True)
    rows = run(problem, rounds, asked.cores)
    print(rows.to_string(float_format=lambda value: f"{value:.4g}"))
    asked.out.mkdir(parents=True, exist_ok=True)
    draw(rows, title, asked.out / "bench_round.png")
    short = verdict(rows)
    print("\n".join(short) or "fast enough, and the same sums" + ("" if asked.ray_rounds else "; flower was left out"))
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
