"""A data set and an experiment that take a moment."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import tomli_w

USERS, ITEMS, EACH = 24, 16, 6


def write_ratings(path: Path, *, users: int = USERS, extra: tuple[tuple[object, ...], ...] = ()) -> Path:
    """Users of two tastes, each on a circle of neighbouring items and once in the other; some times are equal."""
    half = ITEMS // 2
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("uid", "mid", "stars", "when"))
        for user in range(users):
            taste, start = user % 2, user // 2
            items = [taste * half + (start + n) % half for n in range(EACH - 1)] + [(1 - taste) * half + start % half]
            for n, item in enumerate(items):
                writer.writerow((f"u{user}", f"m{item}", 1 + (user + n) % 5, 100 + n // 2))
        writer.writerows(extra)
    return path


def experiment(ratings: Path, **changes: Any) -> dict[str, Any]:
    """An experiment of all three sorts of arms on such a file; `changes` replace whole sections."""
    return {
        "name": "tiny",
        "seeds": [3, 5],
        "data": {
            "path": str(ratings),
            "columns": {"user": "uid", "item": "mid", "rating": "stars", "time": "when"},
            "split": {"kind": "leave-one-out"},
        },
        "evaluation": {"k": [3, 5], "metric": "ndcg@5", "bootstrap": 100},
        "arms": [
            {"name": "popularity", "method": {"kind": "popularity"}},
            {
                "name": "central",
                "method": {"kind": "lightgcn", "dim": 4, "epochs": 4, "stopping": {"every": 2}},
            },
            {
                "name": "federated",
                "method": {"kind": "ego-lightgcn", "dim": 4, "rounds": 6, "stopping": {"every": 2, "patience": 2}},
                "participation": {"rate": 0.8},
            },
            {
                "name": "private",
                "method": {"kind": "spectral", "factors": 3},
                "privacy": {"epsilon": 8.0, "delta": 1e-3},
            },
        ],
        **changes,
    }


def write_experiment(folder: Path, **changes: Any) -> Path:
    """Such an experiment and its data as files; returns the path of the configuration."""
    ratings = folder / "ratings.csv"
    if not ratings.exists():
        write_ratings(ratings)
    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps(experiment(ratings, **changes)))
    return path
