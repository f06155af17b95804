"""What README.md keeps of a run whose arms differ by method and epsilon: tables to paste, a CSV and a picture.

    python experiments/against_epsilon.py RUN experiments/results/NAME

An arm "private-METHOD-epsE" belongs to the arm "METHOD", which has no guarantee. `summary.csv` has a line for each arm
and seed, `accuracy.svg` the accuracy of all and of groups of users against epsilon.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedrec.report.canvas import PAPER, style, to_svg
from fedrec.report.palette import Mark, marks

METRIC = "ndcg@10"
OVERALL = (METRIC, "hit-rate@10", "coverage@10", "gini@10", "intra-list-diversity@10", "long-tail-share@10")
Arms = Mapping[str, Mapping[float, str]]
"""method -> epsilon, infinity without a guarantee -> name of the arm."""


def by_method(names: list[str]) -> dict[str, dict[float, str]]:
    """The arms of each method, the weakest guarantee first."""
    found: dict[str, dict[float, str]] = {}
    for name in names:
        private = re.fullmatch(r"private-(.+)-eps([0-9_]+)", name)
        method, epsilon = (private[1], float(private[2].replace("_", "."))) if private else (name, math.inf)
        found.setdefault(method, {})[epsilon] = name
    return {method: dict(sorted(of.items(), reverse=True)) for method, of in found.items()}


def number(value: float) -> str:
    """.1234, as the tables have it."""
    return f"{value:.4f}".removeprefix("0") if abs(value) < 1 else f"{value:.3f}"


def accuracy_table(arms: Arms, summary: Mapping[str, Any]) -> list[str]:
    """A row a method and a column an epsilon: mean over seeds and 95% interval over users."""
    epsilons = sorted({epsilon for of in arms.values() for epsilon in of}, reverse=True)
    rows = ["| | " + " | ".join("no guarantee" if math.isinf(e) else f"ε = {e:g}" for e in epsilons) + " |"]
    rows.append("|---" * (len(epsilons) + 1) + "|")
    for method, of in arms.items():
        cells = []
        for epsilon in epsilons:
            metric = summary["arms"][of[epsilon]]["metrics"][METRIC] if epsilon in of else None
            low, high = metric["ci95"] if metric else (0.0, 0.0)
            cells.append(f"{number(metric['mean'])} [{number(low)}, {number(high)}]" if metric else "")
        rows.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return rows


def other_table(arms: Arms, summary: Mapping[str, Any], items: Mapping[tuple[str, str, str], float]) -> list[str]:
    """A row an arm: how varied its lists are, and how its accuracy and exposure are shared out."""
    one = summary["arms"][next(iter(next(iter(arms.values())).values()))]
    groups = [(name, label) for name, part in one["groups"].items() for label in part["groups"]]
    measures = [name for name in OVERALL[2:5] if name in one["metrics"]]
    exposed = sorted({(metric, group) for _, metric, group in items})
    heads = [*measures, *(f"{name} = {label}" for name, label in groups)]
    heads += [f"{metric} {group}" for metric, group in exposed]
    rows = ["| | ε | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for method, of in arms.items():
        for epsilon, arm in of.items():
            found = summary["arms"][arm]
            cells = [number(found["metrics"][name]["mean"]) for name in measures]
            cells += [number(found["groups"][name]["groups"][label]["mean"]) for name, label in groups]
            cells += [number(items[arm, metric, group]) for metric, group in exposed]
            rows.append(
                f"| `{method}` | {'∞' if math.isinf(epsilon) else f'{epsilon:g}'} | " + " | ".join(cells) + " |"
            )
    return rows


def of_items(run: Path) -> dict[tuple[str, str, str], float]:
    """(arm, metric, group) -> mean over seeds, of what tells groups of items apart."""
    values: dict[tuple[str, str, str], list[float]] = {}
    with (run / "metrics.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            exposure = (row["metric"], row["group"]) == ("exposure-share@10", "popularity=high")
            if row["split"] == "test" and (
                exposure or (row["metric"], row["group"]) == ("provider-gini@10", "author_id")
            ):
                values.setdefault((row["arm"], row["metric"], row["group"]), []).append(float(row["value"]))
    return {key: sum(found) / len(found) for key, found in values.items()}


def write_summary(arms: Arms, summary: Mapping[str, Any], path: Path) -> None:
    """A line for each arm and seed."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["method", "epsilon", "seed", *OVERALL])
        for method, of in arms.items():
            for epsilon, arm in of.items():
                metrics = summary["arms"][arm]["metrics"]
                columns = [metrics[name]["per_seed"] if name in metrics else None for name in OVERALL]
                for seed in range(len(metrics[METRIC]["per_seed"])):
                    cells = ["" if column is None else round(column[seed], 6) for column in columns]
                    table.writerow([method, f"{epsilon:g}", seed, *cells])


