"""Testing a model where it runs: everything that can be had of a test without a user's list leaving a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from fedrec.errors import ConfigError, DataError, did_you_mean
from fedrec.evaluation import EvaluationConfig, Layout, MetricRow, rows_of_sums
from fedrec.evaluation.fairness import ACTIVITY, tercile_bounds
from fedrec.evaluation.measures import categories_of
from fedrec.evaluation.providers import groups_of_items
from fedrec.federated.engine import Engine
from fedrec.federated.method import FederatedMethod
from fedrec.federated.queries import Census, Measure
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
) -> Measured:
    """Test a model on what users hold out, in two queries: what evaluating needs to know of everyone, then the test.

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

    Raises:
        ConfigError: if a column does not exist, or k exceeds the catalogue.
        DataError: if no warm user holds an item out.
    """
    config.require_catalogue(n_items)
    groups = groups_asked(labels, config)
    categories = categories_of(items, config.categories)
    census = engine.sum(Census(n_items), round=round).sums
    popularity = census["items"]
    query = Measure(
        method,
        scoring_state(state),
        popularity,
        categories,
        part,
        Layout.of(config, groups, described=categories is not None),
        tercile_bounds(census["activity"][:, 0].round().long()),
        seed,
        resampling,
    )
    sums = {name: table.cpu() for name, table in engine.sum(query, round=round, phase=1).sums.items()}
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
