"""How metrics, numbers and findings are said to a reader."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedrec.errors import ConfigError
from fedrec.evaluation import Metric, MetricName, metric_of

_NAMES = {
    "ndcg": "NDCG",
    "mrr": "MRR",
    "map": "MAP",
    "auc": "AUC",
    "rmse": "RMSE",
    "mae": "MAE",
    "rsp": "RSP",
    "reo": "REO",
    "intra-list-diversity": "Intra-list diversity",
}
_ARROWS = {"+": "↑", "-": "↓", "·": ""}
_BETTER = {"+": " (larger is better)", "-": " (smaller is better)", "·": ""}


def known_metric(name: str) -> Metric | None:
    """The metric of a result's name, or None for one that only the run's author knows."""
    try:
        return metric_of(name)
    except ConfigError:
        return None


def title(name: str) -> str:
    """A metric's name as a heading: "NDCG@10", "Hit rate@10", "NDCG@10 of 99 sampled", "Worst group, NDCG@10"."""
    parts = MetricName.of(name)
    said = _NAMES.get(parts.metric, _sentence(parts.metric)) + (f"@{parts.k}" if parts.k is not None else "")
    said += " of 99 sampled" if parts.sampled else ""
    return f"{_sentence(parts.summary)}, {said}" if parts.summary else said


def _sentence(name: str) -> str:
    return name.replace("-", " ").capitalize()


def arrow(name: str) -> str:
    """Which way a metric is better: an arrow, or nothing if it only describes."""
    metric = known_metric(name)
    return _ARROWS[metric.orientation] if metric else ""


def better(name: str) -> str:
    """The same in words, to be put behind a title."""
    metric = known_metric(name)
    return _BETTER[metric.orientation] if metric else ""


def best(name: str, values: Mapping[str, float]) -> set[str]:
    """The keys of the best values, as far as they can be told apart when shown.

    None is best if the metric only describes, or there is nothing to compare with.
    """
    metric = known_metric(name)
    if metric is None or metric.orientation == "·" or len(values) < 2:
        return set()
    first = max(values.values()) if metric.orientation == "+" else min(values.values())
    return {key for key, value in values.items() if number(value) == number(first)}


def number(value: float) -> str:
    """A value of a metric: four decimals below one, where differences between arms are, and fewer above."""
    size = abs(value)
    return f"{value:.4f}" if size < 1.5 else f"{value:.2f}" if size < 1000 else f"{value:,.0f}"


def signed(value: float) -> str:
    """A difference, with its sign; the minus is a real one."""
    return f"{value:+.4f}".replace("-", "−")


def effect(value: float) -> str:
    """An effect size, with its sign."""
    return f"{value:+.2f}".replace("-", "−")


def interval(low: float, high: float) -> str:
    """An interval."""
    return f"[{number(low)}, {number(high)}]".replace("-", "−")


def p_value(p: float) -> str:
    """A p-value: "< 0.001", "0.012", "0.34"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_equals(p: float) -> str:
    """A p-value within a sentence: "p < 0.001", "p = 0.012"."""
    return f"p {p_value(p)}" if p < 0.001 else f"p = {p_value(p)}"


def epsilon(value: float) -> str:
    """ε to two decimals, rounded up: a bound is never rounded down."""
    return f"{math.ceil(100 * value) / 100:.2f}"


def duration(seconds: float) -> str:
    """A time span: "8.2 s", "4 min 05 s", "1 h 02 min"."""
    if seconds < 59.95:  # what is less than "60.0 s" when rounded
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def megabytes(value: float) -> str:
    """An amount of data, given in megabytes."""
    if value < 0.1:
        return f"{value * 1000:.1f} kB" if value > 0 else "0"
    return f"{value:,.2f} MB" if value < 100 else f"{value:,.0f} MB"


def moment(iso: str) -> str:
    """A point in time, from ISO 8601 in UTC: "2025-03-01 09:04 UTC"."""
    return f"{iso[:10]} {iso[11:16]} UTC"


def plural(count: int, noun: str) -> str:
    """A number of things."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def setting(value: Any) -> str:
    """A value of a configuration, as it is written there; the outermost braces of a table are left out."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_inner(inner)}" for key, inner in value.items())
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"[{', '.join(map(_inner, value))}]" if isinstance(value, list) else str(value)


def _inner(value: Any) -> str:
    return f"{{ {setting(value)} }}" if isinstance(value, Mapping) else setting(value)
