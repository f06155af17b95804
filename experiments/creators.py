"""Who pays for privacy among creators: what README.md keeps of a run whose arms differ by method and epsilon.

    python experiments/creators.py RUN experiments/results/NAME --column author_id

Creators are told apart by size, as the groups "author_id-size" of the run's metrics have them. The values are those of
its `metrics.csv`, made again from the lists so that they have intervals over users; the data are read again, from where
the run read them, and must not have changed. `creators.csv` has a line for each arm, group and measure that has a
value, `creators.svg` all of it against epsilon.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd
import torch
from against_epsilon import Arms, by_method, line, number
from matplotlib.figure import Figure
from torch import Tensor

from fedrec.data import Split, load_split
from fedrec.evaluation.accuracy import ndcg_gains
from fedrec.evaluation.providers import SIZE, exposure_lift, item_groups, ndcg_contribution, provider_recall
from fedrec.evaluation.statistics import bootstrap_means
from fedrec.experiment import RunDirectory
from fedrec.experiment.manifest import require_unchanged
from fedrec.report.canvas import style, to_svg
from fedrec.report.palette import marks
from fedrec.streams import Streams

K = 10
RESAMPLES = 1000
GROUPS = ("small", "middle", "large")
TITLES = {
    "provider-recall": "recall@10 of their items",
    "exposure-lift": "exposure lift@10",
    "ndcg-contribution": "part of NDCG@10",
}
Estimates = Mapping[str, Tensor]
"""By measure, [1 + resamples, groups]: the value, then those of the resamples, which are the same for all arms."""


@dataclass(frozen=True)
class Test:
    """The test part of a run, and which items are whose.

    Attributes:
        split: the data.
        users: [n] int64 codes of the users whom means are over.
        weight: [n_items, groups] float64, how much of an item is of a group.
        trained: [groups] float64, training interactions with the group.
    """

    split: Split
    users: Tensor
    weight: Tensor
    trained: Tensor

    @classmethod
    def of(cls, split: Split, column: str) -> Self:
        """That of a split, with the values of an item column for creators."""
        (groups,) = item_groups(split.train, [column + SIZE])
        assert groups.labels == GROUPS
        weight = torch.zeros(groups.n_items, len(GROUPS), dtype=torch.float64)
        weight.index_put_((groups.item, groups.group), groups.weight, accumulate=True)
        users = torch.from_numpy((split.test.user_degrees > 0) & (split.train.user_degrees > 0)).nonzero()[:, 0]
        return cls(split, users, weight, groups.share_out(torch.from_numpy(split.train.item_degrees)))

    def sums(self, lists: pd.DataFrame) -> Tensor:
        """Of each user and group: held-out items, places in the list, hits, and gains of hits, [users, 4, groups]."""
        train, test = self.split.train, self.split.test
        lists = lists[lists["rank"] <= K]
        items = torch.full((train.n_users, K), -1)
        place = torch.tensor(lists["rank"].to_numpy() - 1)
        items[torch.from_numpy(train.users.encode(lists["user"].tolist())), place] = torch.from_numpy(
            train.items.encode(lists["item"].tolist())
        )
        user, item = torch.from_numpy(test.user), torch.from_numpy(test.item)
        wanted = torch.zeros(train.n_users, len(GROUPS), dtype=torch.float64)
        wanted = wanted.index_add_(0, user, self.weight[item])[self.users]
        items, listed = items[self.users], items[self.users] >= 0
        hits = listed & torch.isin(self.users.unsqueeze(1) * train.n_items + items, user * train.n_items + item)
        gains = ndcg_gains(hits, torch.from_numpy(test.user_degrees)[self.users])
        of_places = [listed.double(), hits.double(), gains]
        return torch.stack([wanted, *(torch.einsum("uk,ukg->ug", x, self.weight[items]) for x in of_places)], dim=1)

    def estimates(self, sums: Tensor) -> Estimates:
        """The measures of users' sums, and of resamples of the users; NaN where there is nothing to measure."""
        flat = sums.flatten(1).T
        drawn = bootstrap_means(flat, Streams(0).generator("creators"), RESAMPLES)
        means = torch.cat([flat.mean(dim=1, keepdim=True), drawn], dim=1).T.view(-1, *sums.shape[1:])
        wanted, shown, right, gained = means.unbind(dim=1)
        lift = torch.stack([exposure_lift(of_one, self.trained) for of_one in shown])
        return {
            "provider-recall": provider_recall(right, wanted),
            "exposure-lift": lift.where(self.trained > 0, math.nan),
            "ndcg-contribution": ndcg_contribution(gained, 1),
        }


