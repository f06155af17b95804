"""What docs/recommenders.md says is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import torch

from fedrec.experiment import read_config
from fedrec.experiment.arms import methods
from fedrec.recommenders import RECOMMENDERS, ItemNeighbors, ItemNeighborsConfig, Training
from tests.recommenders.planted import blocks

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "recommenders.md").read_text()
ROWS = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| ([a-z ]+) \|$", TEXT, flags=re.MULTILINE))


def test_the_table_has_every_central_recommender_and_nothing_unknown() -> None:
    assert set(RECOMMENDERS) <= set(ROWS)
    assert set(ROWS) <= set(methods())


def test_the_table_says_who_folds_in() -> None:
    for kind in set(ROWS) & set(RECOMMENDERS):
        said = {"no": False, "yes": True}.get(ROWS[kind])
        found: Any = getattr(RECOMMENDERS[kind], "folds_in", False)
        assert isinstance(found, property) if said is None else found == said, kind


def test_the_hybrid_of_the_example_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
    assert tomllib.loads(text)
    path = tmp_path / "experiment.toml"
    path.write_text(f'name = "x"\nseeds = [0]\ndata.name = "ml-100k"\n{text}')
    assert read_config(path).arms[0].method.kind == "stacking"


def test_somebody_new_is_served_as_shown() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    code = re.sub(r"^  ", "", code, flags=re.MULTILINE).replace("[11, 49, 180]", "[1, 4, 9]")
    train, _ = blocks()
    recommender = ItemNeighbors(ItemNeighborsConfig(neighbors=5))
    recommender.fit(train, Training())
    names: dict[str, Any] = {"train": train, "recommender": recommender}
    exec(compile(code, "example.py", "exec", dont_inherit=True), names)
    assert names["scores"].shape == (1, train.n_items)
    assert torch.isfinite(names["scores"]).all()


def test_the_baselines_experiment_has_every_recommender() -> None:
    arms = {arm.method.kind for arm in read_config(ROOT / "experiments" / "baselines-ml100k.toml").arms}
    others = {"full-batch-lightgcn"}  # LightGCN again, for `exact-lightgcn` to be held against
    assert {*RECOMMENDERS, "popularity", "ease", "spectral", "ials"} - others == arms
