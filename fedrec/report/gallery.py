"""Which figures a run has, what they show, and writing them as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from fedrec.evaluation import MIN_GROUP
from fedrec.experiment.store import write_atomically
from fedrec.report.attack_figure import shown_measure, success_against_chance
from fedrec.report.canvas import to_png, to_svg
from fedrec.report.figures import accuracy_against_diversity, group_bars, learning_curves
from fedrec.report.palette import marks
from fedrec.report.results import Results, read_results
from fedrec.report.wording import title


@dataclass(frozen=True)
class Picture:
    """A figure of a run.

    Attributes:
        name: of its file, without the ending.
        figure: the figure.
        caption: what it shows and how to read it.
    """

    name: str
    figure: Figure
    caption: str


def write_figures(run: Path, folder: Path, form: Literal["svg", "png"] = "svg") -> list[Path]:
    """Write the figures of a finished run as files, for a paper or a web page.

    Args:
        run: the folder of the run.
        folder: where to write; it is made if it does not exist.
        form: of the files.

    Returns:
        The files; a run has a figure only of what it measured.

    Raises:
        RunError: if the folder holds no finished run.
    """
    paths = []
    for picture in pictures(read_results(run)):
        path = folder / f"{picture.name}.{form}"
        write_atomically(path, to_svg(picture.figure) if form == "svg" else to_png(picture.figure))
        paths.append(path)
    return paths


def pictures(results: Results) -> list[Picture]:
    """The figures for which the run has numbers."""
    return [*_trade(results), *_groups(results), *_attacks(results), *_curves(results)]


def _trade(results: Results) -> Iterator[Picture]:
    measured = set(results.scores["metric"])
    names = [f"{name}{results.length}" for name in ("coverage", "intra-list-diversity", "novelty")]
    diversity = [name for name in names if name in measured]
    if diversity:
        figure = accuracy_against_diversity(
            results.scores, marks(results.arms), accuracy=results.headline, diversity=diversity
        )
        yield Picture(
            "accuracy-against-diversity",
            figure,
            f"{title(results.headline)} against what the lists offer. The upper right corner is best in every panel. "
            "Lines are 95% intervals over users; coverage is one number for all lists and has none. Lists drawn at "
            "random are the most diverse of all: diversity counts only as far as accuracy goes with it.",
        )


def _groups(results: Results) -> Iterator[Picture]:
    if len(results.groups):
        yield Picture(
            "groups",
            group_bars(results.groups, marks(results.arms), metric=results.headline),
            f"{title(results.headline)} of each group of users, mean over seeds. Lines are 95% intervals over the "
            "users of a group, whose number stands below it. "
            f"Groups under {MIN_GROUP} are left out of gap, worst group and ratio: so few do not even give an interval "
            "that can be relied on.",
        )


def _attacks(results: Results) -> Iterator[Picture]:
    shown = [entry for entry in results.summary.get("attacks", []) if shown_measure(entry["findings"]) is not None]
    if shown:
        yield Picture(
            "attacks",
            success_against_chance(shown, marks(results.arms)),
            "How often each attack was right, in each case. Upright lines are chance: the same guess without what was "
            "observed, or about users who are not in it. Lines are standard errors.",
        )


def _curves(results: Results) -> Iterator[Picture]:
    with_curve = [arm for arm in results.arms if (results.curves["arm"] == arm).any()]
    if with_curve:
        without = [arm for arm in results.arms if arm not in with_curve]
        yield Picture(
            "learning-curves",
            learning_curves(results.curves, marks(results.arms), metric=results.headline),
            f"{title(results.headline)} on the validation part while training, one line a seed; the mark is the state "
            "that was kept and tested." + (f" Without a curve: {', '.join(without)}." if without else ""),
        )
