"""A report of what the runner really wrote: the hand-made directory of the other tests cannot drift away from it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedrec.experiment import read_config, run
from fedrec.report import comparison_table, summary_table, write_report
from fedrec.report.results import read_results
from tests.experiment.tiny import write_experiment
from tests.report import handmade


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    return run(read_config(write_experiment(folder)), folder / "run")


def test_a_real_run_is_reported(real: Path) -> None:
    page = write_report(real).read_text(encoding="utf-8")
    results = read_results(real)
    assert results.arms == ["popularity", "central", "federated", "private"]
    for arm in results.arms:
        assert f"{results.arm(arm)['metrics']['ndcg@5']['mean']:.4f}" in page
    assert results.arm("private")["guarantee"]["unit"] in page
    for name in ("accuracy-against-diversity", "groups", "learning-curves"):
        assert f'id="{name}-figure_1"' in page
    console = Console(file=io.StringIO(), width=120)
    console.print(summary_table(real))
    console.print(comparison_table([real, real]))


def test_the_hand_made_directory_holds_nothing_that_a_real_one_lacks(real: Path, tmp_path: Path) -> None:
    found, made = read_results(real), read_results(handmade.write_run(tmp_path / "run"))
    real_groups, made_groups = found.user_groups("private")["activity"], made.user_groups("federated-dp")["activity"]
    for real_part, made_part in (
        (found.manifest, made.manifest),
        (found.summary, made.summary),
        (found.summary["tests"][0], made.summary["tests"][0]),
        (found.arm("private"), made.arm("federated-dp")),
        (real_groups, made_groups),
        (real_groups["groups"]["low"], made_groups["groups"]["low"]),
    ):
        assert keys(made_part) <= keys(real_part)


def keys(part: Mapping[str, Any], place: str = "") -> set[str]:
    """The dotted names of what is in a part, what is the run's own (arms, metrics, groups, kinds of releases) aside."""
    own = {"arms", "metrics", "groups", "gap", "noise_multipliers", "clips", "versions"}
    found = set()
    for name, value in part.items():
        found.add(place + name)
        if isinstance(value, Mapping) and name not in own:
            found |= keys(value, f"{place}{name}.")
    return found
