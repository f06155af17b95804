"""Search spaces: the values of a setting that tuning may try.

A configuration model declares them beside its settings, by dotted key:

    space: ClassVar[Mapping[str, Space]] = {"rate": LogUniform(1e-3, 1e-1), "server.kind": Choice(("sgd", "adam"))}

and an experiment may say otherwise for an arm: `tune = { space = { rate = { log-uniform = [1e-3, 1e-1] } } }`. A space
is a map from [0, 1) to values, which is all that sampling needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrec.errors import ConfigError

Value = bool | int | float | str | tuple[Any, ...]
"""What a setting can be: whatever TOML can say; an array is a tuple."""

_DIGITS = 4  # significant ones of a real value: more would not change a result, and nobody could read them aloud


@dataclass(frozen=True)
class Uniform:
    """Real numbers from `low` to `high`, each as likely as another."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _require(-math.inf < self.low < self.high < math.inf, self, "low must be below high, both finite")

    def at(self, share: float) -> float:
        """The value below which a share in [0, 1] of the space lies, rounded to four significant digits."""
        return self.rounded(self.low + share * (self.high - self.low))

    def rounded(self, value: float) -> float:
        """A real number of the space as it is tried: to four significant digits, and still within the space."""
        return min(max(float(f"{value:.{_DIGITS}g}"), float(self.low)), float(self.high))

    def grid(self, points: int) -> tuple[float, ...]:
        """Equally spaced values, both ends among them."""
        return tuple(dict.fromkeys(self.at(n / (points - 1)) for n in range(points)))

    def ends(self) -> tuple[float, ...]:
        """The values that a configuration must allow if it allows the whole space."""
        return (float(self.low), float(self.high))

    def __contains__(self, value: object) -> bool:
        return _is_number(value) and self.low <= value <= self.high  # type: ignore[operator]

    def as_table(self) -> dict[str, Any]:
        """As TOML says it."""
        return {"uniform": [self.low, self.high]}


@dataclass(frozen=True)
class LogUniform(Uniform):
    """Positive real numbers from `low` to `high`, each order of magnitude as likely as another."""

    def __post_init__(self) -> None:
        _require(0 < self.low < self.high < math.inf, self, "low must be above 0 and below high")

    def at(self, share: float) -> float:
        """The value below which a share in [0, 1] of the space lies, rounded to four significant digits."""
        return self.rounded(self.low * (self.high / self.low) ** share)

    def as_table(self) -> dict[str, Any]:
        """As TOML says it."""
        return {"log-uniform": [self.low, self.high]}


@dataclass(frozen=True)
class Integers:
    """Whole numbers from `low` to `high`, both included; equally likely, or (`log`) each order of magnitude."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        whole = all(isinstance(end, int) and not isinstance(end, bool) for end in (self.low, self.high))
        _require(whole and self.low < self.high, self, "low and high must be whole numbers, low below high")
        _require(not self.log or self.low > 0, self, "on a logarithmic scale low must be above 0")

    def at(self, share: float) -> int:
        """The value below which a share in [0, 1) of the space lies."""
        if self.log:
            real = self.low * ((self.high + 1) / self.low) ** share
        else:
            real = self.low + share * (self.high + 1 - self.low)
        return min(int(real), self.high)

    def grid(self, points: int) -> tuple[int, ...]:
        """Equally spaced values, rounded, both ends among them; all of them if there are no more than `points`."""
        if self.high - self.low < points:
            return tuple(range(self.low, self.high + 1))
        reals = LogUniform(self.low, self.high) if self.log else Uniform(self.low, self.high)
        return tuple(dict.fromkeys(round(value) for value in reals.grid(points)))

    def ends(self) -> tuple[int, ...]:
        """The values that a configuration must allow if it allows the whole space."""
        return (self.low, self.high)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def as_table(self) -> dict[str, Any]:
        """As TOML says it."""
        return {"log-integers" if self.log else "integers": [self.low, self.high]}


@dataclass(frozen=True)
class Choice:
    """One of several values, each as likely as another; the order means nothing."""

    options: tuple[Value, ...]

    def __post_init__(self) -> None:
        _require(len(self.options) > 0, self, "there must be something to choose from")
        distinct = {repr(option) for option in self.options}  # True is 1 and is not meant so
        _require(len(distinct) == len(self.options), self, "an option occurs twice; give each once")

    def at(self, share: float) -> Value:
        """The option below which a share in [0, 1) of the space lies."""
        return self.options[min(int(share * len(self.options)), len(self.options) - 1)]

    def grid(self, points: int) -> tuple[Value, ...]:
        """All options, however many."""
        return self.options

    def ends(self) -> tuple[Value, ...]:
        """The values that a configuration must allow if it allows the whole space."""
        return self.options

    def __contains__(self, value: object) -> bool:
        return value in self.options

    def as_table(self) -> dict[str, Any]:
        """As TOML says it."""
        return {"choice": [list(option) if isinstance(option, tuple) else option for option in self.options]}


Space = Uniform | LogUniform | Integers | Choice


def _require(good: bool, space: object, remedy: str) -> None:
    if not good:
        raise ConfigError(f"{space}: {remedy}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_KINDS: dict[str, Callable[..., Space]] = {
    "uniform": Uniform,
    "log-uniform": LogUniform,
    "integers": Integers,
    "log-integers": lambda low, high: Integers(low, high, log=True),
}


def read_spaces(table: Mapping[str, Any], place: str) -> dict[str, Space]:
    """Spaces by dotted key, from tables as TOML has them.

    `rate = { log-uniform = [1e-3, 1e-1] }`, `dim = { choice = [32, 64] }` or, shorter, `dim = [32, 64]`; also
    `uniform`, `integers` and `log-integers`. The tables of nested settings nest, or their keys are dotted.

    Args:
        table: as it was read.
        place: where it stands, for errors.

    Raises:
        ConfigError: if a space has another form or no value in it.
    """
    found: dict[str, Space] = {}
    for key, value in table.items():
        where = f"{place}.{key}"
        if isinstance(value, Mapping) and value and not set(value) & {*_KINDS, "choice"}:
            found |= {f"{key}.{inner}": space for inner, space in read_spaces(value, where).items()}
        else:
            found[key] = _read_space(value, where)
    return found


def _read_space(value: Any, place: str) -> Space:
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = {"choice": value}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ConfigError(
            f"{place} = {value!r}: not a search space; write it as {{ log-uniform = [low, high] }} or [value, value]"
        )
    ((kind, content),) = value.items()
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise ConfigError(f"{place}.{kind} = {content!r}: must be an array, as in {{ {kind} = [1, 2] }}")
    try:
        if kind == "choice":
            return Choice(tuple(as_value(option) for option in content))
        if len(content) != 2 or not all(_is_number(end) for end in content):
            raise ConfigError(f"{list(content)}: give two numbers, low and high")
        return _KINDS[kind](*content)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def as_value(read: Any) -> Value:
    """A value as settings hold it, from one that TOML or JSON gave: arrays are tuples."""
    value: Value = tuple(as_value(entry) for entry in read) if isinstance(read, list | tuple) else read
    return value
