"""Every test metric of a run at one length of the list, a row each: what the summary leaves out for want of width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedrec.evaluation import MetricName
from fedrec.report import wording
from fedrec.report.results import Results

_SEGMENTS = ("cold-users", "cold-items")


@dataclass(frozen=True)
class Row:
    """One metric of one group.

    Attributes:
        title: of the metric.
        arrow: which way it is better, or nothing.
        group: whose it is: empty for everyone, "popularity=low", "cold-users".
        cells: by arm, its mean over seeds; an arm without a value has none.
    """

    title: str
    arrow: str
    group: str
    cells: Mapping[str, str]


def every_metric(results: Results) -> list[Row]:
    """What was measured of everyone, of the cold-start segments and of groups of items, in the order of metrics.csv.

    Groups of users and functions of users' values are left out: they have tables of their own, and there are hundreds.
    """
    length = MetricName.of(results.headline).k
    tested = results.metrics[results.metrics["split"] == "test"]
    shown = {str(name) for name in tested["metric"].unique() if _shown(str(name), length)}
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for metric, group, arm, value in zip(*(tested[name] for name in ("metric", "group", "arm", "value")), strict=True):
        if metric in shown and _whose(metric, group):
            values.setdefault((metric, group), {}).setdefault(arm, []).append(value)
    rows = []
    for (metric, group), by_arm in values.items():
        means = {arm: sum(by_arm[arm]) / len(by_arm[arm]) for arm in results.arms if arm in by_arm}
        cells = {arm: wording.number(mean) for arm, mean in means.items()}
        rows.append(Row(wording.title(metric), wording.arrow(metric), group, cells))
    return rows


def _shown(name: str, length: int | None) -> bool:
    parts = MetricName.of(name)
    return not parts.summary and parts.k in (None, length)


def _whose(metric: str, group: str) -> bool:
    known = wording.known_metric(metric)
    return not group or group in _SEGMENTS or (known is not None and known.level == "provider")
