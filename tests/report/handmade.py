"""A run directory written by hand: what `fedrec run` leaves behind, at the size of MovieLens-100K."""

from __future__ import annotations

import copy
import csv
import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fedrec.privacy import Gaussian, Guarantee, Ledger, Release

CONFIG = """\
name = "quickstart"
seeds = [0, 1, 2]

[data]
name = "ml-100k"

[data.clean]
invalid = "error"
duplicates = "last"
k_core = 1

[data.split]
kind = "leave-one-out"
order = "time"

[evaluation]
k = [10, 20]
metric = "ndcg@10"
groups = "auto"
bootstrap = 1000

[[arms]]
name = "popularity"

[arms.method]
kind = "popularity"

[arms.population]
kind = "users"

[[arms]]
name = "central"

[arms.method]
kind = "lightgcn"
dim = 64
layers = 3
loss = "softmax"

[[arms]]
name = "federated"

[arms.method]
kind = "ego-lightgcn"
dim = 64
rounds = 100

[arms.population]
kind = "users"

[arms.participation]
sampling = "poisson"
rate = 1.0

[[arms]]
name = "federated-dp"

[arms.method]
kind = "spectral"
factors = 32

[arms.population]
kind = "users"

[arms.privacy]
epsilon = 8.0
delta = 1e-5
trust = "central"

[engine]
kind = "local"
randomness = "seeded"
"""

SEEDS = {0: 0.98, 1: 1.0, 2: 1.02}  # seed -> its values relative to the mean

Row = tuple[str | int | float, ...]

# metric -> the mean of each arm in order; intervals and seeds are spread around it
MEANS: dict[str, tuple[float, float, float, float]] = {
    "ndcg@10": (0.0436, 0.0684, 0.0647, 0.0312),
    "recall@10": (0.0848, 0.1351, 0.1279, 0.0640),
    "hit-rate@10": (0.0848, 0.1351, 0.1279, 0.0640),
    "precision@10": (0.0085, 0.0135, 0.0128, 0.0064),
    "mrr@10": (0.0312, 0.0484, 0.0456, 0.0215),
    "novelty@10": (8.62, 9.71, 9.44, 10.83),
    "intra-list-diversity@10": (0.7021, 0.6412, 0.6563, 0.7344),
    "coverage@10": (0.0530, 0.4127, 0.3389, 0.6215),
    "gini@10": (0.9841, 0.8612, 0.8933, 0.7420),
}
RELATIVE_WIDTH = 0.12  # half an interval, relative to its mean
ARMS = ("popularity", "central", "federated", "federated-dp")
LIST_LEVEL = ("coverage@10", "gini@10")  # one number for all lists: no interval over users

GROUPS: dict[str, dict[str, tuple[int, float]]] = {  # attribute -> group -> users, accuracy relative to the mean
    "gender": {"F": (273, 0.86), "M": (670, 1.06)},
    "age": {
        "0-17": (36, 0.81),
        "18-24": (206, 1.08),
        "25-34": (332, 1.02),
        "35-44": (190, 0.97),
        "45-49": (81, 1.04),
        "50-55": (80, 0.88),
        "56+": (18, 0.71),
    },
    "activity": {"low": (315, 1.22), "middle": (314, 0.99), "high": (314, 0.79)},
}
BY_CHANCE = {"gender": (0.15, 0.0421), "age": (0.25, 0.34), "activity": (0.14, 0.0004)}  # relative to the mean; p
GROUP_WIDTH = 0.2  # half an interval of a group, relative to its mean


def groups_of(mean: float) -> dict[str, Any]:
    """What `summary.json` says of the groups of users of an arm with this mean."""
    found: dict[str, Any] = {}
    for attribute, groups in GROUPS.items():
        compared = [mean * relative for users, relative in groups.values() if users >= 20]
        by_chance, p = BY_CHANCE[attribute]
        found[attribute] = {
            "gap": {"value": max(compared) - min(compared), "by_chance": mean * by_chance, "p": p},
            "groups": {
                label: {
                    "users": users,
                    "mean": mean * relative,
                    "ci95": [mean * relative * (1 - GROUP_WIDTH), mean * relative * (1 + GROUP_WIDTH)],
                }
                for label, (users, relative) in groups.items()
            },
        }
    return found


