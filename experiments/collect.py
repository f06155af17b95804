"""What README.md keeps of a finished run: two small tables as CSV, and one to paste.

    python experiments/collect.py RUN experiments/results/NAME [--also RUN ...]

`summary.csv` has the metrics of every arm and seed, `trials.csv` every setting that was tried. The table on the screen
has a column for each run named after `--also`: the same settings on another split, and how far its order agrees
(Kendall's τ).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

MEASURES = ("hit-rate@10", "ndcg@10", "recall@20", "ndcg@20", "coverage@10", "gini@10")
OF_TRIALS = ("number", "state", "value", "best_step", "note")  # the other columns of a log are settings


def validation(run: Path) -> dict[str, list[float]]:
    """The value on validation of each arm, a number a seed."""
    values = defaultdict(list)
    with (run / "metrics.csv").open() as lines:
        for row in csv.DictReader(lines):
            if row["split"] == "valid":
                values[row["arm"]].append(float(row["value"]))
    return values


def write_summary(run: Path, arms: dict[str, Any], path: Path) -> None:
    """A line for each arm and seed."""
    chosen = validation(run)
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["arm", "seed", "validation ndcg@10", *MEASURES])
        for arm, result in arms.items():
            columns = [chosen[arm], *(result["metrics"][name]["per_seed"] for name in MEASURES)]
            for seed, values in enumerate(zip(*columns, strict=True)):
                table.writerow([arm, seed, *(round(value, 6) for value in values)])


def write_trials(run: Path, arms: dict[str, Any], path: Path) -> None:
    """A line for each setting that was tried."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["arm", "number", "state", "validation ndcg@10", "best step", "settings", "note"])
        for arm in arms:
            log = run / "arms" / arm / "trials.csv"
            if not log.exists():  # the arm has no search
                continue
            with log.open() as lines:
                for row in csv.DictReader(lines):
                    names = [name for name in row if name not in OF_TRIALS]
                    settings = "; ".join(f"{name.removeprefix('method.')} = {row[name]}" for name in names)
                    value = f"{float(row['value']):.5f}" if row["value"] else ""
                    table.writerow([arm, row["number"], row["state"], value, row["best_step"], settings, row["note"]])


def print_table(run: Path, summary: dict[str, Any], others: list[dict[str, Any]]) -> None:
    """Arms from best to worst on test, and how other splits order them."""
    arms = summary["arms"]
    chosen = validation(run)
    order = sorted(arms, key=lambda arm: -arms[arm]["metrics"]["ndcg@10"]["mean"])
    for arm in order:
        metrics = arms[arm]["metrics"]
        ndcg = metrics["ndcg@10"]
        low, high = ndcg["ci95"]
        cells = [
            f"`{arm}`",
            short(statistics.mean(chosen[arm])) if chosen[arm] else "",
            short(metrics["hit-rate@10"]["mean"]),
            f"{short(ndcg['mean'])} [{short(low)}, {short(high)}]",
            short(ndcg["seed_deviation"]),
            short(metrics["coverage@10"]["mean"], 3),
            str((arms[arm]["tuning"] or {"trials": 0})["trials"]),
            *(short(other["arms"][arm]["metrics"]["ndcg@10"]["mean"]) for other in others),
        ]
        print("| " + " | ".join(cells) + " |")
    rankings = [[of["arms"][arm]["metrics"]["ndcg@10"]["mean"] for arm in order] for of in (summary, *others)]
    for (i, one), (j, other) in itertools.combinations(enumerate(rankings), 2):
        print(f"Kendall's tau of runs {i} and {j}: {kendalltau(one, other).statistic:.2f}")


def short(value: float, digits: int = 4) -> str:
    """.0123 for 0.0123."""
    return f"{value:.{digits}f}".removeprefix("0")


def main() -> None:
    """Read the command line, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("out", type=Path, help="where the two files go")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="runs of the same arms on other splits")
    given = parser.parse_args()
    summary, *others = (json.loads((run / "summary.json").read_text()) for run in (given.run, *given.also))
    given.out.mkdir(parents=True, exist_ok=True)
    write_summary(given.run, summary["arms"], given.out / "summary.csv")
    write_trials(given.run, summary["arms"], given.out / "trials.csv")
    print_table(given.run, summary, others)


if __name__ == "__main__":
    main()
