from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedrec.components import _override
from fedrec.errors import ConfigError
from fedrec.experiment import ExperimentConfig, MethodConfig, read_config
from tests.experiment.tiny import experiment, write_experiment

EGO, CENTRAL, EPS = {"kind": "ego-lightgcn"}, {"kind": "lightgcn"}, {"epsilon": 1.0}


def arm(name: str, **sections: Any) -> dict[str, Any]:
    return {"name": name, "method": {"kind": "popularity"}, **sections}


def read(**changes: Any) -> ExperimentConfig:
    return ExperimentConfig.read(experiment(Path("ratings.csv"), **changes))


def test_every_default_is_written_out_and_reads_back_equal(tmp_path: Path) -> None:
    config = read()
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    again = read_config(path)
    assert again == config
    assert again.to_toml() == config.to_toml()
    written = tomllib.loads(config.to_toml())
    assert written["arms"][1]["method"]["kind"] == "lightgcn"
    federated = written["arms"][2]
    assert federated["method"]["kind"] == "ego-lightgcn"
    assert federated["method"]["loss"] == "bce"  # a default that the document did not have
    lateness = {"straggler": 0.0, "delay": 1, "late": "discard"}
    assert federated["participation"] == {"sampling": "poisson", "rate": 0.8, "dropout": 0.0} | lateness
    assert written["engine"]["kind"] == "local"


def test_what_toml_cannot_say_is_refused() -> None:
    config = read()
    with pytest.raises(ConfigError, match="None, which TOML cannot say"):
        config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"categories": None})}).to_toml()


def test_a_section_of_defaults_alone_is_a_section(tmp_path: Path) -> None:
    """`continual = {}` asks for correlated noise, with every setting of it None."""
    cycles = {"sampling": "cyclic", "rate": 0.5}
    config = read(arms=[{"name": "a", "method": EGO, "privacy": {**EPS, "continual": {}}, "participation": cycles}])
    assert config.arms[0].privacy is not None
    assert config.arms[0].privacy.continual is not None
    assert tomllib.loads(config.to_toml())["arms"][0]["privacy"]["continual"] == {}


def test_a_federated_arm_has_a_population_and_a_central_one_has_none() -> None:
    popularity, central, federated, private = read().arms
    assert popularity.population is not None
    assert private.participation is not None
    assert central.population is None
    assert central.participation is None
    assert central.privacy is None
    assert not central.method.federated
    assert federated.method.federated


def test_quickstart_is_valid() -> None:
    config = read_config(Path(__file__).parents[2] / "experiments" / "quickstart.toml")
    assert [arm.name for arm in config.arms] == ["popularity", "central", "federated", "federated-dp"]
    assert config.seeds == (0, 1, 2)


