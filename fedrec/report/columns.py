"""The table of the arms: what is shown of each, in which order, and which is best. Terminal and page share it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from fedrec.report import wording
from fedrec.report.results import Results

UPLOAD, TIME = "Upload per user", "Time per seed"


@dataclass(frozen=True)
class Cell:
    """One value of one arm.

    Attributes:
        text: the value.
        note: what stands below it, such as an interval; may be empty, or of several lines.
        best: whether it is marked as the best of its column.
    """

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        family: what it stands under: accuracy, diversity, fairness, privacy, cost; or an attribute of users.
        title: of the column.
        cells: by arm; an arm without a value has no cell.
        metric: its name in results, or empty if it is none.
    """

    family: str
    title: str
    cells: Mapping[str, Cell]
    metric: str = ""

    @property
    def arrow(self) -> str:
        """Which way a metric is better, or nothing."""
        return wording.arrow(self.metric)


def summary_columns(results: Results) -> list[Column]:
    """What was measured of every arm, and what it promises, as far as the run has it."""
    return _with_cells(
        [
            *_accuracy(results),
            *(metric_column(results, name + results.length, "Diversity") for name in _DIVERSITY),
            _extreme(results, "worst-group", min),
            _extreme(results, "gap", max),
            privacy_column(results),
        ]
    )


def fairness_columns(results: Results) -> list[Column]:
    """What lies between the groups of each attribute of users; a gap with what chance alone would leave of it.

    No arm is marked best: the least of several noisy numbers is mostly noise.
    """
    table = results.between_groups
    return [
        _column(
            str(attribute),
            _said(str(summary)),
            f"{results.headline}-{summary}",
            _by_arm(rows, "value"),
            _by_chance(results, str(attribute)) if summary == "gap" else {},
        )
        for attribute, of_attribute in table.groupby("attribute", sort=False)
        for summary, rows in of_attribute.groupby("summary", sort=False)
    ]


def cost_columns(results: Results) -> list[Column]:
    """What each arm cost in messages and in time, mean over seeds."""
    sent = {arm: cost for arm in results.arms if (cost := results.arm(arm)["communication"]) is not None}
    times = {arm: Cell(wording.duration(results.arm(arm)["seconds"])) for arm in results.arms}
    return _with_cells(
        [
            Column("Cost", "Rounds", {arm: Cell(f"{cost['rounds']:.4g}") for arm, cost in sent.items()}),
            *(
                Column("Cost", said, {arm: Cell(wording.megabytes(cost[name])) for arm, cost in sent.items()})
                for said, name in ((UPLOAD, "mb_up_per_user"), ("Download per user", "mb_down_per_user"))
            ),
            Column("Cost", TIME, times),
        ]
    )


def metric_column(results: Results, name: str, family: str = "Accuracy") -> Column:
    """A test metric over all users, with its interval where there is one."""
    rows = results.scores[results.scores["metric"] == name]
    low, high = _by_arm(rows.dropna(), "low"), _by_arm(rows, "high")
    notes = {arm: wording.interval(low[arm], high[arm]) for arm in low}
    means = _by_arm(rows, "mean")
    return _column(family, wording.title(name), name, means, notes, wording.best(name, means))


def privacy_column(results: Results) -> Column:
    """ε of the arms that have a guarantee, with its δ. Less is more private, but no arm is marked for it."""
    guarantees = {arm: results.arm(arm)["guarantee"] for arm in results.arms}
    cells = {
        arm: Cell(wording.epsilon(guarantee["epsilon"]), f"δ = {guarantee['delta']:g}")
        for arm, guarantee in guarantees.items()
        if guarantee is not None
    }
    return Column("Privacy", "ε", cells)


_DIVERSITY = ("coverage", "gini", "novelty", "intra-list-diversity")


def _accuracy(results: Results) -> Iterator[Column]:
    shown: list[Column] = []
    for name in dict.fromkeys([results.headline, *map(results.beside_headline, ("recall", "hit-rate"))]):
        column = metric_column(results, name)
        # With one held-out item a user, recall and hit rate are the same number, and are shown once.
        if all(column.cells != other.cells for other in shown):
            shown.append(column)
    yield from shown


def _extreme(results: Results, summary: str, hardest: Callable[[Iterable[float]], float]) -> Column:
    """The worst group, or the widest gap, of any attribute; no arm is marked best, as in `fairness_columns`."""
    rows = results.between_groups[results.between_groups["summary"] == summary]
    values = {str(arm): hardest(of_arm["value"]) for arm, of_arm in rows.groupby("arm", sort=False)}
    return _column("Fairness", _said(summary), f"{results.headline}-{summary}", values, {})


def _by_chance(results: Results, attribute: str) -> dict[str, str]:
    """What chance would make of the gap of an attribute, by arm, where somebody could deal out users anew."""
    tests = {arm: results.user_groups(arm)[attribute]["gap"] for arm in results.arms}
    return {
        arm: f"{wording.number(test['by_chance'])} by chance\n{wording.p_equals(test['p'])}"
        for arm, test in tests.items()
        if test is not None and test["by_chance"] is not None
    }


def _by_arm(rows: pd.DataFrame, column: str) -> dict[str, float]:
    return {str(arm): float(value) for arm, value in zip(rows["arm"], rows[column], strict=True)}


def _said(summary: str) -> str:
    return summary.replace("-", " ").capitalize()


def _with_cells(columns: Iterable[Column]) -> list[Column]:
    return [column for column in columns if column.cells]


def _column(
    family: str,
    title: str,
    name: str,
    values: Mapping[str, float],
    notes: Mapping[str, str],
    best: Collection[str] = (),
) -> Column:
    cells = {arm: Cell(wording.number(value), notes.get(arm, ""), arm in best) for arm, value in values.items()}
    return Column(family, title, cells, name)
