"""Validation accuracy against seconds of training, as CSV and as a picture.

    python papers/he2020lightgcn/curve.py papers/he2020lightgcn/gowalla.toml path/to/gowalla

trains the experiment's arm on its training part and writes <name>-curve.csv, a row a look, and <name>-curve.png beside
the experiment. Seconds are those of all cores together, spent on learning alone (`time.process_time`): what else the
machine does at the time hardly changes them.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import cast

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from fedrec.data import Split, load_split
from fedrec.evaluation import evaluate
from fedrec.experiment.config import read_config
from fedrec.recommenders import LightGCNConfig
from fedrec.recommenders.lightgcn import LightGCNLearner

EVERY = 4  # epochs from one look to the next
METRICS = ("recall@20", "ndcg@20")


def measure(experiment: Path, data: str) -> list[dict[str, float]]:
    """Train, looking every so often; rows of epoch, seconds and metrics."""
    config = read_config(experiment, [f"data.path={data}"])
    split = load_split(config.data, config.seeds[0]).split
    # A look is the test of a split whose test is the validation part.
    looked = Split(split.train, split.valid.take(np.arange(0)), split.valid)
    settings = cast(LightGCNConfig, config.arms[0].method.settings)
    rows: list[dict[str, float]] = []

    def look(epoch: int, seconds: float) -> None:
        found = evaluate(learner.score, looked, config.evaluation, config.seeds[0])
        value = {row.metric: row.value for row in found.rows if not row.group}
        rows.append({"epoch": epoch, "seconds": round(seconds, 1), **{name: value[name] for name in METRICS}})
        write(experiment, rows)

    begun = time.process_time()
    learner = LightGCNLearner(settings, split.train, config.seeds[0], torch.device("cpu"))
    seconds = time.process_time() - begun
    look(0, seconds)
    for epoch in range(1, settings.epochs + 1):
        begun = time.process_time()
        learner.step(epoch)
        seconds += time.process_time() - begun
        if epoch % EVERY == 0 or epoch == settings.epochs:
            look(epoch, seconds)
    return rows


def write(experiment: Path, rows: list[dict[str, float]]) -> None:
    """The rows so far."""
    with experiment.with_name(f"{experiment.stem}-curve.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def draw(experiment: Path, rows: list[dict[str, float]]) -> None:
    """The picture: one line a metric."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name in METRICS:
        axes.plot([row["seconds"] for row in rows], [row[name] for row in rows], marker="o", markersize=3, label=name)
    axes.set(
        xlabel="seconds of training, all cores together", ylabel="validation", title=experiment.stem, ylim=(0, None)
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(experiment.with_name(f"{experiment.stem}-curve.png"), dpi=150)


if __name__ == "__main__":
    toml = Path(sys.argv[1])
    draw(toml, measure(toml, sys.argv[2]))
