"""Testing a model where it runs: everything that can be had of a test without a user's list leaving a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from fedrec.errors import ConfigError, DataError, did_you_mean
from fedrec.evaluation import MIN_GROUP, EvaluationConfig, Layout, MetricRow, rows_of_sums
from fedrec.evaluation.fairness import ACTIVITY, tercile_bounds
from fedrec.evaluation.measures import categories_of
from fedrec.evaluation.providers import groups_of_items
from fedrec.federated.engine import Engine
from fedrec.federated.method import FederatedMethod
from fedrec.federated.queries import Census, Measure, Membership
from fedrec.federated.queries.evaluate import scoring_state
from fedrec.recommenders.recommender import Tensors

_ACTIVITY_LABELS = ("low", "middle", "high")
_USUAL = ("gender", "age")  # what `evaluation.groups = "auto"` compares beside activity, where known


@dataclass(frozen=True, eq=False)
class Measured:
    """What a test by sums found.

    Attributes:
        rows: every number of `evaluate` that is a function of sums, in its order.
        layout: what the sums are of.
        resamples: the table of that name, for intervals.
    """

    rows: tuple[MetricRow, ...]
    layout: Layout
    resamples: Tensor


def measure(
    engine: Engine,
    method: FederatedMethod,
    state: Tensors,
    n_items: int,
    items: pd.DataFrame,
    labels: Mapping[str, Sequence[str]],
    config: EvaluationConfig,
    *,
    seed: int,
    resampling: int,
    round: int,
    part: str = "test",
    small: bool = True,
) -> Measured:
    """Test a model on what users hold out: what evaluating needs to know of everyone, how large groups are, the test.

    Args:
        engine: whose users hold the part.
        method, state: the model.
        n_items: size of the catalogue.
        items: attributes of its items, one row each in code order; no columns if nothing is known.
        labels: of the groups of users that the devices know, by attribute.
        config: what is measured.
        seed: of the run; it orders ties and draws candidates.
        resampling: seed of the bootstrap, the same for all arms and seeds that are compared.
        round: a moment later than every round of training.
        part: the part that is tested on.
        small: whether small groups are measured as well (`small_groups`); otherwise nothing is asked of them but how
            many users they have.

    Raises:
        ConfigError: if a column does not exist, or k exceeds the catalogue.
        DataError: if no warm user holds an item out.
    """
    config.require_catalogue(n_items)
    groups = groups_asked(labels, config)
    categories = categories_of(items, config.categories)
    census = engine.sum(Census(n_items), round=round).sums
    popularity, activity = census["items"], tercile_bounds(census["activity"][:, 0].round().long())
    layout = Layout.of(config, groups, described=categories is not None)
    members = Membership(part, layout.groups, activity)
    unasked = () if small or not groups else _numbers_of_small(engine.sum(members, round=round, phase=1).sums, layout)
    query = Measure(
        method,
        scoring_state(state),
        popularity,
        categories,
        part,
        layout,
        activity,
        seed,
        resampling,
        unasked,
    )
    sums = {name: table.cpu() for name, table in engine.sum(query, round=round, phase=2).sums.items()}
    if sums["users"][0, 0] < 1:
        raise DataError("no user has both a training item and a held-out item; split so that histories remain")
    columns = None if config.item_groups == "auto" else config.item_groups
    interactions = popularity[:, 0].round().long().cpu()  # masked sums are whole up to their resolution
    groupings = groups_of_items(items, interactions, columns)
    return Measured(rows_of_sums(sums, query.layout, interactions, groupings), query.layout, sums["resamples"])


def groups_asked(labels: Mapping[str, Sequence[str]], config: EvaluationConfig) -> dict[str, Sequence[str]]:
    """The groupings that a configuration asks for, with their labels.

    Args:
        labels: of the groups of users that the devices know, by attribute.
        config: what is measured.

    Raises:
        ConfigError: if they do not know one that is asked for.
    """
    known = {**labels, ACTIVITY: labels.get(ACTIVITY, _ACTIVITY_LABELS)}
    if config.groups == "auto":
        return {name: known[name] for name in (*_USUAL, ACTIVITY) if name in known}
    for name in config.groups:
        if name not in known:
            raise ConfigError(f"evaluation.groups: no user column '{name}'; {did_you_mean(name, known)}")
    return {name: known[name] for name in config.groups}


def small_groups(sizes: Mapping[str, float], groups: Mapping[str, Sequence[str]]) -> set[str]:
    """The groups of users, "gender=F", that are too small to say anything of: those of fewer than `MIN_GROUP`.

    Where all that is not said of a grouping is of so few, larger groups are left out besides, the smallest first: the
    few would be what is missing from the whole.

    Args:
        sizes: users of each group; of all of them under "". Groups without any may be missing.
        groups: groupings of users, name -> labels.
    """
    small = set[str]()
    for name, labels in groups.items():
        members = {f"{name}={label}": sizes.get(f"{name}={label}", 0.0) for label in labels}
        small |= {group for group, users in members.items() if users < MIN_GROUP}
        large = sorted((users, group) for group, users in members.items() if group not in small)
        while large and 0 < sizes[""] - sum(users for users, _ in large) < MIN_GROUP:
            small.add(large.pop(0)[1])
    return small


def _numbers_of_small(sums: Mapping[str, Tensor], layout: Layout) -> tuple[int, ...]:
    """Numbers of the small groups through all groupings, from the sums of `Membership`."""
    names = [f"{name}={label}" for name, labels in layout.groups.items() for label in labels]
    sizes = dict(zip(["", *names], sums["members"][:, 0].round().tolist(), strict=True))
    small = small_groups(sizes, layout.groups)
    return tuple(number for number, name in enumerate(names) if name in small)
