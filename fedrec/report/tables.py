"""The tables of the terminal: the arms of a run, and the arms of several runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fedrec.errors import RunError
from fedrec.report.attacks import attack_tables
from fedrec.report.columns import (
    TIME,
    UPLOAD,
    Cell,
    Column,
    cost_columns,
    metric_column,
    privacy_column,
    summary_columns,
)
from fedrec.report.results import Results, read_results

_LEGEND = "* best of its column · ↑ larger is better · ↓ smaller is better · [95% interval over users]"

_LEADING_ZERO = re.compile(r"(?<!\d)0(?=\.\d{4})")  # left out of metrics, as papers do: the table is to fit 120 columns


def summary_table(run: Path) -> Table:
    """The arms of a finished run, one a row. It takes about 120 columns of a terminal.

    Raises:
        RunError: if the folder holds no finished run.
    """
    results = read_results(run)
    seeds = len(results.manifest["seeds"])
    table = _table(f"{results.name}: test metrics, mean of {seeds} seed{'s' * (seeds > 1)}", ["arm"])
    shown = [*summary_columns(results), *(cost for cost in cost_columns(results) if cost.title in (UPLOAD, TIME))]
    _add_columns(table, shown)
    for arm in results.arms:
        table.add_row(Text(arm, style="bold"), *_cells(shown, arm))
    return table


def comparison_table(runs: Sequence[Path], *, across_data: bool = False) -> Table:
    """The headline metric of the arms of several finished runs.

    Args:
        runs: their folders.
        across_data: show runs on different data or splits side by side, with a column that says which is which; their
            numbers answer different questions.

    Raises:
        RunError: if a folder holds no finished run, the runs do not share a metric, or, unless `across_data`, the data
            and split that they were tested on.
    """
    found = [read_results(run) for run in runs]
    if not found:
        raise RunError("nothing to compare: 0 runs; give the folders of finished runs")
    for other in found[1:]:
        _require_comparable(found[0], other, across_data)
    table = _table(f"{len(found)} runs", ["run", "arm", *(["data"] if across_data else [])])
    for position, results in enumerate(found):
        shown = [metric_column(results, results.headline), privacy_column(results)]
        if position == 0:
            _add_columns(table, shown)
        for arm in results.arms:
            data = [Text(_fingerprint(results)[:12])] if across_data else []
            table.add_row(Text(results.path.name), Text(arm, style="bold"), *data, *_cells(shown, arm))
        table.add_section()
    return table


def attack_summaries(run: Path) -> list[Table]:
    """A table for each attack of a finished run, one row an arm and a case.

    Raises:
        RunError: if the folder holds no finished run.
    """
    found = []
    for attack in attack_tables(read_results(run)):
        caption = Text("± standard error · chance: the same guess without what was observed, or about who is not in it")
        table = Table(
            title=Text(f"attack: {attack.name}"),
            caption=caption,
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            show_edge=False,
        )
        for heading in ("arm", "case"):
            table.add_column(Text(heading), no_wrap=True)
        for title in attack.measures.values():
            table.add_column(Text(title), justify="right", no_wrap=True)
        for row in attack.rows:
            cells = [row.cells.get(measure) for measure in attack.measures]
            table.add_row(Text(row.arm, style="bold"), Text(row.case), *(_attacked(cell) for cell in cells))
        found.append(table)
    return found


def _attacked(cell: Cell | None) -> Text:
    if cell is None:
        return Text("–", style="dim")
    text = Text(cell.text)
    return text.append(f" ({cell.note})", style="dim") if cell.note else text


def _require_comparable(first: Results, other: Results, across_data: bool) -> None:
    if first.headline != other.headline:
        raise RunError(
            f"{other.path}: compared by {other.headline}, and {first.path} by {first.headline}; "
            "run them with one evaluation.metric"
        )
    if not across_data and _fingerprint(first) != _fingerprint(other):
        raise RunError(
            f"{other.path}: tested on other data or another split (fingerprint {_fingerprint(other)[:12]}) than "
            f"{first.path} ({_fingerprint(first)[:12]}), so their numbers cannot be compared; run both on one split, "
            "or see them side by side with --across-data"
        )


def _fingerprint(results: Results) -> str:
    """Of the parts of the split and the catalogue."""
    return str(results.manifest["split"]["fingerprint"])


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=Text(title), caption=Text(_LEGEND), box=SIMPLE_HEAD, padding=0, show_edge=False)
    for name in names:
        table.add_column(Text(name), no_wrap=True)
    return table


def _add_columns(table: Table, shown: Sequence[Column]) -> None:
    for column in shown:
        # A word a line: a table of this many columns has to fit a terminal.
        heading = column.title.replace("@", " @").replace(" ", "\n")
        table.add_column(Text(f"{heading} {column.arrow}".rstrip()), justify="right", no_wrap=True)


def _cells(shown: Sequence[Column], arm: str) -> list[Text]:
    # There is room for the intervals of accuracy; the others stand in the report.
    return [_cell(column.cells.get(arm), with_note=column.family == "Accuracy") for column in shown]


def _cell(cell: Cell | None, *, with_note: bool) -> Text:
    if cell is None:
        return Text("–", style="dim")
    value, note = (_LEADING_ZERO.sub("", text) for text in (cell.text, cell.note))
    text = Text.assemble((f"{value}*", "bold green") if cell.best else f"{value} ")
    return text.append(f"\n{note}", style="dim") if with_note and note else text