def interval(values: Tensor) -> tuple[float, float, float]:
    """The value, and the 95% percentile interval of its resamples, those left out in which there is none."""
    low, high = torch.nanquantile(values[1:], torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(values[0]), low, high


def measured(run: RunDirectory, arms: Arms, column: str) -> dict[str, Estimates]:
    """By arm, what its lists give, with each user's mean over seeds."""
    config = run.config
    data = load_split(config.data, config.seeds[0])
    require_unchanged(run.manifest, run.path, (run.path / "config.toml").read_text(), data)
    test = Test.of(data.split, column)
    found = {}
    for arm in (arm for of in arms.values() for arm in of.values()):
        lists = [pd.read_parquet(run.path / "arms" / arm / f"seed-{seed}" / "topk.parquet") for seed in config.seeds]
        found[arm] = test.estimates(torch.stack([test.sums(of_seed) for of_seed in lists]).mean(dim=0))
    return found


def table(arms: Arms, found: Mapping[str, Estimates]) -> list[str]:
    """A row an arm: recall of each group and what is kept of that without a guarantee, and lift."""
    heads = ["", "ε", *(f"recall@10, {group}" for group in GROUPS)]
    heads += [*(f"kept, {group}" for group in GROUPS), *(f"lift@10, {group}" for group in GROUPS)]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for method, of in arms.items():
        for epsilon, arm in of.items():
            cells = [f"`{method}`", "∞" if math.isinf(epsilon) else f"{epsilon:g}"]
            recall, bare = found[arm]["provider-recall"], found[of[math.inf]]["provider-recall"]
            for value, low, high in map(interval, recall.T):
                cells.append("" if math.isnan(value) else f"{number(value)} [{number(low)}, {number(high)}]")
            for some, whole in zip(recall.T, bare.T, strict=True):
                # In some resample of a group that is hardly ever found there is nothing to keep.
                nothing = math.isinf(epsilon) or not bool((whole > 0).all())
                cells.append("" if nothing else "{:.0%} [{:.0%}, {:.0%}]".format(*interval(some / whole)))
            cells += ["" if value.isnan() else number(float(value)) for value in found[arm]["exposure-lift"][0]]
            rows.append("| " + " | ".join(cells) + " |")
    return rows


def write(arms: Arms, found: Mapping[str, Estimates], path: Path) -> None:
    """A line for each arm, group and measure that the group has a value of, with its interval."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["method", "epsilon", "group", "measure", "mean", "low", "high"])
        for method, of in arms.items():
            for epsilon, arm in of.items():
                for name, values in found[arm].items():
                    for place, group in enumerate(GROUPS):
                        cells = [round(value, 6) for value in interval(values[:, place])]
                        if not math.isnan(cells[0]):
                            lines.writerow([method, f"{epsilon:g}", group, f"{name}@{K}", *cells])


def picture(arms: Arms, found: Mapping[str, Estimates]) -> Figure:
    """Creators of each size against epsilon, a row a measure and a line a method, with intervals over users."""
    looks = marks(list(arms))
    with style():
        figure = Figure(figsize=(9.0, 9.0), layout="constrained")
        panels = figure.subplots(len(TITLES), len(GROUPS), sharex=True)
        for row, (name, title) in zip(panels, TITLES.items(), strict=True):
            for place, panel in enumerate(row):
                for method, of in arms.items():
                    values = {epsilon: interval(found[arm][name][:, place]) for epsilon, arm in of.items()}
                    line(panel, method, looks[method], values)
                panel.set_ylim(bottom=0)
            row[0].set_ylabel(title)
        for panel, group in zip(panels[0], GROUPS, strict=True):
            panel.set_title(f"{group} creators")
        figure.supxlabel("ε, on a logarithmic scale; rightmost: no guarantee")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=6)
    return figure


def main() -> None:
    """Read a run, write the files, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--column", required=True, help="the item column that names the creator")
    given = parser.parse_args()
    run = RunDirectory(given.run)
    arms = by_method([arm.name for arm in run.config.arms])
    found = measured(run, arms, given.column)
    given.out.mkdir(parents=True, exist_ok=True)
    write(arms, found, given.out / "creators.csv")
    (given.out / "creators.svg").write_text(to_svg(picture(arms, found)))
    sys.stdout.write("\n".join(table(arms, found)) + "\n")


if __name__ == "__main__":
    main()