def test_a_list_of_epsilons_is_an_arm_for_each(tmp_path: Path) -> None:
    arms = [arm("plain"), arm("private", privacy={"epsilon": [0.5, 8, 1.0], "delta": 1e-6})]
    path = write_experiment(tmp_path, arms=arms)
    config = read_config(path, ["arms.private.method.clip=3.0"])  # reaches all of them
    assert [one.name for one in config.arms] == ["plain", "private-eps0_5", "private-eps8", "private-eps1"]
    assert [one.privacy and one.privacy.epsilon for one in config.arms] == [None, 0.5, 8.0, 1.0]
    assert all(one.privacy is None or one.privacy.delta == 1e-6 for one in config.arms)
    assert [getattr(one.method.settings, "clip", None) for one in config.arms] == [10.0, 3.0, 3.0, 3.0]
    assert ExperimentConfig.read(tomllib.loads(config.to_toml())) == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": [arm("a", privacy={"epsilon": [1, -1]})]}, "arms.a-eps-1.privacy.epsilon = -1: must be above 0"),
        ({"arms": [arm("a", privacy={"epsilon": [1, 1]})]}, "arms: two arms are named 'a-eps1' and 'a-eps1'"),
        ({"arms": [arm("a", privacy={"epsilon": []})]}, "at least one [[arms]]"),
        ({"arms": [arm("a", privacy={"epsilon": ["x"]})]}, "arms.a.privacy.epsilon"),
        ({"seedz": [1]}, "seedz: unknown key 'seedz'; did you mean 'seeds'?"),
        ({"seeds": []}, "seeds = []: an experiment needs at least one seed"),
        ({"seeds": [1, 1]}, "a seed occurs twice"),
        ({"seeds": [-1]}, "seeds.0 = -1"),
        ({"name": "a/b"}, "name = 'a/b': a name becomes a folder"),
        ({"name": ".."}, "name = '..': a name becomes a folder"),
        ({"arms": []}, "at least one [[arms]]"),
        ({"arms": [arm("a"), arm("a")]}, "arms: two arms are named 'a' and 'a'; rename one"),
        ({"arms": [arm("a"), arm("A")]}, "arms: two arms are named 'a' and 'A'; rename one"),
        ({"arms": [arm("a", privcy={})]}, "arms.a.privcy: unknown key 'privcy'; did you mean 'privacy'?"),
        ({"arms": [arm("a", privacy=8)]}, "arms.a.privacy = 8: must be a table"),
        ({"arms": [arm("a", participation={"rat": 1})]}, "arms.a.participation.rat: unknown key 'rat'; did you mean"),
        ({"arms": [arm("a", method={"kind": "popularty"})]}, "did you mean 'popularity'?"),
        ({"arms": [arm("a", method={"kind": "lightgnc"})]}, "did you mean 'lightgcn'?"),
        ({"arms": [arm("a", method={"dim": 3})]}, "arms.a.method.kind: missing"),
        ({"arms": [arm("a", method=EGO | {"dmi": 3})]}, "arms.a.method.dmi: unknown key 'dmi'; did you mean 'dim'?"),
        ({"arms": [arm("a", method=EGO | {"dim": 0})]}, "arms.a.method.dim = 0"),
        ({"arms": [arm("a", method=CENTRAL, privacy=EPS)]}, "arms.a.privacy: method 'lightgcn' is trained centrally"),
        ({"arms": [arm("a", method={"kind": "nowhere:Method"})]}, "cannot be imported"),
        ({"arms": [{"method": {"kind": "popularity"}}]}, "arms.0.name: missing"),
        ({"arms": 3}, "arms = 3"),
        ({"engine": {"device": 3}}, "engine.device = 3"),
        ({"engine": 3}, "engine = 3"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_place_and_remedy(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(**changes)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_toml_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('name = "x"\nseeds = [1,\n[data]\n')
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML.*line 3.*correct that line"):
        read_config(path)
    with pytest.raises(ConfigError, match=r"none\.toml: no such configuration file"):
        read_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="a folder"):
        read_config(tmp_path)
    path.write_bytes(b"name = \xff")
    with pytest.raises(ConfigError, match="not a text file"):
        read_config(path)


def test_overrides_reach_arms_by_name_and_are_read_as_toml(tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    overrides = [
        "seeds=[7]",
        "arms.federated.method.rounds=2",
        "arms.federated.method.loss=bpr",  # no TOML value, so plain text
        "arms.popularity.privacy.noise_multiplier=1.5",  # makes the section
        "engine.device='cpu'",
    ]
    config = read_config(path, overrides)
    assert config.seeds == (7,)
    assert (config.arms[2].method.settings.rounds, config.arms[2].method.settings.loss) == (2, "bpr")  # type: ignore[attr-defined]
    assert config.arms[0].privacy is not None
    assert config.arms[0].privacy.noise_multiplier == 1.5
    assert config.engine.device == "cpu"
    assert read_config(path).arms[2].method.settings.rounds == 6  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seeds", "dotted.key=value"),
        ("seeds..x=1", "dotted.key=value"),
        ("arms.fedrated.method.rounds=2", "there is no arm 'fedrated'; did you mean 'federated'?"),
        ("arms.federated=2", "arms has no keys of its own"),
        ("name.first=2", "shorten the key"),
        ("name.first.second=2", "shorten the key"),
        ("arms.federated.method.runds=2", "arms.federated.method.runds: unknown key 'runds'; did you mean 'rounds'?"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(write_experiment(tmp_path), [override])
    assert said in str(error.value)


SCALARS = (
    st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab ='\"#[]\\", max_size=5)
)


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=4))
def test_any_toml_value_can_be_set(value: Any) -> None:
    text = tomli_w.dumps({"value": value}, multiline_strings=False).removeprefix("value = ")
    document: dict[str, Any] = {}
    _override(document, f"a.b={text}")
    assert document == {"a": {"b": value}}


def test_methods_compare_by_kind_and_settings() -> None:
    one = MethodConfig.read({"kind": "ego-lightgcn"}, "method")
    assert one == MethodConfig.read({"kind": "ego-lightgcn", "dim": 64}, "method")
    assert one != MethodConfig.read({"kind": "ego-lightgcn", "dim": 63}, "method")


def test_a_seed_that_no_table_can_hold_is_refused(tmp_path: Path) -> None:
    document = experiment(tmp_path / "ratings.csv", seeds=[2**63])
    with pytest.raises(ConfigError, match=r"seeds\.0 = 9223372036854775808"):
        ExperimentConfig.read(document)
