from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from fedrec.errors import RunError
from fedrec.report import comparison_table, summary_table
from tests.report.handmade import ARMS, CONFIG, manifest, summary, without_groups

MakeRun = Callable[..., Path]


def printed(table: Table, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    file: Any = console.file
    return str(file.getvalue())


def row_of(text: str, arm: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [arm])


def test_a_row_holds_the_numbers_of_the_summary(run: Path) -> None:
    text = printed(summary_table(run))
    worst, gap = 0.0647 * 0.79, 0.0647 * (1.22 - 0.79)  # high activity is served worst of all groups
    assert row_of(text, "federated") == [
        "federated",
        ".0647",
        ".1279",
        ".3389",
        ".8933",
        "9.44",
        ".6563",
        f"{worst:.4f}"[1:],
        f"{gap:.4f}"[1:],
        "–",
        "11.40",
        "MB",
        "1",
        "min",
        "36",
        "s",
    ]
    assert "[.0569, .0725]" in text
    assert row_of(text, "federated-dp")[9] == "8.00"


def test_it_fits_120_columns_without_cutting_anything(run: Path) -> None:
    text = printed(summary_table(run))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_best_is_marked_by_the_orientation_of_its_column(run: Path) -> None:
    text = printed(summary_table(run))
    assert ".0684*" in row_of(text, "central")
    assert ".7420*" in row_of(text, "federated-dp")  # the smallest Gini
    assert not any("*" in cell for cell in row_of(text, "popularity"))


def test_worst_group_and_gap_are_never_marked_as_best(run: Path) -> None:
    text = printed(summary_table(run))
    worst, gap = 0.0684 * 0.79, 0.0312 * (1.22 - 0.79)  # the best of their columns
    assert row_of(text, "central")[7] == f"{worst:.4f}"[1:]
    assert row_of(text, "federated-dp")[8] == f"{gap:.4f}"[1:]


def test_a_metric_that_nobody_measured_has_no_column(make_run: MakeRun) -> None:
    content = without_groups()
    for arm in content["arms"].values():
        del arm["metrics"]["intra-list-diversity@10"]
        arm["guarantee"] = None
    text = printed(summary_table(make_run(summary=content)))
    assert "Coverage" in text
    for absent in ("Intra-list", "Worst", "Gap", "ε"):
        assert absent not in text


def test_hit_rate_is_shown_where_it_differs_from_recall(make_run: MakeRun) -> None:
    content = summary()
    content["arms"]["central"]["metrics"]["hit-rate@10"]["mean"] = 0.2222
    assert ".2222" in printed(summary_table(make_run(summary=content)), width=160)


def test_markup_in_a_name_is_text(make_run: MakeRun) -> None:
    run = make_run(config=CONFIG.replace('name = "quickstart"', 'name = "[red]quick[/red]"'))
    assert "[red]quick[/red]" in printed(summary_table(run))


def test_an_unfinished_run_has_no_table(make_run: MakeRun) -> None:
    run = make_run(manifest=manifest() | {"finished": False})
    with pytest.raises(RunError, match="fedrec resume"):
        summary_table(run)
    with pytest.raises(RunError, match="fedrec resume"):
        comparison_table([make_run("whole"), run])


def test_runs_on_the_same_data_are_compared_arm_by_arm(make_run: MakeRun) -> None:
    better = summary()
    better["arms"]["central"]["metrics"]["ndcg@10"]["mean"] = 0.0711
    text = printed(comparison_table([make_run("first"), make_run("second", summary=better)]))
    rows = [line.split()[:3] for line in text.splitlines() if line.split()[:1] in (["first"], ["second"])]
    assert [row[1] for row in rows] == [*ARMS, *ARMS]
    assert ["first", "central", ".0684*"] in rows
    assert ["second", "central", ".0711*"] in rows
    assert "[.0602, .0766]" in text


def other_data() -> dict[str, Any]:
    facts = manifest()
    facts["split"]["fingerprint"] = "77" * 32
    return facts


def test_runs_on_other_data_are_refused_in_one_line(make_run: MakeRun) -> None:
    runs = [make_run("first"), make_run("second", manifest=other_data())]
    with pytest.raises(RunError, match=r"second: tested on other data or another split .*777777777777") as raised:
        comparison_table(runs)
    assert "\n" not in str(raised.value)


def test_runs_on_other_data_are_shown_with_a_column_that_says_so(make_run: MakeRun) -> None:
    runs = [make_run("first"), make_run("second", manifest=other_data())]
    text = printed(comparison_table(runs, across_data=True))
    assert text.count("777777777777") == len(ARMS)
    assert text.count("5f0b3a000000") == len(ARMS)


def test_runs_with_other_metrics_are_refused(make_run: MakeRun) -> None:
    runs = [make_run("first"), make_run("second", summary=summary() | {"metric": "recall@10"})]
    with pytest.raises(RunError, match=r"compared by recall@10, .* by ndcg@10; run them with one evaluation.metric"):
        comparison_table(runs, across_data=True)


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(RunError, match="nothing to compare"):
        comparison_table([])
