"""PFedRec on MovieLens-100K: federated and local-only, with the authors' negative pool and with train-only negatives.

    python papers/zhang2023pfedrec/run.py

Every row is fitted with every seed on the same split, ranked in full and among the same 99 sampled candidates. A run
that was killed goes on where it was. The results are written beside this file: results.csv, and the table in README.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from published_pool import PublishedPool, everything
from torch import Tensor

from fedrec.data import DataConfig, LeaveOneOut, Split, SyntheticConfig, load_split
from fedrec.evaluation import EvaluationConfig, bootstrap_intervals, evaluate, make_validator
from fedrec.experiment.store import FileCheckpoints, write_atomically, write_json
from fedrec.federated import FederatedMethod, FederatedRecommender
from fedrec.federated.methods import (
    EASE,
    IALS,
    EASEConfig,
    IALSConfig,
    PFedRec,
    PFedRecConfig,
    Popularity,
    PopularityConfig,
)
from fedrec.recommenders import Stopping, Training
from fedrec.streams import Streams

HERE = Path(__file__).parent
METRICS = {
    "hit-rate@10-sampled-99": "HR@10, sampled-99",
    "ndcg@10-sampled-99": "NDCG@10, sampled-99",
    "hit-rate@10": "HR@10, full",
    "ndcg@10": "NDCG@10, full",
}
MEASURED = EvaluationConfig(k=(10,), candidates=("sampled-99", "all"), metric="hit-rate@10-sampled-99", groups=())
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->"


def settings(rounds: int, n_items: int, aggregate: bool) -> PFedRecConfig:
    """The defaults of the authors' code; the best round on validation counts, as there, of every fifth."""
    return PFedRecConfig(
        dim=32,
        rounds=rounds,
        epochs=1,
        batch_size=256,
        score_rate=0.1,
        item_rate=0.1 * n_items * 80,  # their lr · num_items · lr_eta
        negatives=4,
        initial_scale=1.0,  # torch's own for an embedding
        aggregate=aggregate,
        stopping=Stopping(every=5, patience=rounds),
    )


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: of its files.
        method: what is fitted, in words.
        pool: what its negatives are drawn outside of.
        build: makes it, from the split and the number of rounds of PFedRec.
    """

    name: str
    method: str
    pool: str
    build: Callable[[Split, int], FederatedMethod]


def _pfedrec(aggregate: bool) -> Callable[[Split, int], FederatedMethod]:
    return lambda split, rounds: PFedRec(settings(rounds, split.train.n_items, aggregate))


def _leaking(aggregate: bool) -> Callable[[Split, int], FederatedMethod]:
    return lambda split, rounds: PublishedPool(settings(rounds, split.train.n_items, aggregate), everything(split))


ROWS = (
    Row("federated-published", "PFedRec, federated", "train, validation and test (leaks)", _leaking(True)),
    Row("local-published", "PFedRec, local-only", "train, validation and test (leaks)", _leaking(False)),
    Row("federated-train-only", "PFedRec, federated", "train", _pfedrec(True)),
    Row("local-train-only", "PFedRec, local-only", "train", _pfedrec(False)),
    Row("popularity", "popularity", "none drawn", lambda _, __: Popularity(PopularityConfig())),
    Row("ease", "EASE", "none drawn", lambda _, __: EASE(EASEConfig())),
    Row("ials", "iALS", "none drawn", lambda _, __: IALS(IALSConfig())),
)


def fit(row: Row, seed: int, split: Split, rounds: int, out: Path) -> None:
    """Fit one row with one seed, test it once, and leave what each user got in `out`; nothing if it is there."""
    result = out / f"{row.name}-seed-{seed}.json"
    if result.exists():
        return
    checkpoints = FileCheckpoints(out / f"{row.name}-seed-{seed}.safetensors")
    method = row.build(split, rounds)
    recommender = FederatedRecommender(method)
    validator = make_validator(split, MEASURED, seed)
    looks: dict[int, float] = {}

    def log(step: int, name: str, value: float, _: str) -> None:
        if name == "validation":
            looks[step] = value

    training = Training(seed=seed, arm=row.name, validator=validator, log=log, checkpoints=checkpoints, device="cpu")
    recommender.fit(split.train, training)
    found = evaluate(recommender.score, split, MEASURED, seed)
    per_user = {metric: found.per_user[metric].tolist() for metric in METRICS}
    best = max(looks, key=lambda step: looks[step]) if looks else method.rounds
    facts = {"round": best, "validation": looks, "rounds": rounds, "seconds": checkpoints.seconds}
    write_json(result, facts | {"users": found.users.tolist(), "per_user": per_user})
    checkpoints.path.unlink(missing_ok=True)


def summarise(out: Path, seeds: Sequence[int]) -> pd.DataFrame:
    """Each row's means over users and seeds, with 95% intervals over users, a line for each metric."""

    def lines() -> Iterator[dict[str, object]]:
        for row in ROWS:
            found = [json.loads((out / f"{row.name}-seed-{seed}.json").read_text()) for seed in seeds]
            values = {m: torch.tensor([one["per_user"][m] for one in found], dtype=torch.float64) for m in METRICS}
            intervals = bootstrap_intervals(values, Streams(0).generator("bootstrap"))
            for metric, interval in intervals.items():
                yield {
                    "row": row.name,
                    "method": row.method,
                    "negatives outside": row.pool,
                    "metric": metric,
                    "mean": round(interval.mean, 6),
                    "low": round(interval.low, 6),
                    "high": round(interval.high, 6),
                    "per_seed": " ".join(f"{_mean(value):.6f}" for value in values[metric]),
                    "best_rounds": " ".join(str(one["round"]) for one in found),
                }

    return pd.DataFrame(lines())


