"""The PFedRec table: its leak is a leak, its script runs and goes on, and the README shows what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch

from fedrec.data import Interactions
from fedrec.errors import ModelError
from fedrec.federated import Devices, FederatedMethod, FederatedRecommender, LocalEngine
from fedrec.federated.methods import PFedRec, PFedRecConfig
from fedrec.recommenders import Scorer, Stopping, Training
from fedrec.streams import Streams
from fedrec.testing import check_no_leak
from tests.scripts import imported

FOLDER = Path(__file__).parents[2] / "papers" / "zhang2023pfedrec"
SMALL = PFedRecConfig(dim=8, rounds=8, item_rate=100.0, aggregate=False, stopping=Stopping(patience=0))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported(monkeypatch, FOLDER, "run", "published_pool")


def scorer(method: FederatedMethod, train: Interactions) -> Scorer:
    recommender = FederatedRecommender(method)
    recommender.fit(train, Training(device="cpu"))
    return recommender.score


def test_the_published_pool_is_caught_by_the_canary_and_the_librarys_is_not(script: ModuleType) -> None:
    def published(train: Interactions, held_out: Interactions) -> Scorer:
        item = torch.cat([torch.from_numpy(train.item), torch.from_numpy(held_out.item)]).numpy()
        both = Interactions(item * 0, item, train.users, train.items)
        return scorer(script.PublishedPool(SMALL, both), train)

    with pytest.raises(ModelError, match="held-out items reach the training"):
        check_no_leak(published, users=40)
    check_no_leak(lambda train, _: scorer(PFedRec(SMALL), train), users=40)


def test_the_published_pool_never_holds_what_is_held_out(script: ModuleType) -> None:
    """Users in any order get their own items, whatever the order of their keys."""
    histories = [[0, 5], [1], [2, 3, 4]]
    users = Interactions(
        torch.tensor([0, 0, 1, 2, 2, 2]).numpy(),
        torch.tensor([item for items in histories for item in items]).numpy(),
        script.load_split(script.DataConfig(name="synthetic"), 0).split.train.users,
        script.load_split(script.DataConfig(name="synthetic"), 0).split.train.items,
    )
    devices = Devices.of(users)
    method = script.PublishedPool(SMALL, users)
    query = method.training(torch.zeros(devices.n_items, 8))
    indptr, items = query.pool(devices.cohort(torch.tensor([2, 0, 1])))
    assert indptr.tolist() == [0, 3, 5, 6]
    assert items.tolist() == [2, 3, 4, 0, 5, 1]
    assert LocalEngine(devices, Streams(0)).sum(query, round=1).answered == len(devices)


def test_the_script_writes_its_table_and_finishes_what_was_begun(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(f"before\n{script.BEGIN}{script.END}\nafter\n")
    arguments = ["run.py", "--data", "synthetic", "--rounds", "2", "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(tmp_path / "out"), "--results", str(tmp_path)])
    script.main()
    first = (tmp_path / "results.csv").read_bytes()
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n<!-- results -->\n| method ")
    assert text.endswith("<!-- end of results -->\nafter\n")
    assert text.count("\n| PFedRec") == 4
    done = tmp_path / "out" / "ease-seed-0.json"
    done.unlink()
    other = tmp_path / "out" / "popularity-seed-0.json"
    before = other.stat().st_mtime_ns
    script.main()
    assert done.exists()
    assert other.stat().st_mtime_ns == before
    assert (tmp_path / "results.csv").read_bytes() == first
    facts = json.loads((tmp_path / "out" / "federated-train-only-seed-0.json").read_text())
    assert set(facts["per_user"]) == set(script.METRICS)


def test_the_readme_shows_what_was_measured(script: ModuleType) -> None:
    table = script.as_markdown(pd.read_csv(FOLDER / "results.csv"))
    assert f"{script.BEGIN}{table}{script.END}" in (FOLDER / "README.md").read_text()
