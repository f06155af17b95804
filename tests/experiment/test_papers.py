"""The experiments of the papers can be read, and are what their readme says they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrec.experiment.config import read_config
from fedrec.federated.methods import SpectralConfig
from fedrec.recommenders import LightGCNConfig

PAPERS = Path(__file__).parents[2] / "papers"


@pytest.mark.parametrize("data", ["gowalla", "yelp2018"])
def test_the_published_splits_are_named_on_the_command_line(data: str) -> None:
    for paper in ("he2020lightgcn", "shen2021gfcf"):
        config = read_config(PAPERS / paper / f"{data}.toml", ["data.path=elsewhere"])
        assert config.data.path == "elsewhere"
        assert config.evaluation.k == (20,)


@pytest.mark.parametrize("data", ["gowalla", "yelp2018"])
def test_the_models_are_those_of_the_papers(data: str) -> None:
    lightgcn = read_config(PAPERS / "he2020lightgcn" / f"{data}.toml").arms[0].method.settings
    assert isinstance(lightgcn, LightGCNConfig)
    assert (lightgcn.layers, lightgcn.dim) == (3, 64)
    assert lightgcn.ranking == ("inner" if data == "yelp2018" else "posterior")
    gfcf = read_config(PAPERS / "shen2021gfcf" / f"{data}.toml").arms[0].method.settings
    assert isinstance(gfcf, SpectralConfig)
    assert gfcf.weight == "degree"
    assert gfcf.linear > 0
