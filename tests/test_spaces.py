"""Search spaces: their values, their grids, and how TOML says them."""

from __future__ import annotations

import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedrec.components import build_config, check_spaces
from fedrec.errors import ConfigError
from fedrec.experiment import method_class, methods
from fedrec.spaces import Choice, Integers, LogUniform, Space, Uniform, read_spaces

SPACES: list[Space] = [
    Uniform(-1, 3),
    LogUniform(1e-3, 1e-1),
    Integers(2, 5),
    Integers(1, 1000, log=True),
    Choice(("bpr", True, 3, (1, 2))),
]


def test_values_by_hand() -> None:
    assert Uniform(-1, 3).at(0.25) == 0.0
    assert LogUniform(1e-3, 1e-1).at(0.5) == 0.01
    assert LogUniform(1, 3).at(0.5) == 1.732  # √3 to four digits
    assert [Integers(2, 5).at(share) for share in (0.0, 0.24, 0.25, 0.99)] == [2, 2, 3, 5]
    assert [Integers(1, 99, log=True).at(share) for share in (0.0, 0.5, 0.999)] == [1, 10, 99]
    assert [Choice(("a", "b")).at(share) for share in (0.0, 0.49, 0.5, 0.999)] == ["a", "a", "b", "b"]


def test_grids_by_hand() -> None:
    assert Uniform(0, 1).grid(3) == (0.0, 0.5, 1.0)
    assert LogUniform(1, 100).grid(3) == (1.0, 10.0, 100.0)
    assert Integers(1, 3).grid(5) == (1, 2, 3)
    assert Integers(1, 100).grid(3) == (1, 50, 100)
    assert Integers(1, 100, log=True).grid(3) == (1, 10, 100)
    assert Choice((8, 4)).grid(1) == (8, 4)


@given(st.sampled_from(SPACES), st.floats(0, 1, exclude_max=True))
def test_every_value_is_in_its_space(space: Space, share: float) -> None:
    assert space.at(share) in space
    assert all(value in space for value in (*space.grid(4), *space.ends()))


@given(st.floats(1e-6, 1), st.floats(1.001, 1e4), st.floats(0, 1))
def test_rounding_never_leaves_the_space(low: float, factor: float, share: float) -> None:
    for space in (Uniform(low, low * factor), LogUniform(low, low * factor)):
        assert low <= space.at(share) <= low * factor


def test_neighbours_are_not_in_a_space() -> None:
    assert 3.001 not in Uniform(-1, 3)
    assert True not in Integers(0, 3)
    assert 2.0 not in Integers(0, 3)
    assert "Bpr" not in Choice(("bpr",))


def test_toml_gives_them_back() -> None:
    tables = {f"key{number}": space.as_table() for number, space in enumerate(SPACES)}
    read = read_spaces(tomllib.loads(tomli_w.dumps(tables)), "space")
    assert list(read.values()) == SPACES
    nested = tomllib.loads("dim = [8, 16]\nserver.rate = { uniform = [0, 1] }\n'server.momentum' = { choice = [0.9] }")
    assert read_spaces(nested, "space") == {
        "dim": Choice((8, 16)),
        "server.rate": Uniform(0, 1),
        "server.momentum": Choice((0.9,)),
    }


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("rate = 1", r"space\.rate = 1: not a search space; write it as"),
        ("rate = {}", r"space\.rate = \{\}: not a search space"),
        ("rate = []", r"space\.rate: .*there must be something to choose from"),
        ("rate = [1, 1]", r"space\.rate: .*an option occurs twice"),
        ("rate = { uniform = [2, 1] }", r"space\.rate: .*low must be below high"),
        ("rate = { log-uniform = [0, 1] }", r"space\.rate: .*low must be above 0"),
        ("rate = { log-integers = [0, 9] }", r"space\.rate: .*logarithmic scale low must be above 0"),
        ("rate = { integers = [0.5, 9] }", r"space\.rate: .*must be whole numbers"),
        ("rate = { uniform = [1, 2, 3] }", r"space\.rate: .*give two numbers"),
        ("rate = { uniform = 'wide' }", r"space\.rate\.uniform = 'wide': must be an array"),
        ("rate = { uniform = [0, 1], choice = [2] }", r"space\.rate = .*: not a search space"),
    ],
)
def test_what_is_no_space_is_refused_in_one_line(toml: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        read_spaces(tomllib.loads(toml), "space")
    assert "\n" not in str(raised.value)


def test_a_mistyped_kind_of_space_is_a_setting_that_does_not_exist() -> None:
    spaces = read_spaces({"rate": {"log-unifrom": [1, 2]}}, "space")
    with pytest.raises(ConfigError, match=r"x: no setting 'rate\.log-unifrom'"):
        check_spaces(method_class("lightgcn").config_class(), spaces, "x")


MEMBERS = {"members": [{"kind": "item-neighbors"}, {"kind": "svd"}]}
NEEDED = {"rank-fusion": MEMBERS, "stacking": MEMBERS}  # what has no default


@pytest.mark.parametrize("kind", methods())
def test_every_method_allows_what_its_space_holds(kind: str) -> None:
    config_class = method_class(kind).config_class
    if config_class.space:
        check_spaces(build_config(config_class, NEEDED.get(kind, {}), kind), config_class.space, kind)