def picture(arms: Arms, summary: Mapping[str, Any]) -> Figure:
    """The accuracy of everybody, and of each group, against epsilon; a line a method, with intervals over users."""
    looks = marks(list(arms))
    one = summary["arms"][next(iter(next(iter(arms.values())).values()))]
    groups = [(name, label) for name, part in one["groups"].items() for label in part["groups"]]
    with style():
        figure = Figure(figsize=(9.0, 6.4), layout="constrained")
        columns = max(2, math.ceil((len(groups) + 1) / 2))
        panels = figure.subplots(2, columns, sharey=True, sharex=True).flatten()
        for panel, group in zip(panels, [None, *groups], strict=False):
            for method, of in arms.items():
                line(panel, method, looks[method], {e: estimate(summary["arms"][arm], group) for e, arm in of.items()})
            panel.set_title("everybody" if group is None else f"{group[0]}: {group[1]}")
        for panel in panels[len(groups) + 1 :]:
            panel.set_visible(False)
        panels[0].set_ylim(bottom=0)
        figure.supxlabel("ε, on a logarithmic scale; rightmost: no guarantee")
        figure.supylabel("NDCG@10, mean over seeds and 95% interval over users")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=6)
    return figure


def estimate(arm: Mapping[str, Any], group: tuple[str, str] | None) -> tuple[float, float, float]:
    """Mean, and the ends of its interval."""
    found = arm["metrics"][METRIC] if group is None else arm["groups"][group[0]]["groups"][group[1]]
    return found["mean"], *found["ci95"]


def line(panel: Axes, method: str, look: Mark, values: Mapping[float, tuple[float, float, float]]) -> None:
    """One method; infinity stands two doublings right of the largest epsilon."""
    most = max((epsilon for epsilon in values if not math.isinf(epsilon)), default=1.0)
    across = [math.log2(4 * most if math.isinf(epsilon) else epsilon) for epsilon in values]
    mean, low, high = zip(*values.values(), strict=True)
    error = [[m - a for m, a in zip(mean, low, strict=True)], [b - m for m, b in zip(mean, high, strict=True)]]
    panel.errorbar(
        across,
        mean,
        yerr=[[max(0.0, one) for one in side] for side in error],
        color=look.colour,
        linestyle=look.dash,
        marker=look.shape,
        markersize=6,
        markeredgecolor=PAPER,
        linewidth=1.4,
        elinewidth=1,
        label=method,
    )
    panel.set_xticks(across, ["∞" if math.isinf(epsilon) else f"{epsilon:g}" for epsilon in values])


def main() -> None:
    """Read a run, write the files, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    summary = json.loads((given.run / "summary.json").read_text())
    arms = by_method(list(summary["arms"]))
    given.out.mkdir(parents=True, exist_ok=True)
    write_summary(arms, summary, given.out / "summary.csv")
    (given.out / "accuracy.svg").write_text(to_svg(picture(arms, summary)))
    tables = [*accuracy_table(arms, summary), "", *other_table(arms, summary, of_items(given.run))]
    sys.stdout.write("\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
