"""Configurations say what is wrong and where; registries find components."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field

from fedrec.components import Config, Registry, build_config, changed, check_spaces
from fedrec.errors import ConfigError, did_you_mean
from fedrec.spaces import Integers


class Inner(Config):
    depth: int = Field(1, ge=1, le=8)


class Settings(Config):
    width: int
    inner: Inner = Inner()
    sizes: tuple[int, ...] = ()
    shape: Literal["round", "square"] = "round"


class Part:
    config_class: ClassVar[type[Config]] = Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widht": 3}, r"arms\.a\.method\.width: missing; add it"),
        ({"width": 3, "iner": {}}, r"arms\.a\.method\.iner: unknown key 'iner'; did you mean 'inner'\?"),
        ({"width": 3, "inner": {"dept": 2}}, r"inner\.dept: unknown key 'dept'; did you mean 'depth'\?"),
        ({"width": 3, "zzz": 1}, "valid: inner, shape, sizes, width"),
        (
            {"width": "wide"},
            r"arms\.a\.method\.width = 'wide': Input should be a valid integer.*; write a whole number",
        ),
        ({"width": 3, "inner": {"depth": 0}}, r"inner\.depth = 0: .*greater than or equal to 1; raise it"),
        ({"width": 3, "inner": {"depth": 9}}, r"inner\.depth = 9: .*less than or equal to 8; lower it"),
        ({"width": 3, "inner": 1}, r"inner = 1: .*; write a table, such as \{ key = value \}"),
        ({"width": 3, "sizes": 0}, r"sizes = 0: .*; write it in brackets, such as \[0\]"),
        ({"width": 3, "shape": "rond"}, r"shape = 'rond': no such option; did you mean 'round'\?"),
    ],
)
def test_a_mistake_is_one_line_with_place_value_and_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        build_config(Settings, settings, "arms.a.method")
    assert "\n" not in str(raised.value)


def test_configurations_are_frozen_and_finite() -> None:
    class Rate(Config):
        rate: float

    with pytest.raises(ValueError, match="frozen"):
        Rate(rate=1.0).rate = 2.0  # type: ignore[misc]
    with pytest.raises(ConfigError, match="finite"):
        build_config(Rate, {"rate": float("inf")}, "x")


def test_settings_are_changed_by_dotted_key() -> None:
    before = Settings(width=3)
    after = changed(before, {"width": 4, "inner.depth": 2}, "x")
    assert after == Settings(width=4, inner=Inner(depth=2))
    assert before == Settings(width=3)
    with pytest.raises(ConfigError, match=r"x: no setting 'inner\.dept'; did you mean 'inner\.depth'\?"):
        changed(before, {"inner.dept": 2}, "x")
    with pytest.raises(ConfigError, match=r"x: no setting 'width\.depth'"):
        changed(before, {"width.depth": 2}, "x")
    with pytest.raises(ConfigError, match=r"x\.inner\.depth = 0: "):
        changed(before, {"inner.depth": 0}, "x")


def test_a_space_holds_only_what_the_configuration_allows() -> None:
    assert Settings.space == {}
    check_spaces(Settings(width=3), {"inner.depth": Integers(1, 3)}, "x")
    with pytest.raises(ConfigError, match=r"x\.inner\.depth = 0: "):
        check_spaces(Settings(width=3), {"inner.depth": Integers(0, 3)}, "x")


def test_a_registry_finds_kinds_and_imported_classes() -> None:
    registry: Registry[Part] = Registry("part")
    assert registry.register("own")(Part) is Part
    assert registry["own"] is Part
    assert registry[f"{__name__}:Part"] is Part
    assert list(registry) == ["own"]
    assert "own" in registry


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("onw", r"unknown part kind 'onw'; did you mean 'own'\?"),
        ("no_such_module:Part", "cannot be imported"),
        (f"{__name__}:Nothing", "cannot be imported"),
        (f"{__name__}:pytest", "not a class with a `config_class`"),
        (":", "cannot be imported"),
    ],
)
def test_what_cannot_be_found_is_said(kind: str, message: str) -> None:
    registry: Registry[Part] = Registry("part")
    registry.register("own")(Part)
    with pytest.raises(ConfigError, match=message):
        registry[kind]


def test_suggestions_name_the_nearest_or_everything() -> None:
    assert did_you_mean("recal", ["recall", "ndcg"]) == "did you mean 'recall'?"
    assert did_you_mean("zzz", ["recall", "ndcg"]) == "valid: ndcg, recall"


def test_a_class_defined_again_replaces_itself() -> None:
    registry: Registry[Part] = Registry("part")
    registry.register("own")(Part)
    again = type("Part", (), {"config_class": Settings, "__module__": __name__})
    again.__qualname__ = Part.__qualname__
    assert registry.register("own")(again) is again
    other = type("Other", (), {"config_class": Settings})
    with pytest.raises(ConfigError, match="is taken by Part"):
        registry.register("own")(other)
