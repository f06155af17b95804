"""A report of what the runner really wrote: the hand-made directory of the other tests cannot drift away from it."""

from __future__ import annotations

import io
from pathlib import Path

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


def test_the_hand_made_directory_has_the_shape_of_a_real_one(real: Path, tmp_path: Path) -> None:
    found, made = read_results(real), read_results(handmade.write_run(tmp_path / "run"))
    assert set(found.manifest) == set(made.manifest)
    assert set(found.manifest["data"]) == set(made.manifest["data"])
    assert set(found.manifest["split"]) == set(made.manifest["split"])
    assert set(found.manifest["machine"]) == set(made.manifest["machine"])
    assert set(found.summary) == set(made.summary)
    assert set(found.summary["tests"][0]) == set(made.summary["tests"][0])
    assert set(found.arm("private")) == set(made.arm("federated-dp"))
    assert set(found.arm("private")["communication"]) == set(made.arm("federated-dp")["communication"])
    assert set(found.arm("private")["guarantee"]) == set(made.arm("federated-dp")["guarantee"])
    assert set(found.arm("private")["guarantee"]["notes"]) == set(made.arm("federated-dp")["guarantee"]["notes"])
