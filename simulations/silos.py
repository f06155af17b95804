"""What do silos do to accuracy: who is in which, how many there are, and how long each trains by itself?

    python simulations/silos.py --out runs/silos

Ego LightGCN on users grouped by different rules, against one user a client. Within a silo users share one copy of the
item table, on which the gradients of all of them add up, so the local rate is divided by the mean number of users in a
silo. With one local step the sum of all answers is then the same whoever is in which silo, times that rate, which Adam
at the server takes out but for its epsilon; with more steps silos drift apart. Drift is the share of the clients'
movement that cancels in the sum, 1 − ‖Σ Δ_c‖ / Σ ‖Δ_c‖, in the round after the last.

The number of rounds is fixed beforehand and the test part is looked at once, so that nothing is selected. The folder is
that of an experiment with one arm a setting; an interrupted one is finished when the command is given again. Prints a
table and writes silos.png. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file

from fedrec.data import Interactions, load_split
from fedrec.errors import ConfigError
from fedrec.experiment import ArmConfig, ExperimentConfig, RunDirectory, resume, run
from fedrec.federated import Ask, Devices, LocalEngine, PopulationConfig, Rows
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig
from fedrec.federated.population import silos_of
from fedrec.streams import Streams


def populations(train: Interactions, numbers: Sequence[int]) -> dict[str, dict[str, Any]]:
    """One user a client, and silos by every rule that the data have columns for."""
    silos = {"kind": "silos"}
    found: dict[str, dict[str, Any]] = {"users": {"kind": "users"}}
    for number in numbers:
        found[f"random-{number}"] = silos | {"rule": "random", "silos": number}
        if "genres" in train.item_attributes.columns:
            skewed = {"rule": "dirichlet", "by": "genres", "alpha": 0.1, "silos": number}
            found[f"dirichlet-{number}"] = silos | skewed
    found[f"louvain-{min(numbers)}"] = silos | {"rule": "louvain", "silos": min(numbers), "resolution": 1.5}
    for column in ("occupation", "group"):
        if column in train.user_attributes.columns:
            found[column] = silos | {"rule": "attribute", "by": column}
    return found


def experiment(
    data: str, rounds: int, steps: Sequence[int], numbers: Sequence[int], seeds: Sequence[int]
) -> ExperimentConfig:
    """An arm for each population and each number of local steps."""
    document: dict[str, Any] = {"name": "silos", "seeds": list(seeds), "data": {"name": data}}
    document |= {"evaluation": {"k": [10], "groups": []}, "arms": [{"name": "any", "method": {"kind": "popularity"}}]}
    train = load_split(ExperimentConfig.read(document).data, seeds[0]).split.train
    document["arms"] = []
    for label, population in populations(train, numbers).items():
        silo = silos_of(PopulationConfig.model_validate(population), train, seeds[0])
        clients = train.n_users if silo is None else int(silo.max()) + 1
        for number in steps:
            method = {
                "kind": "ego-lightgcn",
                "rounds": rounds,
                "local_steps": number,
                "item_rate": clients / train.n_users,
                "stopping": {"every": rounds, "patience": 0},
            }
            arm = {"name": f"{label}-E{number}", "method": method, "population": population}
            document["arms"].append(arm)
    return ExperimentConfig.read(document)


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


def drift(arm: ArmConfig, train: Interactions, seed: int, model: Path) -> tuple[int, float]:
    """The number of clients, and the share of their movement that cancels: 0 if all pull one way."""
    assert arm.population is not None  # every arm is federated
    tensors = load_file(model)
    assert isinstance(arm.method.settings, EgoLightGCNConfig)  # as `document` has it
    method = EgoLightGCN(arm.method.settings)
    engine = LocalEngine(Devices.of(train, silo=silos_of(arm.population, train, seed)), Streams(seed))
    engine.restore({name.removeprefix("users/"): t for name, t in tensors.items() if name.startswith("users/")})
    items = tensors["server/items"]
    total, length = torch.zeros_like(items), 0.0
    for answer in Ask(engine, method.rounds + 1).answers(method.memory({"items": items})):
        rows = answer.contributions["items"]
        assert isinstance(rows, Rows)
        rows.add_to(total, None)
        length += float(rows.value.norm())
    return len(engine.devices.client_keys), 1.0 - float(total.norm()) / length


def table(directory: RunDirectory) -> pd.DataFrame:
    """One row an arm: accuracy, drift with the first seed, costs."""
    config = directory.config
    seed, rows = config.seeds[0], {}
    train = load_split(config.data, seed).split.train
    for arm in config.arms:
        found = directory.summary["arms"][arm.name]
        metrics, costs = found["metrics"], found["communication"]
        clients, cancelled = drift(arm, train, seed, directory.arm(arm.name, seed).path / "model.safetensors")
        rows[arm.name] = {
            "clients": clients,
            "NDCG@10": metrics["ndcg@10"]["mean"],
            "HR@10": metrics["hit-rate@10"]["mean"],
            "drift": cancelled,
            "MB up": costs["mb_up_per_user"],
            "MB down": costs["mb_down_per_user"],
            "seconds": found["seconds"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def draw(rows: pd.DataFrame, steps: Sequence[int], path: Path) -> None:
    """NDCG@10 and drift of each population, a bar for each number of local steps."""
    labels = [name.removesuffix(f"-E{steps[0]}") for name in rows.index if name.endswith(f"-E{steps[0]}")]
    figure = Figure(figsize=(8, 6), layout="constrained")
    for axes, column in zip(figure.subplots(2, 1, sharex=True), ("NDCG@10", "drift"), strict=True):
        for place, number in enumerate(steps):
            left = [x + (place - (len(steps) - 1) / 2) * 0.8 / len(steps) for x in range(len(labels))]
            heights = rows.loc[[f"{label}-E{number}" for label in labels], column]
            axes.bar(left, heights, width=0.8 / len(steps), label=f"local steps: {number}")
        axes.set_xticks(range(len(labels)), labels, rotation=20)
        axes.set_ylabel(column)
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
    parser.add_argument("--rounds", type=int, default=30, help="of training (default: 30)")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4], help="local steps (default: 1 4)")
    parser.add_argument("--silos", type=int, nargs="+", default=[5, 50], help="numbers of silos (default: 5 50)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/silos"), help="folder of the run")
    asked = parser.parse_args(arguments)
    config = experiment(asked.data, asked.rounds, asked.steps, asked.silos, asked.seeds)
    rows = table(finished(config, asked.out))
    print(f"{asked.data}, {asked.rounds} rounds, {len(asked.seeds)} seed(s)")
    print(rows.to_string(float_format=lambda value: f"{value:.4g}"))
    draw(rows, asked.steps, asked.out / "silos.png")


if __name__ == "__main__":
    main()
