"""The report of a run: one HTML page that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fedrec.evaluation import Metric
from fedrec.experiment.store import write_atomically
from fedrec.report import columns, wording
from fedrec.report.attacks import attack_tables
from fedrec.report.canvas import to_inline_svg
from fedrec.report.columns import Column
from fedrec.report.everything import every_metric
from fedrec.report.findings import standings, verdicts
from fedrec.report.gallery import pictures
from fedrec.report.palette import marks
from fedrec.report.results import Results, read_results


def write_report(run: Path) -> Path:
    """Write report.html of a finished run: the same bytes for the same run.

    Args:
        run: the folder of the run.

    Returns:
        The path of the page.

    Raises:
        RunError: if the folder holds no finished run, or a file of it is missing or damaged.
    """
    page = run / "report.html"
    write_atomically(page, render(read_results(run)))
    return page


def render(results: Results) -> str:
    """The page as text. Whatever comes from data or from a configuration is escaped."""
    summary = columns.summary_columns(results)
    drawn = {
        # The figure escapes what it draws; the page must take it as it is.
        picture.name: (Markup(to_inline_svg(picture.figure, picture.name, picture.caption)), picture.caption)
        for picture in pictures(results)
    }
    ranked = standings(results)
    # The axis of the bars of "In short" starts at 0 and ends with the highest interval.
    end = max((standing.mean if math.isnan(standing.high) else standing.high) for standing in ranked) or 1.0
    environment = _environment()
    environment.filters["along"] = lambda value: f"{100 * value / end:.2f}"
    return environment.get_template("report.html").render(
        results=results,
        looks=marks(results.arms),
        standings=ranked,
        verdicts=verdicts(results),
        summary=summary,
        fairness=columns.fairness_columns(results),
        everything=every_metric(results),
        cost=columns.cost_columns(results),
        attacks=attack_tables(results),
        pictures=drawn,
        guarantees={arm: guarantee for arm in results.arms if (guarantee := results.arm(arm)["guarantee"])},
        metrics=_metrics(summary),
        seed_deviations={arm: s for arm in results.arms if (s := results.seed_deviation(arm)) is not None},
        tuning={arm: tuning for arm in results.arms if (tuning := results.arm(arm).get("tuning"))},
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedrec.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        function.__name__: function
        for function in (
            wording.title,
            wording.number,
            wording.signed,
            wording.effect,
            wording.interval,
            wording.p_value,
            wording.p_equals,
            wording.epsilon,
            wording.moment,
            wording.plural,
            wording.setting,
        )
    }
    environment.filters |= {"families": _families, "beside_kind": _beside_kind}
    return environment


def _beside_kind(section: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a component."""
    return {key: value for key, value in section.items() if key != "kind"}


def _families(shown: Sequence[Column]) -> list[tuple[str, int]]:
    """The families of neighbouring columns, and how many columns each spans."""
    return [(family, len(list(members))) for family, members in groupby(shown, lambda column: column.family)]


def _metrics(shown: Sequence[Column]) -> list[tuple[str, Metric]]:
    """The metrics of these columns, each with the name it is shown by."""
    known = [(column.title, wording.known_metric(column.metric)) for column in shown if column.metric]
    return [(title, metric) for title, metric in known if metric is not None]
