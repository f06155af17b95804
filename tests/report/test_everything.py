"""Every metric of a run, a row each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedrec.report import write_report
from fedrec.report.everything import every_metric
from fedrec.report.results import read_results
from tests.report.handmade import MEANS


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    """A finished run with metrics of groups of items beside its own."""
    path = make_run()
    with (path / "metrics.csv").open("a") as file:
        for seed, value in enumerate((0.25, 0.5)):
            file.write(f"central,{seed},test,exposure-share@10,popularity=low,{value}\n")
            file.write(f"central,{seed},test,exposure-share@20,popularity=low,{value}\n")
            file.write(f"central,{seed},test,ndcg@10,cold-users,{value}\n")
            file.write(f"central,{seed},test,ndcg@10,kind=a,{value}\n")
            file.write(f"central,{seed},test,ndcg@10-gap,kind,{value}\n")
            file.write(f"central,{seed},valid,auc,,{value}\n")
    return path


def test_rows_are_means_over_seeds_of_everyone_segments_and_groups_of_items(run: Path) -> None:
    rows = {(row.title, row.group): row for row in every_metric(read_results(run))}
    assert rows["Exposure share@10", "popularity=low"].cells == {"central": "0.3750"}
    assert rows["NDCG@10", "cold-users"].cells == {"central": "0.3750"}
    assert rows["NDCG@10", ""].arrow == "↑"
    shown = rows["NDCG@10", ""].cells
    assert list(shown) == ["popularity", "central", "federated", "federated-dp"]
    assert shown["central"] == f"{MEANS['ndcg@10'][1]:.4f}"
    titles = {title for title, _ in rows}
    assert "Exposure share@20" not in titles  # another length
    assert not any("ap, " in title for title in titles)  # functions of users' values
    assert ("NDCG@10", "kind=a") not in rows  # groups of users
    assert ("AUC", "") not in rows  # validation


def test_the_page_shows_them(run: Path) -> None:
    page = write_report(run).read_text()
    assert "Every metric@10" in page
    assert "popularity=low" in page
