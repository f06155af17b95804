"""Validation accuracy against seconds of training, as CSV and as a picture.

    python papers/he2020lightgcn/curve.py papers/he2020lightgcn/gowalla.toml path/to/gowalla

takes the looks at validation from <name>-history.csv, which is a run's history.csv, and measures what the start and an
epoch cost: all epochs do the same work. It writes <name>-curve.csv, a row a look, and <name>-curve.png. Seconds are
those of all cores together (`time.process_time`), so that what else the machine does hardly changes them.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import cast

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from fedrec.data import load_split
from fedrec.experiment.config import ExperimentConfig, read_config
from fedrec.recommenders import LightGCNConfig
from fedrec.recommenders.lightgcn import LightGCNLearner

TIMED = 2  # epochs whose mean is an epoch's cost; one more before them compiles what is compiled


def costs(config: ExperimentConfig) -> tuple[float, float]:
    """Seconds of the start, before the first epoch, and of an epoch."""
    train = load_split(config.data, config.seeds[0]).split.train
    settings = cast(LightGCNConfig, config.arms[0].method.settings)
    begun = time.process_time()
    learner = LightGCNLearner(settings, train, config.seeds[0], torch.device("cpu"))
    start = time.process_time() - begun
    learner.step(1)
    begun = time.process_time()
    for epoch in range(2, 2 + TIMED):
        learner.step(epoch)
    return start, (time.process_time() - begun) / TIMED


def looks(history: Path) -> list[tuple[int, float]]:
    """(epoch, validation value) of every look of the fit that chooses."""
    with history.open(newline="") as file:
        return [(int(row["round"]), float(row["value"])) for row in csv.DictReader(file) if row["name"] == "validation"]


def main(experiment: Path, data: str) -> None:
    """Measure, and write both files."""
    config = read_config(experiment, [f"data.path={data}"])
    metric = config.evaluation.metric
    start, epoch_cost = costs(config)
    found = looks(experiment.with_name(f"{experiment.stem}-history.csv"))
    rows = [(epoch, round(start + epoch * epoch_cost, 1), value) for epoch, value in found]
    with experiment.with_name(f"{experiment.stem}-curve.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("epoch", "seconds", metric))
        table.writerows(rows)
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([seconds for _, seconds, _ in rows], [value for *_, value in rows], marker="o", markersize=3)
    axes.set(xlabel="seconds of training, all cores together", ylabel=f"validation {metric}", title=experiment.stem)
    axes.set_xlim(0, None)
    axes.grid(alpha=0.3)
    figure.savefig(experiment.with_name(f"{experiment.stem}-curve.png"), dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
