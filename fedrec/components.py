"""Components and their settings: how `kind = "..."` in a file becomes an object.

A component is a class with a `config_class`, a frozen pydantic model that stands beside it and forbids unknown keys.
A registry maps the short names of one sort of component to their classes. A researcher's own class is named as
"my_package.my_module:MyMethod"; such names are read from the researcher's own file, never from a message.
"""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_args

import pydantic

from fedrec.errors import ConfigError, did_you_mean
from fedrec.spaces import Space, Value, as_value


class Config(pydantic.BaseModel):
    """Parent of every configuration model: frozen, and a key it does not know is an error.

    Attributes:
        space: what tuning tries unless an experiment says otherwise: spaces by key, "server.rate" for a nested one.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    space: ClassVar[Mapping[str, Space]] = {}


class Component(Protocol):
    """Something that a configuration names by `kind` and that is built from its own `Config`.

    Attributes:
        config_class: the pydantic model of its settings.
    """

    config_class: ClassVar[type[Config]]

    def __init__(self, config: Any) -> None: ...


C = TypeVar("C", bound=Component)
M = TypeVar("M", bound=Config)


class Registry(Generic[C]):
    """The components of one sort, by kind."""

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self._classes: dict[str, type[C]] = {}

    def register(self, kind: str) -> Callable[[type[C]], type[C]]:
        """Decorator that gives a class its kind. A kind is given once."""

        def add(component: type[C]) -> type[C]:
            if kind in self._classes and not same_definition(self._classes[kind], component):
                raise ConfigError(
                    f"{self.sort} kind '{kind}' is taken by {self._classes[kind].__qualname__}; rename one"
                )
            self._classes[kind] = component
            return component

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __contains__(self, kind: object) -> bool:
        return kind in self._classes

    def __getitem__(self, kind: str) -> type[C]:
        """The class of a kind, or of "module:Class".

        Raises:
            ConfigError: if the kind is unknown or the module has no such class.
        """
        if ":" in kind:
            return self._import(kind)
        if kind not in self._classes:
            raise ConfigError(f"unknown {self.sort} kind '{kind}'; {did_you_mean(kind, self._classes)}")
        return self._classes[kind]

    def kind_of(self, component: type[C]) -> str:
        """The kind that a class was given.

        Raises:
            ConfigError: if it was given none, as a class that is named by "module:Class".
        """
        for kind, known in self._classes.items():
            if known is component:
                return kind
        raise ConfigError(
            f"{component.__qualname__} has no {self.sort} kind, by which another process could know it; register it"
        )

    def _import(self, kind: str) -> type[C]:
        module_name, _, class_name = kind.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError, ValueError, SyntaxError) as error:
            raise ConfigError(f"{self.sort} kind '{kind}' cannot be imported: {error}") from error
        if not isinstance(found, type) or not hasattr(found, "config_class"):
            raise ConfigError(f"{self.sort} kind '{kind}' is not a class with a `config_class`; see docs/extending.md")
        return found


def same_definition(old: type, new: type) -> bool:
    """Whether a class is the other one defined again, as a notebook does when a cell is run twice."""
    return (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)


def build_config(model: type[M], settings: Mapping[str, Any], place: str) -> M:
    """Validate settings against a configuration model, with errors that a person can act on.

    Args:
        model: the pydantic model.
        settings: keys and values as read from a file.
        place: where they stand, e.g. "arms.federated.method"; it starts the error message.

    Raises:
        ConfigError: on the first problem; for an unknown key it names the nearest valid one.
    """
    try:
        return model.model_validate(dict(settings))
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(model, error, place)) from None


def split_kind(
    table: Mapping[str, Any], place: str, names: Iterable[str], find: Callable[[str], type[C]]
) -> tuple[str, type[C], dict[str, Any]]:
    """The kind that a table of a file names, the component of that name, and what else the table says.

    Args:
        table: `{ kind = "lightgcn", dim = 64 }`.
        place: where it stands; it starts the error message.
        names: that may be chosen, for the error message.
        find: name, or "module:Class" -> component; it raises a ConfigError for what there is not.

    Raises:
        ConfigError: if there is no kind, or nothing of its name.
    """
    settings = dict(table)
    kind = settings.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError(f"{place}.kind: missing or not a string; choose one of: {', '.join(names)}")
    try:
        return kind, find(kind), settings
    except ConfigError as error:
        raise ConfigError(f"{place}.kind = '{kind}': {error}") from error


def parse_document(text: str, source: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The tables of a TOML file, with overrides, before anything is known of what they mean.

    Raises:
        ConfigError: if it is no TOML, or an override has no place.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}; correct that line") from None
    for override in overrides:
        _override(document, override)
    return document


def _override(document: dict[str, Any], override: str) -> None:
    """Set one value of a parsed document."""
    dotted, equals, text = override.partition("=")
    *tables, key = dotted.strip().split(".")
    if not equals or not all((*tables, key)):
        raise ConfigError(f"--set {override}: write it as dotted.key=value, such as arms.central.method.dim=32")
    table: Any = document
    for name in tables:
        table = _enter(table, name, override)
    if not isinstance(table, dict):
        raise ConfigError(f"--set {override}: {'.'.join(tables)} has no keys of its own; shorten the key")
    table[key] = _value(text.strip())


def _enter(table: Any, name: str, override: str) -> Any:
    """The table of that name within a table, made if it is new, or within a list of arms or attacks."""
    if isinstance(table, dict):
        return table.setdefault(name, {})
    if isinstance(table, list):
        entries = {str(entry.get("name", entry.get("kind"))): entry for entry in table if isinstance(entry, dict)}
        if name in entries:
            return entries[name]
        sort = override.partition(".")[0].strip().removesuffix("s")  # an arm or an attack
        raise ConfigError(f"--set {override}: there is no {sort} '{name}'; {did_you_mean(name, entries)}")
    raise ConfigError(f"--set {override}: there is no table to hold '{name}'; shorten the key")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def changed(config: M, settings: Mapping[str, Value], place: str) -> M:
    """The configuration with other values of some settings.

    Args:
        config: the configuration.
        settings: values by dotted key, "server.rate" for a setting of a nested configuration.
        place: where the configuration stands, for errors.

    Raises:
        ConfigError: if there is no such setting, or a value is not allowed.
    """
    tables = config.model_dump(mode="json")
    for dotted, value in settings.items():
        *parents, key = dotted.split(".")
        table: Any = tables
        for parent in parents:
            table = table.get(parent) if isinstance(table, dict) else None
        if not isinstance(table, dict) or key not in table:
            raise ConfigError(f"{place}: no setting '{dotted}'; {did_you_mean(dotted, _dotted(config))}")
        table[key] = list(value) if isinstance(value, tuple) else value
    return build_config(type(config), tables, place)


def setting_of(config: Config, dotted: str) -> Value:
    """The value of a setting by its dotted key, arrays as tuples.

    Raises:
        ConfigError: if there is no such setting.
    """
    value: Any = config.model_dump(mode="json")
    for key in dotted.split("."):
        if not isinstance(value, dict) or key not in value:
            raise ConfigError(f"no setting '{dotted}'; {did_you_mean(dotted, _dotted(config))}")
        value = value[key]
    return as_value(value)


def check_spaces(config: Config, spaces: Mapping[str, Space], place: str) -> None:
    """Make sure that a configuration allows every value of its spaces, as far as one setting at a time can show.

    Raises:
        ConfigError: naming the key and the value.
    """
    for key, space in spaces.items():
        for value in space.ends():
            changed(config, {key: value}, place)


def _dotted(config: Config) -> list[str]:
    """The keys of a configuration and of those within it."""
    keys = []
    for name in type(config).model_fields:
        inner = getattr(config, name)
        keys += [f"{name}.{key}" for key in _dotted(inner)] if isinstance(inner, Config) else [name]
    return keys


def _explain(model: type[Config], error: pydantic.ValidationError, place: str) -> str:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    where = ".".join([place, *path]) if place else ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key '{path[-1]}'; {did_you_mean(path[-1], _keys(model, path[:-1]))}"
    if first["type"] == "missing":
        return f"{where}: missing; add it"
    if first["type"] == "value_error":
        reason = str(first["ctx"]["error"])
    elif first["type"] == "literal_error" and isinstance(first["input"], str):
        options = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        reason = f"no such option; {did_you_mean(first['input'], options)}"
    else:
        reason = first["msg"] + _REMEDIES.get(first["type"], "")
    return f"{where} = {first['input']!r}: {reason}"


_REMEDIES = {
    "less_than": "; lower it",
    "less_than_equal": "; lower it",
    "greater_than": "; raise it",
    "greater_than_equal": "; raise it",
    "finite_number": "; give a finite one",
    "tuple_type": "; write it in brackets, such as [0] or ['a']",
    "list_type": "; write it in brackets, such as [0] or ['a']",
    "too_short": "; give more",
    "too_long": "; give fewer",
    "int_type": "; write a whole number without quotes",
    "int_parsing": "; write a whole number without quotes",
    "int_from_float": "; round it",
    "float_type": "; write a number without quotes",
    "float_parsing": "; write a number without quotes",
    "bool_type": "; write true or false without quotes",
    "bool_parsing": "; write true or false without quotes",
    "string_type": "; write it in quotes",
    "model_type": "; write a table, such as { key = value }",
    "dict_type": "; write a table, such as { key = value }",
}
"""What to do about a mistake, by pydantic's type of it."""


def _keys(model: type[pydantic.BaseModel], path: list[str]) -> list[str]:
    """The valid keys of the model that the path leads to, or of the last one found on the way."""
    for part in path:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        for inner in (annotation, *get_args(annotation)):  # a section that may be None is a union
            if isinstance(inner, type) and issubclass(inner, pydantic.BaseModel):
                model = inner
    return [field.alias or name for name, field in model.model_fields.items()]
