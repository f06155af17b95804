"""What `evaluate` finds, from sums over users: all that a server can have where the users' lists stay with them.

Each device counts on its own, and the server adds up. What is a function of such sums equals what `evaluate` computes
from the lists themselves; `OMITTED` names the rest. Intervals come from a Poisson bootstrap: every user counts
Poisson(1) times in each resample, drawn from a stream of the user's own, so that resampled sums are sums over users as
well, and the same however users are dealt to nodes (Chamandy et al. 2012). Two arms have the same weights and are thus
paired.

A resample hides nobody from whoever knows the weights: as many of them as there are users are that many equations, to
be solved for every user's values. A public seed and the users' keys tell those of `poisson_weights`; those of
`secret_weights` nobody can tell but the node that keeps the secret.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedrec.evaluation import measures
from fedrec.evaluation.accuracy import ACCURACY
from fedrec.evaluation.config import Candidates, EvaluationConfig
from fedrec.evaluation.measures import ItemCounts
from fedrec.evaluation.metrics import MetricRow, sampled_name
from fedrec.evaluation.providers import ItemGroups
from fedrec.evaluation.statistics import Interval
from fedrec.streams import Streams

OMITTED: Mapping[str, str] = {
    "worst-decile": "which users are the unluckiest takes the values of all of them",
    "embedding-diversity": "the factors of the training matrix take the matrix",
    "wilcoxon": "ranks of users' differences take the values of all of them",
    "rank-biserial": "ranks of users' differences take the values of all of them",
    "d_z": "the deviation of users' differences takes two arms' values of one user together",
    "gap-by-chance": "groups made by lot take the values of all users",
}
"""What is no function of sums over users, and why."""

PER_LENGTH = 5
"""Columns that the table `items` has for each length of the list."""

SEGMENTS = ("cold-users", "cold-items")

_POISSON = torch.tensor(
    [sum(math.exp(-1) / math.factorial(j) for j in range(n + 1)) for n in range(20)], dtype=torch.float64
)
"""The distribution function of Poisson(1) at 0 to 19; a uniform number of 53 bits never lies above the last."""


_MOST = float(torch.searchsorted(_POISSON, torch.tensor(1.0 - 2.0**-53, dtype=torch.float64), right=True))
"""What the largest number of 53 bits comes to: no user counts more often than this."""


def poisson_weights(streams: Streams, keys: Tensor, replicates: int) -> Tensor:
    """How often each user counts in each resample: [users, replicates] float64 draws of Poisson(1).

    Args:
        streams: of the run.
        keys: [users] int64 stream keys.
        replicates: number of resamples.
    """
    return _poisson(
        streams.uniform("poisson-bootstrap", keys.unsqueeze(1), torch.arange(replicates, device=keys.device))
    )


def secret_weights(secret: bytes, keys: Tensor, replicates: int) -> Tensor:
    """As `poisson_weights`, for whoever has a secret; to anyone else they look like any other draws.

    A user's are the words of SHAKE-256 of the secret and the user's key, which nobody tells from random ones without
    the secret (`Streams` are made for speed and hide nothing).

    Args:
        secret: 32 bytes.
        keys: [users] int64 stream keys.
        replicates: number of resamples.
    """
    drawn = np.empty((len(keys), replicates), dtype="<u8")
    for user, key in enumerate(keys.tolist()):
        stream = hashlib.shake_256(secret + key.to_bytes(8, "little", signed=True))
        drawn[user] = np.frombuffer(stream.digest(8 * replicates), dtype="<u8")
    return _poisson(torch.from_numpy((drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53).to(keys.device))


def _poisson(uniform: Tensor) -> Tensor:
    """Poisson(1) from uniform numbers, by inversion."""
    return torch.searchsorted(_POISSON.to(uniform.device), uniform, right=True).double()


@dataclass(frozen=True)
class Layout:
    """What the sums are of: which row and column of each table is what.

    Attributes:
        ks: lengths of the list.
        candidates: sorts of candidates.
        described: whether items have categories.
        groups: of users, name -> labels.
        headline: the metric whose groups have intervals.
        replicates: resamples of the bootstrap; 0 is none.
    """

    ks: tuple[int, ...]
    candidates: tuple[Candidates, ...]
    described: bool
    groups: Mapping[str, tuple[str, ...]]
    headline: str
    replicates: int

    @classmethod
    def of(cls, config: EvaluationConfig, groups: Mapping[str, Sequence[str]], *, described: bool) -> Layout:
        """What a configuration asks for, of items with categories or without, and of groups with these labels."""
        labels = {name: tuple(of_group) for name, of_group in groups.items()}
        return cls(config.k, config.candidates, described, labels, config.metric, config.bootstrap)

    @property
    def lists(self) -> bool:
        """Whether the whole catalogue is ranked, so that lists show more than accuracy."""
        return "all" in self.candidates

    @property
    def accuracy(self) -> tuple[str, ...]:
        """Accuracy metrics, in the order of `evaluate`."""
        plain = [*(f"{name}@{k}" for name in ACCURACY for k in self.ks), "auc"]
        named = [plain if among == "all" else list(map(sampled_name, plain)) for among in self.candidates]
        return tuple(name for names in named for name in names)

    @property
    def per_user(self) -> tuple[str, ...]:
        """All metrics with one value a user, likewise."""
        names = ["novelty", "long-tail-share", "serendipity"]
        names += ["intra-list-diversity", "calibration-error"] if self.described else []
        return (*self.accuracy, *(f"{name}@{k}" for name in names for k in self.ks if self.lists))

    @property
    def n_groups(self) -> int:
        """Groups of all groupings together."""
        return sum(map(len, self.groups.values()))

    def tables(self, n_items: int) -> dict[str, tuple[int, int]]:
        """The shape of each table of sums.

        `users`: a row for all and for each group; users, relevant items, the per-user metrics, squares of accuracy.
        `segments`: a row for each of `SEGMENTS`; users, relevant items, accuracy.
        `items`: known, wanted, then by length of the list the other five of `ItemCounts`, in their order.
        `lists`: mean popularity of the user's history, then of the list by length.
        `resamples`: by resample, users and the per-user metrics; by group, users and the headline metric.
        """
        found = {
            "users": (1 + self.n_groups, 2 + len(self.per_user) + len(self.accuracy)),
            "segments": (len(SEGMENTS), 2 + len(self.accuracy)),
        }
        if self.lists:
            found |= {"items": (n_items, 2 + PER_LENGTH * len(self.ks)), "lists": (1, 1 + len(self.ks))}
        if self.replicates:
            found["resamples"] = (self.replicates, 1 + len(self.per_user) + 2 * self.n_groups)
        return found

    def bounds(self, popularity: Tensor) -> dict[str, tuple[float, ...]]:
        """By table and column, what no user adds more than to any entry.

        Args:
            popularity: [n_items] number of training interactions of each item.
        """
        wanted, popular, one = float(len(popularity)), max(1.0, float(popularity.max())), (1.0,)
        surprise = max(1.0, math.log2(max(1.0, float(popularity.sum()))))
        largest = {"novelty": surprise, "calibration-error": math.log(100)}
        per_user = tuple(largest.get(name.partition("@")[0], 1.0) for name in self.per_user)
        found = {
            "users": (1.0, wanted, *per_user, *one * len(self.accuracy)),
            "segments": (1.0, wanted, *one * len(self.accuracy)),
        }
        if self.lists:
            found |= {"items": one * (2 + PER_LENGTH * len(self.ks)), "lists": (popular,) * (1 + len(self.ks))}
        if self.replicates:
            found["resamples"] = tuple(_MOST * bound for bound in (1.0, *per_user, *one * (2 * self.n_groups)))
        return found

    def item_counts(self, table: Tensor) -> ItemCounts:
        """What the table `items` holds."""
        known, wanted = table[:, 0].round().long(), table[:, 1].round().long()
        by_k = {k: table[:, 2 + PER_LENGTH * place :] for place, k in enumerate(self.ks)}
        return ItemCounts(
            known,
            wanted,
            {k: of_k[:, 0].round().long() for k, of_k in by_k.items()},
            {k: of_k[:, 1].round().long() for k, of_k in by_k.items()},
            {k: of_k[:, 2] for k, of_k in by_k.items()},
            {k: of_k[:, 3] for k, of_k in by_k.items()},
            {k: of_k[:, 4] for k, of_k in by_k.items()},
        )


def rows_of_sums(
    sums: Mapping[str, Tensor], layout: Layout, interactions: Tensor, groupings: Sequence[ItemGroups]
) -> tuple[MetricRow, ...]:
    """Every row of `evaluate`, in its order, but for `OMITTED`.

    Args:
        sums: the tables of `Layout.tables`.
        layout: what they are.
        interactions: [n_items] int64 number of training interactions of each item.
        groupings: groups of items.
    """
    users, accuracy, per_user = sums["users"], layout.accuracy, layout.per_user
    n = float(users[0, 0])
    means = {name: users[:, 2 + place] / users[:, 0] for place, name in enumerate(per_user)}
    rows = [MetricRow("users", "", n), MetricRow("interactions", "", float(users[0, 1]))]
    rows += [MetricRow(name, "", float(mean[0])) for name, mean in means.items()]
    if layout.lists:
        counts, lists = layout.item_counts(sums["items"]), sums["lists"][0]
        lifts = {k: float(lists[1 + place] / lists[0]) for place, k in enumerate(layout.ks)}
        rows += [
            *measures.together(counts, int(n), lifts),
            *measures.exposures(counts, int(n), interactions, groupings),
        ]
    squares = users[0, 2 + len(per_user) :] / n
    for name, square in zip(accuracy, squares, strict=True):
        mean = means[name][0]
        spread = float((square - mean * mean).clamp(min=0.0).sqrt() / mean) if mean > 0 else 0.0
        rows.append(MetricRow(f"{name}-coefficient-of-variation", "", spread))
    first = 1
    for grouping, labels in layout.groups.items():
        here = slice(first, first + len(labels))
        of_groups = {name: means[name][here] for name in accuracy}
        rows += measures.between(of_groups, users[here, 0].round().long(), grouping, labels)
        first += len(labels)
    return (*rows, *_of_segments(sums["segments"], accuracy))


def _of_segments(table: Tensor, accuracy: Sequence[str]) -> Iterator[MetricRow]:
    for segment, row in zip(SEGMENTS, table, strict=True):
        if row[0] > 0:
            yield from (MetricRow("users", segment, float(row[0])), MetricRow("interactions", segment, float(row[1])))
            for place, name in enumerate(accuracy):
                if segment == "cold-users" or not name.startswith("auc"):  # areas are those of all held-out items
                    yield MetricRow(name, segment, float(row[2 + place] / row[0]))


def resampled_means(resamples: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Means over users of each per-user metric in each resample: name -> [replicates] float64.

    The headline metric of a group is named "ndcg@10/gender=F". NaN where a resample has no user of a group.

    Args:
        resamples: the table `resamples`.
        layout: what it is.
    """
    found = {name: resamples[:, 1 + place] / resamples[:, 0] for place, name in enumerate(layout.per_user)}
    labels = [f"{name}={label}" for name, of_group in layout.groups.items() for label in of_group]
    for place, label in enumerate(labels):
        column = 1 + len(layout.per_user) + 2 * place
        found[f"{layout.headline}/{label}"] = resamples[:, column + 1] / resamples[:, column]
    return found


def percentile_interval(mean: float, resampled: Tensor, *, level: float = 0.95) -> Interval:
    """The percentile interval of a mean, from its resamples; those without a user say nothing and are left out."""
    tail = (1.0 - level) / 2.0
    low, high = torch.nanquantile(resampled, torch.tensor([tail, 1.0 - tail], dtype=torch.float64))
    return Interval(mean, float(low), float(high))
