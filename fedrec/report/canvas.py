"""How figures look, and how they become files and elements of a page.

A figure is text as far as it can be: an SVG keeps its words as words, takes ink and grid from the page around it where
it stands inline, and is the same bytes for the same figure.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

INK, GRID, PAPER = "#24292f", "#d9dee3", "#ffffff"

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # names come from data, and a dollar sign is not a formula
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedrec",  # ids of an SVG are random without a salt
}


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure, for as long as it is drawn or written."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a reader's own matplotlibrc must not change the bytes
        matplotlib.rcParams.update(_STYLE)
        yield


def _settle(figure: Figure) -> None:
    """Lay a figure out once and for all.

    The solver of the layout differs in the last bits from one call to the next, and ids within an SVG are hashes of
    positions, so positions are rounded.
    """
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
        for panel in figure.axes:
            sides = (round(side, 5) for side in panel.get_position().bounds)  # in widths and heights of the figure
            panel.set_position(Bbox.from_bounds(*sides))


def to_svg(figure: Figure) -> str:
    """A figure as an SVG file: the same bytes for the same figure."""
    with style(), warnings.catch_warnings():
        # Letters that matplotlib's own font lacks are no loss: the reader's font draws them.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        _settle(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, facecolor=PAPER)
    return buffer.getvalue()


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG file, at twice the density of a common screen."""
    with style():
        _settle(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=200, facecolor=PAPER, metadata={"Software": None})
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
    svg = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", svg, count=2)  # the page gives the width
    svg = re.sub("<[^>]*>", lambda tag: _in_page(tag[0], name), svg)  # within tags alone: words stay as they are
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)


def _in_page(tag: str, name: str) -> str:
    """A tag with ids that differ from those of the page's other figures, and in the colours of the page."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    for colour, css in ((INK, "currentColor"), (GRID, "var(--line)"), (PAPER, "var(--paper)")):
        tag = tag.replace(colour, css)
    return tag
