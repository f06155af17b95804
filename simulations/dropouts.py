"""How much accuracy is lost when clients drop out of a round, or answer late?

    python simulations/dropouts.py --out runs/dropouts

Ego LightGCN, one user a client, everyone drawn in every round. A share of them is lost before answering, or answers
some rounds late, and late answers are discarded, or folded into the sum that is being taken when they arrive. The
number of rounds is fixed beforehand and the test part is looked at once, so that nothing is selected. The folder is
that of an experiment with one arm a setting; an interrupted one is finished when the command is given again. Prints a
table and writes dropouts.png. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fedrec.errors import ConfigError
from fedrec.experiment import ExperimentConfig, RunDirectory, resume, run

KINDS = ("dropout", "late-discarded", "late-folded")


def participation(kind: str, rate: float, delay: int) -> dict[str, Any]:
    """Everyone is drawn; a share drops out or is late."""
    if kind == "dropout":
        return {"dropout": rate}
    return {"straggler": rate, "delay": delay, "late": "fold" if kind == "late-folded" else "discard"}


def experiment(data: str, rounds: int, rates: Sequence[float], delay: int, seeds: Sequence[int]) -> ExperimentConfig:
    """An arm for each way of failing and each share of clients that do, and one in which nobody fails."""
    method = {"kind": "ego-lightgcn", "rounds": rounds, "stopping": {"every": rounds, "patience": 0}}
    arms = [{"name": "nobody-fails", "method": method}]
    arms += [
        {"name": f"{kind}-{100 * rate:.0f}", "method": method, "participation": participation(kind, rate, delay)}
        for kind in KINDS
        for rate in rates
    ]
    document: dict[str, Any] = {"name": "dropouts", "seeds": list(seeds), "data": {"name": data}, "arms": arms}
    return ExperimentConfig.read(document | {"evaluation": {"k": [10], "groups": []}})


def finished(config: ExperimentConfig, folder: Path) -> RunDirectory:
    """The run of an experiment, begun or finished now if it is not."""
    directory = RunDirectory(folder)
    if not directory.begun:
        run(config, folder)
    elif directory.config != config:
        raise ConfigError(f"{folder}: holds a run with other settings; choose another --out")
    else:
        resume(folder)
    return directory


def table(directory: RunDirectory) -> pd.DataFrame:
    """One row an arm: accuracy, how many answered, what it cost."""
    history = pd.read_csv(directory.path / "history.csv")
    per_round = history.pivot_table(index="arm", columns="name", values="value", sort=False)
    rows = {}
    for arm, found in directory.summary["arms"].items():
        metrics, costs = found["metrics"], found["communication"]
        rows[arm] = {
            "NDCG@10": metrics["ndcg@10"]["mean"],
            "HR@10": metrics["hit-rate@10"]["mean"],
            "answered": per_round.loc[arm, "answered"],
            "late": per_round.loc[arm, "late"],
            "MB up": costs["mb_up_per_user"],
            "MB down": costs["mb_down_per_user"],
            "seconds": found["seconds"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def draw(rows: pd.DataFrame, rates: Sequence[float], delay: int, path: Path) -> None:
    """NDCG@10 against the share of clients that fail, a line for each way of failing."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for kind in KINDS:
        arms = ["nobody-fails", *(f"{kind}-{100 * rate:.0f}" for rate in rates)]
        axes.plot([0.0, *rates], rows.loc[arms, "NDCG@10"], marker="o", label=kind)
    axes.set_xlabel(f"share of clients that drop out, or answer {delay} rounds late")
    axes.set_ylabel("NDCG@10, test")
    axes.set_ylim(0, 1.1 * rows["NDCG@10"].max())
    axes.legend()
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done yet, print the table, draw the picture."""
    description, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", default="ml-100k", help="a data set of the catalogue, or synthetic (default: ml-100k)"
    )
    parser.add_argument("--rounds", type=int, default=75, help="of training (default: 75)")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3, 0.6, 0.9], help="shares that fail")
    parser.add_argument("--delay", type=int, default=5, help="rounds by which late answers are late (default: 5)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/dropouts"), help="folder of the run")
    asked = parser.parse_args(arguments)
    config = experiment(asked.data, asked.rounds, asked.rates, asked.delay, asked.seeds)
    rows = table(finished(config, asked.out))
    print(f"{asked.data}, {asked.rounds} rounds, late by {asked.delay}, {len(asked.seeds)} seed(s)")
    print(rows.to_string(float_format=lambda value: f"{value:.4g}"))
    draw(rows, asked.rates, asked.delay, asked.out / "dropouts.png")


if __name__ == "__main__":
    main()