@functools.cache  # the accountant takes a moment
def guarantee() -> dict[str, Any]:
    """What one Gram release under noise calibrated to ε = 8 promises."""
    ledger = Ledger([Release(query="gram", draw=1, noise_multiplier=0.6013, clip=1.0)])
    made = Guarantee.of(ledger, delta=1e-5, n_users=943, randomness="seeded", mechanism=Gaussian())
    return made.as_dict()


def summary() -> dict[str, Any]:
    """`summary.json` of the run, to be changed at will."""
    arms: dict[str, Any] = {}
    for position, arm in enumerate(ARMS):
        metrics: dict[str, Any] = {"users": {"mean": 943.0, "ci95": None, "per_seed": [943.0] * 3}}
        for metric, means in MEANS.items():
            mean = means[position]
            ci95 = [mean * (1 - RELATIVE_WIDTH), mean * (1 + RELATIVE_WIDTH)]
            metrics[metric] = {
                "mean": mean,
                "ci95": None if metric in LIST_LEVEL else ci95,
                "seed_deviation": mean / 50,
                "per_seed": [mean * factor for factor in SEEDS.values()],
            }
        arms[arm] = {
            "metrics": metrics,
            "groups": groups_of(MEANS["ndcg@10"][position]),
            "guarantee": None,
            "seconds": (0.4, 31.2, 96.5, 11.8)[position],
            "communication": None,
        }
    for arm, rounds, up, down in (
        ("popularity", 1.0, 0.00085, 0.0),
        ("federated", 88.3333, 11.4, 43.1),
        ("federated-dp", 1.0, 11.32, 0.0),
    ):
        arms[arm]["communication"] = {"rounds": rounds, "mb_up_per_user": up, "mb_down_per_user": down}
    arms["federated-dp"]["guarantee"] = copy.deepcopy(guarantee())
    tests = [
        {
            "metric": "ndcg@10",
            "a": a,
            "b": b,
            "difference": difference,
            "ci95": [difference - 0.006, difference + 0.006],
            "users": 943,
            "p_bootstrap": p / 6,
            "p_bootstrap_holm": p,
            "p_wilcoxon": p_wilcoxon / 6,
            "p_wilcoxon_holm": p_wilcoxon,
            "d_z": 10 * difference,
            "rank_biserial": -0.5 if difference < 0 else 0.5,
            "seed_deviation": 0.001,
        }
        for a, b, difference, p, p_wilcoxon in (
            ("popularity", "central", -0.0248, 0.0006, 0.00002),
            ("popularity", "federated", -0.0211, 0.0006, 0.00004),
            ("popularity", "federated-dp", 0.0124, 0.0421, 0.073),  # the two tests disagree
            ("central", "federated", 0.0037, 0.2213, 0.31),
            ("central", "federated-dp", 0.0372, 0.0006, 0.00001),
            ("federated", "federated-dp", 0.0335, 0.0006, 0.00001),
        )
    ]
    return {"metric": "ndcg@10", "arms": arms, "tests": tests}


def without_groups() -> dict[str, Any]:
    """The same of a run whose users nothing is known of."""
    content = summary()
    for arm in content["arms"].values():
        arm["groups"] = {}
    return content


