"""The figures of a report: each a function of a tidy table, drawn without any global state of matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedrec.report.canvas import INK, PAPER, style
from fedrec.report.palette import Mark
from fedrec.report.wording import better, title

_WIDTH = 9.0  # inches; the page scales it to its column
_GROUPS_A_ROW = 12  # as many as stay readable side by side at that width


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
    with style():
        figure = Figure(figsize=(_WIDTH, 3.7), layout="constrained")
        panels = figure.subplots(1, len(diversity), sharey=True, squeeze=False)[0]
        rows: Any = scores[["arm", "metric", "mean", "low", "high"]].itertuples(index=False)
        of = {(arm, name): estimate for arm, name, *estimate in rows}
        for panel, metric in zip(panels, diversity, strict=True):
            for arm, look in looks.items():
                if (arm, metric) in of and (arm, accuracy) in of:
                    _point(panel, arm, look, of[arm, metric], of[arm, accuracy])
            panel.set_xlabel(f"{title(metric)}{better(metric)}")
            panel.margins(0.12)
        panels[0].set_ylabel(f"{title(accuracy)}{better(accuracy)}")
        panels[0].set_ylim(bottom=0)
        _legend(figure, looks, _point_handle)
    return figure


def _point(panel: Axes, arm: str, look: Mark, across: Sequence[float], up: Sequence[float]) -> None:
    """One arm; `across` and `up` are (mean, low, high)."""
    (x, x_error), (y, y_error) = (
        (mean, None if np.isnan(low) else [[mean - low], [high - mean]]) for mean, low, high in (across, up)
    )
    panel.errorbar(
        [x],
        [y],
        xerr=x_error,
        yerr=y_error,
        fmt=look.shape,
        color=look.colour,
        markersize=9,
        markeredgecolor=PAPER,
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
    with style():
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
                    markeredgecolor=PAPER,
                    markevery=[int(np.argmax(ordered["value"].to_numpy()))],
                    label=f"{arm}, seed {seed}",
                )
        panel.set_xlabel("epoch or round")
        panel.set_ylabel(f"validation {title(metric)}")
        panel.set_ylim(bottom=0)
        panel.set_xlim(left=0)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure, shown, _line_handle)
    return figure


def group_bars(groups: pd.DataFrame, looks: Mapping[str, Mark], *, metric: str) -> Figure:
    """The metric of each group of users with its interval, one panel an attribute.

    Args:
        groups: columns arm, attribute, group, users, mean, low, high; attributes and groups are drawn in their order
            here.
        looks: of each arm.
        metric: what the values are of.
    """
    with style():
        sizes = {str(name): len(part["group"].unique()) for name, part in groups.groupby("attribute", sort=False)}
        rows = _pack(sizes)
        figure = Figure(figsize=(_WIDTH, 0.5 + 2.6 * len(rows)), layout="constrained")
        top = 1.05 * float(groups["high"].max()) or 1.0  # an axis needs a length, also where nobody was served
        strips = figure.add_gridspec(len(rows), 1)
        for row, attributes in enumerate(rows):
            grid = strips[row].subgridspec(1, len(attributes), width_ratios=[sizes[name] for name in attributes])
            panels = [figure.add_subplot(grid[column]) for column in range(len(attributes))]
            for panel, attribute in zip(panels, attributes, strict=True):
                _bars(panel, groups[groups["attribute"] == attribute], looks)
                panel.set_title(attribute.replace("_", " "))
                panel.set_ylim(0, top)
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
        values = groups[groups["arm"] == arm].set_index("group").reindex(names)
        places = np.arange(len(names)) + (position - (len(looks) - 1) / 2) * width
        mean, low, high = (values[name].to_numpy() for name in ("mean", "low", "high"))
        panel.bar(
            places,
            mean,
            width * 0.92,
            yerr=np.maximum([mean - low, high - mean], 0),  # means of equal values may differ by a rounding
            color=look.colour,
            hatch=look.hatch,
            edgecolor=PAPER,
            linewidth=0,
            error_kw={"elinewidth": 1, "ecolor": INK},
            label=arm,
        )
    upright = max(map(len, names)) > 8
    separator = " · " if upright else "\n"
    labels = [f"{name}{separator}{users[name]:,}" for name in names]
    panel.set_xticks(range(len(names)), labels, rotation=90 if upright else 0)
    panel.tick_params(axis="x", length=0)
    panel.grid(axis="x", visible=False)


def _point_handle(look: Mark) -> Artist:
    return Line2D([], [], color=look.colour, marker=look.shape, markersize=8, markeredgecolor=PAPER, linestyle="none")


def _line_handle(look: Mark) -> Artist:
    return Line2D([], [], color=look.colour, marker=look.shape, markeredgecolor=PAPER, linestyle=look.dash)


def _swatch(look: Mark) -> Artist:
    return Patch(facecolor=look.colour, hatch=look.hatch, edgecolor=PAPER, linewidth=0)


def _legend(figure: Figure, looks: Mapping[str, Mark], handle: Callable[[Mark], Artist]) -> None:
    figure.legend(
        handles=[handle(look) for look in looks.values()],
        labels=list(looks),  # given by name: a label that starts with "_" would be left out otherwise
        loc="outside upper left",
        ncols=6,
    )
