from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

from fedrec.errors import RunError
from fedrec.report import write_figures
from fedrec.report.canvas import to_inline_svg, to_svg
from fedrec.report.figures import accuracy_against_diversity, group_bars, learning_curves
from fedrec.report.gallery import pictures
from fedrec.report.palette import marks
from fedrec.report.results import read_results
from tests.report.handmade import ARMS, GROUP_WIDTH, GROUPS, MEANS, without_groups

LOOKS = marks(ARMS)
DIVERSITY = ["coverage@10", "novelty@10"]
GROUP_COLUMNS = ["arm", "attribute", "group", "users", "mean", "low", "high"]


def trade(run: Path) -> Figure:
    scores = read_results(run).scores
    return accuracy_against_diversity(scores, LOOKS, accuracy="ndcg@10", diversity=DIVERSITY)


def points(panel: Axes) -> dict[str, tuple[float, float]]:
    drawn = [one for one in panel.containers if isinstance(one, ErrorbarContainer)]
    lines: Any = {str(one.get_label()): one.lines[0] for one in drawn}
    return {arm: (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for arm, line in lines.items()}


def test_arms_are_points_at_their_diversity_and_accuracy(run: Path) -> None:
    for panel, metric in zip(trade(run).axes, DIVERSITY, strict=True):
        assert points(panel) == {arm: (MEANS[metric][n], MEANS["ndcg@10"][n]) for n, arm in enumerate(ARMS)}
        assert panel.get_ylim()[0] == 0


def test_error_bars_span_the_interval_and_are_absent_where_there_is_none(run: Path) -> None:
    coverage, novelty = trade(run).axes
    central: Any = {str(one.get_label()): one for one in novelty.containers}["central"]
    across, up = (bars.get_segments()[0] for bars in central.lines[2])
    assert across[:, 0] == pytest.approx([9.71 * 0.88, 9.71 * 1.12])
    assert up[:, 1] == pytest.approx([0.0684 * 0.88, 0.0684 * 1.12])
    bare: Any = {str(one.get_label()): one for one in coverage.containers}["central"]
    assert len(bare.lines[2]) == 1  # of accuracy alone


def test_an_arm_without_the_metric_has_no_point(run: Path) -> None:
    scores = read_results(run).scores
    scores = scores[~((scores["arm"] == "central") & (scores["metric"] == "novelty@10"))]
    figure = accuracy_against_diversity(scores, LOOKS, accuracy="ndcg@10", diversity=DIVERSITY)
    assert [len(points(panel)) for panel in figure.axes] == [4, 3]


def test_curves_are_the_validation_values_with_a_mark_at_the_best(run: Path) -> None:
    curves = read_results(run).curves
    figure = learning_curves(curves, LOOKS, metric="ndcg@10")
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    assert list(lines) == [f"{arm}, seed {seed}" for arm in ("central", "federated") for seed in (0, 1, 2)]
    expected = curves[(curves["arm"] == "central") & (curves["seed"] == 1)]
    line: Any = lines["central, seed 1"]
    np.testing.assert_array_equal(line.get_xdata(), expected["round"])
    np.testing.assert_array_equal(line.get_ydata(), expected["value"])
    assert line.get_markevery() == [int(expected["value"].to_numpy().argmax())]


def test_curves_are_drawn_in_the_order_of_rounds() -> None:
    history = pd.DataFrame({"arm": "a", "seed": 0, "round": [10, 5, 15], "value": [0.2, 0.1, 0.15]})
    line: Any = learning_curves(history, marks(["a"]), metric="ndcg@10").axes[0].lines[0]
    assert line.get_xdata().tolist() == [5, 10, 15]
    assert line.get_ydata().tolist() == [0.1, 0.2, 0.15]
    assert line.get_markevery() == [1]


def test_bars_are_the_means_of_groups_with_their_intervals(run: Path) -> None:
    figure = group_bars(read_results(run).groups, LOOKS, metric="ndcg@10")
    assert [panel.get_title(loc="left") for panel in figure.axes] == list(GROUPS)
    for panel, groups in zip(figure.axes, GROUPS.values(), strict=True):
        bars: Any = {str(one.get_label()): one for one in panel.containers if isinstance(one, BarContainer)}
        assert list(bars) == list(ARMS)
        heights = [bar.get_height() for bar in bars["central"]]
        assert heights == pytest.approx([0.0684 * relative for _, relative in groups.values()])
        spans = bars["central"].errorbar.lines[2][0].get_segments()
        assert [list(span[:, 1]) for span in spans] == [
            pytest.approx([0.0684 * relative * (1 - GROUP_WIDTH), 0.0684 * relative * (1 + GROUP_WIDTH)])
            for _, relative in groups.values()
        ]
        assert [label.get_text() for label in panel.get_xticklabels()] == [
            f"{name}\n{users}" for name, (users, _) in groups.items()
        ]


def test_many_groups_go_on_several_rows() -> None:
    groups = pd.DataFrame(
        [("a", attribute, f"g{n}", 30, 0.1, 0.1, 0.1) for attribute in ("one", "two") for n in range(9)],
        columns=GROUP_COLUMNS,
    )
    first, second = group_bars(groups, marks(["a"]), metric="ndcg@10").axes
    assert first.get_position().y0 > second.get_position().y1


def test_groups_that_nobody_serves_can_be_drawn() -> None:
    groups = pd.DataFrame([("a", "gender", "F", 30, 0.0, 0.0, 0.0)], columns=GROUP_COLUMNS)
    assert group_bars(groups, marks(["a"]), metric="ndcg@10").axes[0].get_ylim() == (0, 1)


def test_an_arm_keeps_its_colour_in_every_figure(run: Path) -> None:
    results = read_results(run)
    curve: Any = learning_curves(results.curves, LOOKS, metric="ndcg@10").axes[0].lines[3]
    bars = group_bars(results.groups, LOOKS, metric="ndcg@10").axes[0].containers
    federated: Any = {str(one.get_label()): one for one in bars}["federated"]
    point: Any = {str(one.get_label()): one for one in trade(run).axes[0].containers}["federated"]
    assert {curve.get_color().lower(), to_hex(federated[0].get_facecolor()), point.lines[0].get_color().lower()} == {
        LOOKS["federated"].colour.lower()
    }


def test_every_figure_names_the_arms_it_shows(run: Path) -> None:
    names = {picture.name: picture.figure.legends[0].get_texts() for picture in pictures(read_results(run))}
    assert {name: [text.get_text() for text in texts] for name, texts in names.items()} == {
        "accuracy-against-diversity": list(ARMS),
        "groups": list(ARMS),
        "learning-curves": ["central", "federated"],
    }


def test_twenty_arms_all_look_different() -> None:
    looks = marks([f"arm{n}" for n in range(20)])
    assert len({(look.colour, look.shape) for look in looks.values()}) == 20


def test_a_figure_leaves_the_settings_of_matplotlib_alone(run: Path) -> None:
    before = dict(matplotlib.rcParams)
    to_svg(trade(run))
    assert dict(matplotlib.rcParams) == before


def test_a_figure_does_not_depend_on_the_settings_of_matplotlib(run: Path) -> None:
    plain = to_svg(trade(run))
    with matplotlib.rc_context({"axes.labelsize": 30, "axes.grid": False, "svg.fonttype": "path"}):
        assert to_svg(trade(run)) == plain


def test_a_name_is_text_in_an_svg_and_never_markup_or_a_formula() -> None:
    name = "<script>alert(1)</script> $x^2$ 电影 &"
    history = pd.DataFrame({"arm": [name], "seed": 0, "round": 1, "value": 0.1})
    svg = to_inline_svg(learning_curves(history, marks([name]), metric="ndcg@10"), "curves", 'a "quote" <b>')
    assert "<script>" not in svg
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x^2$ 电影 &amp;</text>" in svg
    assert 'aria-label="a &quot;quote&quot; &lt;b&gt;"' in svg


def test_inline_figures_take_the_colours_of_the_page_and_leave_words_as_they_are() -> None:
    history = pd.DataFrame({"arm": ['id="#24292f'], "seed": 0, "round": 1, "value": 0.1})
    svg = to_inline_svg(learning_curves(history, marks(['id="#24292f']), metric="ndcg@10"), "curves", "")
    assert 'id="#24292f</text>' in svg
    assert "currentColor" in svg
    assert svg.count("#24292f") == 1


@pytest.mark.parametrize(("form", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_figures_are_written_as_files_with_the_same_bytes_every_time(
    run: Path, tmp_path: Path, form: Any, start: bytes
) -> None:
    first, second = (write_figures(run, tmp_path / name, form) for name in ("one", "two"))
    assert [path.name for path in first] == [
        f"{name}.{form}" for name in ("accuracy-against-diversity", "groups", "learning-curves")
    ]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes().startswith(start)
        assert one.read_bytes() == other.read_bytes()


def test_figures_of_no_run_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        write_figures(tmp_path, tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_a_run_has_a_figure_only_of_what_it_measured(make_run: Callable[..., Path]) -> None:
    run = make_run(summary=without_groups(), history=[])
    assert [picture.name for picture in pictures(read_results(run))] == ["accuracy-against-diversity"]
