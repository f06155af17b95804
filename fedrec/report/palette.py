"""How an arm looks: one colour, one shape and one dash for it, in every figure and table of a report.

The colours are those of Okabe and Ito (2008), which people with any form of colour blindness can tell apart, in an
order of changing lightness. Shape and dash tell the arms apart where there is no colour at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mark:
    """How one arm is drawn.

    Attributes:
        colour: "#rrggbb".
        shape: matplotlib's name of the marker.
        outline: the same shape as the path of an SVG, in a box of 12 by 12.
        dash: matplotlib's line style.
        hatch: matplotlib's fill pattern of a bar, which print needs.
    """

    colour: str
    shape: str
    outline: str
    dash: Any
    hatch: str


_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A")
_SHAPES = (
    ("o", "M6 1.2a4.8 4.8 0 1 0 .01 0z"),
    ("s", "M1.8 1.8h8.4v8.4H1.8z"),
    ("^", "M6 .9l5.3 9.6H.7z"),
    ("D", "M6 .4L11.6 6 6 11.6.4 6z"),
    ("v", "M6 11.1L.7 1.5h10.6z"),
)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1.2, 1, 1.2)), (0, (1, 1.2)))
_HATCHES = ("", "///", "...", "\\\\\\", "xxx")


def marks(arms: Sequence[str]) -> dict[str, Mark]:
    """The look of each arm, by its position: 35 arms differ in colour or shape before one repeats."""
    looks = {}
    for position, arm in enumerate(arms):
        shape, outline = _SHAPES[position % len(_SHAPES)]
        looks[arm] = Mark(
            colour=_COLOURS[position % len(_COLOURS)],
            shape=shape,
            outline=outline,
            dash=_DASHES[position % len(_DASHES)],
            hatch=_HATCHES[position % len(_HATCHES)],
        )
    return looks
