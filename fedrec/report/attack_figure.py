"""The figure of the attacks: how often each was right, beside what chance comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedrec.report.canvas import INK, PAPER, style
from fedrec.report.palette import Mark

_WIDTH = 9.0  # inches, as the other figures
_PANELS_A_ROW = 3


def success_against_chance(attacks: Sequence[Mapping[str, Any]], looks: Mapping[str, Mark]) -> Figure:
    """A panel an attack, a row a case: success along the axis, a mark for each arm, and an upright line for chance.

    Args:
        attacks: what `summary.json` says of attacks, of those alone that have a `shown_measure`.
        looks: of each arm.
    """
    names = list(dict.fromkeys(str(entry["attack"]) for entry in attacks))
    attacked = list(dict.fromkeys(str(entry["arm"]) for entry in attacks))
    rows = -(-len(names) // _PANELS_A_ROW)
    with style():
        figure = Figure(figsize=(_WIDTH, 0.6 + 2.4 * rows), layout="constrained")
        panels = figure.subplots(rows, min(_PANELS_A_ROW, len(names)), squeeze=False).flatten()
        for panel, name in zip(panels, names, strict=False):
            _draw(panel, [entry for entry in attacks if entry["attack"] == name], looks)
            panel.set_title(name)
        for panel in panels[len(names) :]:
            panel.set_visible(False)
        handles = [_handle(looks[arm]) for arm in attacked]
        chance = Line2D([], [], color=INK, marker="|", markersize=9, linestyle="none")
        figure.legend(handles=[*handles, chance], labels=[*attacked, "chance"], loc="outside upper left", ncols=6)
    return figure


def shown_measure(findings: Sequence[Mapping[str, Any]]) -> str | None:
    """The first measure of an attack that is a share, with a chance to hold it against; None if there is none."""
    for measure in dict.fromkeys(str(finding["measure"]) for finding in findings):
        of_measure = [finding for finding in findings if finding["measure"] == measure]
        if all(0 <= finding["value"] <= 1 and finding["chance"] is not None for finding in of_measure):
            return measure
    return None


def _draw(panel: Axes, entries: Sequence[Mapping[str, Any]], looks: Mapping[str, Mark]) -> None:
    measure = shown_measure(entries[0]["findings"])
    chosen = [
        (str(entry["arm"]), position, finding)
        for position, entry in enumerate(entries)
        for finding in entry["findings"]
        if finding["measure"] == measure
    ]
    cases = list(dict.fromkeys(str(finding["case"]) for _, _, finding in chosen))
    for arm, position, finding in chosen:
        offset = 0.7 * ((position + 0.5) / len(entries) - 0.5)
        height, look = cases.index(finding["case"]) + offset, looks[arm]
        panel.plot([finding["chance"]], [height], color=INK, marker="|", markersize=9, linestyle="none")
        panel.errorbar(
            [finding["value"]],
            [height],
            xerr=None if finding["error"] is None else [finding["error"]],
            fmt=look.shape,
            color=look.colour,
            markersize=6,
            markeredgecolor=PAPER,
            elinewidth=1.2,
            label=arm,
        )
    panel.set_yticks(range(len(cases)), cases)
    panel.set_ylim(len(cases) - 0.5, -0.5)  # the first case on top
    panel.set_xlim(-0.05, 1.05)
    panel.set_xlabel(str(measure))


def _handle(look: Mark) -> Line2D:
    return Line2D([], [], color=look.colour, marker=look.shape, markersize=8, markeredgecolor=PAPER, linestyle="none")