def _mean(values: Tensor) -> float:
    return float(values.mean())


def as_markdown(results: pd.DataFrame) -> str:
    """The table of the README."""
    lines = [
        f"| method | negatives outside | {' | '.join(METRICS.values())} |",
        "|---|---|" + "---|" * len(METRICS),
    ]
    for _, found in results.groupby("row", sort=False):
        by_metric = found.set_index("metric")
        cells = [
            f"{cell['mean']:.3f} ({cell['low']:.3f} to {cell['high']:.3f})"
            for cell in (by_metric.loc[metric] for metric in METRICS)
        ]
        first = found.iloc[0]
        lines.append(f"| {first['method']} | {first['negatives outside']} | {' | '.join(cells)} |")
    seeds = len(str(results["per_seed"][0]).split())
    return "\n".join(lines) + f"\n\nMeans over {seeds} seeds and all users, with 95% bootstrap intervals over users.\n"


def write_results(results: pd.DataFrame, folder: Path) -> None:
    """Write results.csv, and put the table made from it between the marks in README.md."""
    write_atomically(folder / "results.csv", results.to_csv(index=False))
    readme = folder / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    write_atomically(readme, before + BEGIN + as_markdown(results) + END + after)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/zhang2023pfedrec"), help="unfinished and finished rows")
    parser.add_argument("--results", type=Path, default=HERE, help="folder with the README.md that gets the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=100, help="of PFedRec; the authors' code has 100")
    parser.add_argument("--data", choices=("ml-100k", "synthetic"), default="ml-100k")
    asked = parser.parse_args()
    synthetic = SyntheticConfig(users=40, items=150) if asked.data == "synthetic" else None
    data = DataConfig(name=asked.data, split=LeaveOneOut(order="time"), synthetic=synthetic)
    asked.out.mkdir(parents=True, exist_ok=True)
    for seed in asked.seeds:
        split = load_split(data, seed).split
        for row in ROWS:
            fit(row, seed, split, asked.rounds, asked.out)
            print(f"{row.name}, seed {seed}: done")
    write_results(summarise(asked.out, asked.seeds), asked.results)


if __name__ == "__main__":
    main()
