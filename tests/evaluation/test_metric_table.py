"""The table says something about every metric, and only what is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrec.errors import ConfigError
from fedrec.evaluation.accuracy import ACCURACY
from fedrec.evaluation.fairness import BETWEEN_GROUPS, OVER_USERS
from fedrec.evaluation.metrics import METRICS, metric_of


def test_every_metric_is_complete() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert all([metric.formula, metric.range, metric.source])


def test_every_accuracy_and_every_summary_is_listed() -> None:
    assert set(ACCURACY) <= set(METRICS)
    assert {name for name, metric in METRICS.items() if metric.level == "group"} == {*BETWEEN_GROUPS, *OVER_USERS}
    assert all(METRICS[name].level == "user" and METRICS[name].orientation == "+" for name in ACCURACY)


def test_smaller_is_better_for_inequality_and_error_alone() -> None:
    smaller = {name for name, metric in METRICS.items() if metric.orientation == "-"}
    assert smaller == {
        *("gini", "gap", "coefficient-of-variation", "provider-gini", "rsp", "reo"),
        *("rmse", "mae", "calibration-error", "exposure-kl"),
    }


def test_neither_direction_is_better_for_shares_and_counts_alone() -> None:
    described = {name for name, metric in METRICS.items() if metric.orientation == "·"}
    assert described == {
        *("popularity-lift", "exposure-lift", "users", "interactions"),
        *("exposure-share", "catalogue-share", "interaction-share", "relevance-share"),
    }


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("ndcg@10", "ndcg"),
        ("hit-rate@5", "hit-rate"),
        ("intra-list-diversity@20", "intra-list-diversity"),
        ("ndcg@10-gap", "gap"),
        ("hit-rate@5-worst-group", "worst-group"),
        ("users", "users"),
        ("ndcg@10-sampled-99", "ndcg"),
        ("ndcg@10-sampled-99-worst-group", "worst-group"),
    ],
)
def test_a_row_leads_to_its_metric(row: str, name: str) -> None:
    assert metric_of(row) is METRICS[name]


@pytest.mark.parametrize(("row", "near"), [("ncdg@10", "ndcg"), ("ndcg@10-gab", "gap"), ("ndgc@10-sampled-99", "ndcg")])
def test_an_unknown_row_names_the_nearest(row: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
        metric_of(row)


def test_the_document_has_every_metric_under_its_heading_and_no_other() -> None:
    document = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    headings = {
        "user": "One value a user",
        "list": "One value for all lists",
        "group": "Between users",
        "provider": "Between providers of items",
    }
    for level, heading in headings.items():
        section = document.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        found = [line for line in section.splitlines() if line.startswith("| `")]
        expected = [
            "| "
            + " | ".join(
                cell.replace("|", "\\|")
                for cell in (f"`{metric.name}`", metric.orientation, metric.formula, metric.range, metric.source)
            )
            + " |"
            for metric in METRICS.values()
            if metric.level == level
        ]
        assert found == expected
