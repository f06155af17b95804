"""The figures of a report: each a function of a tidy table, drawn without any global state of matplotlib.

A figure is text as far as it can be: an SVG keeps its words as words, takes ink and grid from the page around it where
it stands inline, and is the same bytes for the same table.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fedrec.report.palette import Mark
from fedrec.report.wording import better, title

_INK, _GRID, _PAPER = "#24292f", "#d9dee3", "#ffffff"
_WIDTH = 9.0  # inches; the page scales it to its column
_GROUPS_A_ROW = 12  # as many as stay readable side by side at that width

_STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # names come from data, and a dollar sign is not a formula
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedrec",  # ids of an SVG are random without a salt
}


def accuracy_against_diversity(
    scores: pd.DataFrame, looks: Mapping[str, Mark], *, accuracy: str, diversity: Sequence[str]
) -> Figure:
    """Arms as points with their intervals; one panel for each diversity metric, which is its horizontal axis.

    Args:
        scores: columns arm, metric, mean, low, high (NaN where there is no interval).
        looks: of each arm; arms that lack a metric are left out of its panel.
        accuracy: the metric of the vertical axis.
        diversity: the metrics of the panels, at least one.
    """
    with _style():
        figure = Figure(figsize=(_WIDTH, 3.7), layout="constrained")
        panels = figure.subplots(1, len(diversity), sharey=True, squeeze=False)[0]
        of = {(row.arm, row.metric): row for row in scores.itertuples()}
        for panel, metric in zip(panels, diversity, strict=True):
            for arm, look in looks.items():
                if (arm, metric) in of and (arm, accuracy) in of:
                    _point(panel, of[arm, metric], of[arm, accuracy], look, arm)
            panel.set_xlabel(f"{title(metric)}{better(metric)}")
            panel.margins(0.12)
        panels[0].set_ylabel(f"{title(accuracy)}{better(accuracy)}")
        panels[0].set_ylim(bottom=0)
        _legend(figure, looks, _point_handle)
    return figure


def _point(panel: Axes, x: object, y: object, look: Mark, arm: str) -> None:
    errors = []
    for score in (x, y):
        mean, low, high = (float(getattr(score, name)) for name in ("mean", "low", "high"))
        errors.append(None if np.isnan(low) else [[mean - low], [high - mean]])
    panel.errorbar(
        [float(x.mean)],  # type: ignore[attr-defined]
        [float(y.mean)],  # type: ignore[attr-defined]
        xerr=errors[0],
        yerr=errors[1],
        fmt=look.shape,
        color=look.colour,
        markersize=9,
        markeredgecolor=_PAPER,
        elinewidth=1.5,
        label=arm,
    )


def learning_curves(history: pd.DataFrame, looks: Mapping[str, Mark], *, metric: str) -> Figure:
    """The validation metric against the epoch or round; a line for each arm and seed, a mark at its best value.

    Args:
        history: columns arm, seed, round, value.
        looks: of each arm; arms without history are left out.
        metric: what the values are of.
    """
    with _style():
        figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
        panel = figure.subplots()
        shown = {arm: look for arm, look in looks.items() if (history["arm"] == arm).any()}
        for arm, look in shown.items():
            for seed, curve in history[history["arm"] == arm].groupby("seed", sort=True):
                ordered = curve.sort_values("round", kind="stable")
                panel.plot(
                    ordered["round"].to_numpy(),
                    ordered["value"].to_numpy(),
                    color=look.colour,
                    linestyle=look.dash,
                    linewidth=1.4,
                    marker=look.shape,
                    markersize=6,
                    markeredgecolor=_PAPER,
                    markevery=[int(np.argmax(ordered["value"].to_numpy()))],
                    label=f"{arm}, seed {seed}",
                )
        panel.set_xlabel("epoch or round")
        panel.set_ylabel(f"validation {title(metric)}{better(metric)}")
        panel.set_ylim(bottom=0)
        panel.set_xlim(left=0)
        _legend(figure, shown, _line_handle)
    return figure


def group_bars(groups: pd.DataFrame, looks: Mapping[str, Mark], *, metric: str) -> Figure:
    """The metric of each group of users, one panel an attribute; a bar is the mean over seeds, its line their range.

    Args:
        groups: columns arm, seed, attribute, group, users, value; attributes and groups are drawn in their order of appearance.
        looks: of each arm.
        metric: what the values are of.
    """
    with _style():
        sizes = {str(name): len(part["group"].unique()) for name, part in groups.groupby("attribute", sort=False)}
        rows = _pack(sizes)
        figure = Figure(figsize=(_WIDTH, 0.5 + 2.6 * len(rows)), layout="constrained")
        strips = figure.add_gridspec(len(rows), 1)
        for strip, attributes in zip(strips, rows, strict=True):
            grid = strip.subgridspec(1, len(attributes), width_ratios=[sizes[name] for name in attributes])
            panels = [figure.add_subplot(cell) for cell in grid]
            for panel, attribute in zip(panels, attributes, strict=True):
                _bars(panel, groups[groups["attribute"] == attribute], looks)
                panel.set_title(attribute.replace("_", " "))
                panel.set_ylim(0, float(groups["value"].max()) * 1.05)
                panel.tick_params(labelleft=panel is panels[0])
            panels[0].set_ylabel(f"{title(metric)}{better(metric)}")
        _legend(figure, {arm: look for arm, look in looks.items() if (groups["arm"] == arm).any()}, _swatch)
    return figure


def _pack(sizes: Mapping[str, int]) -> list[list[str]]:
    """Attributes in rows of figures, in order, as many to a row as stay readable."""
    rows: list[list[str]] = []
    room = 0
    for attribute, size in sizes.items():
        if not rows or size > room:
            rows.append([])
            room = _GROUPS_A_ROW
        rows[-1].append(attribute)
        room -= size
    return rows


def _bars(panel: Axes, groups: pd.DataFrame, looks: Mapping[str, Mark]) -> None:
    users = groups.groupby("group", sort=False)["users"].first()
    names = list(users.index)
    width = 0.84 / len(looks)
    for position, (arm, look) in enumerate(looks.items()):
        values = groups[groups["arm"] == arm].groupby("group")["value"].agg(["mean", "min", "max"]).reindex(names)
        places = np.arange(len(names)) + (position - (len(looks) - 1) / 2) * width
        mean, low, high = (values[name].to_numpy() for name in ("mean", "min", "max"))
        panel.bar(
            places,
            mean,
            width * 0.92,
            yerr=[mean - low, high - mean],
            color=look.colour,
            hatch=look.hatch,
            edgecolor=_PAPER,
            linewidth=0,
            error_kw={"elinewidth": 1, "ecolor": _INK},
            label=arm,
        )
    upright = max(map(len, names)) > 8
    separator = " · " if upright else "\n"
    labels = [f"{name}{separator}{users[name]:,}" for name in names]
    panel.set_xticks(range(len(names)), labels, rotation=90 if upright else 0)
    panel.tick_params(axis="x", length=0)
    panel.grid(axis="x", visible=False)


def _point_handle(look: Mark) -> Artist:
    return Line2D([], [], color=look.colour, marker=look.shape, markersize=8, markeredgecolor=_PAPER, linestyle="none")


def _line_handle(look: Mark) -> Artist:
    return Line2D([], [], color=look.colour, marker=look.shape, markeredgecolor=_PAPER, linestyle=look.dash)


def _swatch(look: Mark) -> Artist:
    return Patch(facecolor=look.colour, hatch=look.hatch, edgecolor=_PAPER, linewidth=0)


def _legend(figure: Figure, looks: Mapping[str, Mark], handle: Callable[[Mark], Artist]) -> None:
    figure.legend(
        handles=[handle(look) for look in looks.values()],
        labels=list(looks),  # given by name: a label that starts with "_" would be left out otherwise
        loc="outside upper left",
        ncols=6,
    )


def to_svg(figure: Figure) -> str:
    """A figure as an SVG file: the same bytes for the same figure."""
    with _style(), warnings.catch_warnings():
        # Letters that matplotlib's own font lacks are no loss: the reader's font draws them.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, facecolor=_PAPER)
    return buffer.getvalue()


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG file, at twice the density of a common screen."""
    with _style():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=200, facecolor=_PAPER, metadata={"Software": None})
    return buffer.getvalue()


def to_inline_svg(figure: Figure, name: str, description: str) -> str:
    """A figure as an element of a page, drawn in the page's own colours of ink and grid.

    Args:
        figure: the figure.
        name: of letters and hyphens, once a page; ids within the element start with it.
        description: what the figure shows, for those who do not see it.
    """
    svg = to_svg(figure)
    svg = svg[svg.index("<svg") :]  # a page has a prolog of its own
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)  # ids must differ between the figures of a page
    for colour, css in ((_INK, "currentColor"), (_GRID, "var(--line)"), (_PAPER, "var(--paper)")):
        svg = svg.replace(colour, css)
    svg = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", svg, count=2)  # the page gives the width
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)


@contextmanager
def _style() -> Iterator[None]:
    """The look of every figure, for as long as it is drawn or written."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a reader's own matplotlibrc must not change the bytes
        matplotlib.rcParams.update(_STYLE)
        yield