def manifest() -> dict[str, Any]:
    """`manifest.json` of the run."""
    return {
        "experiment": "quickstart",
        "finished": True,
        "started_at": "2025-03-01T09:00:00+00:00",
        "resumed_at": [],
        "finished_at": "2025-03-01T09:04:12+00:00",
        "versions": {"fedrec": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.0", "opacus": "1.6.0"},
        "git": {"revision": "9a34ef1c0ffee", "changed": False},
        "machine": {
            "platform": "Linux-6.1-x86_64",
            "processor": "x86_64",
            "cores": 2,
            "torch_threads": 2,
            "cuda": None,
        },
        "config_sha256": "0" * 64,
        "data": {
            "source": "ml-100k",
            "fingerprint": "c0ffee" + "0" * 58,
            "users": 943,
            "items": 1682,
            "interactions": {"train": 98114, "valid": 943, "test": 943},
            "cleaning": [
                "u.data: invalid rows: none dropped, 100,000 rows of 943 users and 1,682 items left",
                "u.data: repeated pairs, all but the last: 7 dropped, 99,993 rows of 943 users and 1,682 items left",
            ],
        },
        "split": {
            "seed": 0,
            "fingerprint": "5f0b3a" + "0" * 58,
            "notes": [
                "test is each user's last interaction, valid the one before it; ties in time keep file order",
            ],
        },
        "seeds": list(SEEDS),
        "randomness": "seeded",
        "peak_memory_mb": 1312.4,
    }


def metric_rows() -> Iterator[Row]:
    """`metrics.csv`: (arm, seed, split, metric, group, value)."""
    for position, arm in enumerate(ARMS):
        for seed, factor in SEEDS.items():
            mean = MEANS["ndcg@10"][position]
            yield arm, seed, "valid", "ndcg@10", "", mean * factor * 1.05
            yield arm, seed, "test", "users", "", 943.0
            for metric, means in MEANS.items():
                yield arm, seed, "test", metric, "", means[position] * factor
            for attribute, groups in GROUPS.items():
                values = {group: mean * factor * relative for group, (_, relative) in groups.items()}
                for group, (users, _) in groups.items():
                    yield arm, seed, "test", "users", f"{attribute}={group}", float(users)
                for group, value in values.items():
                    yield arm, seed, "test", "ndcg@10", f"{attribute}={group}", value
                    yield arm, seed, "test", "recall@10", f"{attribute}={group}", 2 * value
                compared = [values[group] for group, (users, _) in groups.items() if users >= 20]
                yield arm, seed, "test", "ndcg@10-gap", attribute, max(compared) - min(compared)
                yield arm, seed, "test", "ndcg@10-worst-group", attribute, min(compared)
                yield arm, seed, "test", "ndcg@10-ratio", attribute, min(compared) / max(compared)
                yield arm, seed, "test", "recall@10-gap", attribute, 9.0  # of another metric: shown nowhere


def history_rows() -> Iterator[Row]:
    """`history.csv`: (arm, seed, round, name, value, disclosure)."""
    for arm, top, last in (("central", 0.071, 60), ("federated", 0.067, 90)):
        for seed, factor in SEEDS.items():
            for step in range(5, last + 1, 5):
                yield arm, seed, step, "loss", 5.0 / step, "simulation"
                rise = 1 - 2 ** (-step / (last / 6))
                fall = 0.00002 * max(0, step - last + 15)  # past the best state
                yield arm, seed, step, "validation", top * factor * rise - fall, "simulation"
    yield "federated-dp", 0, 1, "answered", 943.0, "simulation"


def write_csv(path: Path, header: tuple[str, ...], rows: Iterable[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_run(folder: Path, **changes: Any) -> Path:
    """Write the run directory, with some of config, summary, manifest, metrics and history replaced."""
    parts: dict[str, Any] = {
        "config": CONFIG,
        "summary": summary(),
        "manifest": manifest(),
        "metrics": metric_rows(),
        "history": history_rows(),
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(parts["config"])
    (folder / "manifest.json").write_text(json.dumps(parts["manifest"]))
    (folder / "summary.json").write_text(json.dumps(parts["summary"]))
    write_csv(folder / "metrics.csv", ("arm", "seed", "split", "metric", "group", "value"), parts["metrics"])
    write_csv(folder / "history.csv", ("arm", "seed", "round", "name", "value", "disclosure"), parts["history"])
    return folder
