"""What does a megabyte buy: refreshed layers, local steps, or fewer clients a round?

    python simulations/traffic.py --out runs/traffic

Two ways of training a graph recommender, one user a client. Exact LightGCN propagates over the whole graph, which takes
2L + 1 sums a step; it can use propagated layers for T steps (`refresh-T`). Ego LightGCN takes one sum a round; its
clients can take E local steps in it (`steps-E`), and a share of them can take part (`share-50`: one half). Every
setting trains for a fixed number of rounds and looks at the validation part now and then; the table's test column is of
the best look. It says besides how many megabytes a user had sent and fetched, looks included, when a setting's
validation NDCG@10 first was within a tenth of the best of all. The folder is that of an experiment with one arm a
setting; an interrupted one is finished when the command is given again. Prints a table and writes traffic.png. A few
minutes on two cores.
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

WITHIN = 0.9  # of the best validation value of all settings


def experiment(
    data: str,
    rounds: int,
    refresh: Sequence[int],
    steps: Sequence[int],
    shares: Sequence[float],
    seeds: Sequence[int],
) -> ExperimentConfig:
    """An arm for each setting. Training always goes on to the end: patience is as long as there are rounds."""
    looks = {"every": max(1, rounds // 20), "patience": rounds}
    exact: dict[str, Any] = {"kind": "exact-lightgcn", "rounds": rounds, "stopping": looks}
    ego: dict[str, Any] = {"kind": "ego-lightgcn", "rounds": rounds, "stopping": looks}
    arms: list[dict[str, Any]] = [
        {"name": f"refresh-{every}", "method": exact | {"refresh_every": every}} for every in refresh
    ]
    # What E local steps add up to is divided by E, so that they go about as far together as one does.
    arms += [{"name": f"steps-{n}", "method": ego | {"local_steps": n, "item_rate": 1 / n}} for n in steps]
    arms += [
        {"name": f"share-{100 * share:.0f}", "method": ego, "participation": {"rate": share}}
        for share in shares
        if share < 1
    ]
    return ExperimentConfig.read({"name": "traffic", "seeds": list(seeds), "data": {"name": data}, "arms": arms})


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


def curves(directory: RunDirectory) -> pd.DataFrame:
    """One row for each arm and look, the mean over seeds: megabytes up and down a user so far, validation NDCG@10."""
    history = pd.read_csv(directory.path / "history.csv")
    wide = history.pivot_table(index=["arm", "seed", "round"], columns="name", values="value", sort=False)
    costs = wide[["mb_up_per_user", "mb_down_per_user"]].groupby(["arm", "seed"], sort=False).cumsum()
    looks = costs.assign(validation=wide["validation"]).dropna()
    return looks.groupby(["arm", "round"], sort=False).mean().assign(mb=lambda rows: rows.iloc[:, :2].sum(axis=1))


def table(directory: RunDirectory, looks: pd.DataFrame) -> pd.DataFrame:
    """One row an arm: accuracy, what a round cost a user, and what it took to come near the best."""
    bar = WITHIN * looks["validation"].max()
    rows = {}
    for arm, found in directory.summary["arms"].items():
        own = looks.loc[arm]
        near = own.loc[own["validation"] >= bar, "mb"]
        costs = found["communication"]
        rows[arm] = {
            "NDCG@10, valid": own["validation"].max(),
            "NDCG@10, test": found["metrics"]["ndcg@10"]["mean"],
            "kB up a round": 1e3 * costs["mb_up_per_user"] / costs["rounds"],
            "kB down a round": 1e3 * costs["mb_down_per_user"] / costs["rounds"],
            f"MB to {bar:.4f}": near.iloc[0] if len(near) else float("nan"),
            "seconds": found["seconds"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def draw(looks: pd.DataFrame, path: Path) -> None:
    """Validation NDCG@10 against megabytes a user, one panel for each thing that can be saved on."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    arms = list(dict.fromkeys(looks.index.get_level_values("arm")))
    groups = {"refresh": "exact: layers used for T steps", "steps": "ego: E local steps", "share": "ego: a share q"}
    for axes, (prefix, title) in zip(panels, groups.items(), strict=True):
        shown = [arm for arm in arms if arm.startswith(prefix) or (prefix == "share" and arm == "steps-1")]
        for arm in shown:
            axes.plot(looks.loc[arm, "mb"], looks.loc[arm, "validation"], marker="o", markersize=3, label=arm)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("MB a user has sent and fetched")
        axes.set_xscale("log")
        if shown:
            axes.legend()
    panels[0].set_ylabel("NDCG@10, validation")
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
    parser.add_argument("--rounds", type=int, default=100, help="of training (default: 100)")
    parser.add_argument("--refresh", type=int, nargs="+", default=[1, 2, 4, 8], help="T of exact LightGCN")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4], help="E of ego LightGCN")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.1], help="shares of clients in a round")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/traffic"), help="folder of the run")
    asked = parser.parse_args(arguments)
    config = experiment(asked.data, asked.rounds, asked.refresh, asked.steps, asked.shares, asked.seeds)
    directory = finished(config, asked.out)
    looks = curves(directory)
    print(f"{asked.data}, {asked.rounds} rounds, {len(asked.seeds)} seed(s)")
    print(table(directory, looks).to_string(float_format=lambda value: f"{value:.4g}"))
    draw(looks, asked.out / "traffic.png")


if __name__ == "__main__":
    main()
