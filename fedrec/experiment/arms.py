"""The arms of an experiment: a method, and what it has beside it if it is federated or tuned."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import pydantic

from fedrec.components import Config, build_config, changed, split_kind
from fedrec.errors import ConfigError, did_you_mean
from fedrec.experiment.search import Seed
from fedrec.federated import METHODS, ParticipationConfig, PopulationConfig
from fedrec.privacy import PrivacyConfig
from fedrec.recommenders import RECOMMENDERS
from fedrec.spaces import Space, Value, read_spaces


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise ValueError("a name becomes a folder; use up to 64 letters, digits, '-' and '_', a letter or digit first")
    return name


Name = Annotated[str, pydantic.AfterValidator(_folder_name)]


def methods() -> list[str]:
    """The kinds of every method that an arm can have, central ones and federated ones."""
    return sorted([*RECOMMENDERS, *METHODS])


def method_class(kind: str) -> type[Any]:
    """The class of a method kind, or of "module:Class".

    Raises:
        ConfigError: if there is none; it names the nearest kind.
    """
    if kind not in METHODS and kind not in RECOMMENDERS and ":" not in kind:
        raise ConfigError(f"unknown method kind '{kind}'; {did_you_mean(kind, methods())}")
    found: type[Any] = METHODS[kind] if kind in METHODS else RECOMMENDERS[kind]
    return found


class MethodConfig(Config):
    """The method of an arm: `{ kind = "lightgcn", dim = 64 }`.

    Attributes:
        kind: the method's name, or "module:Class" for a method of one's own.
        settings: the configuration of that method's class, every default filled in.
    """

    kind: str
    settings: pydantic.SerializeAsAny[Config]

    @classmethod
    def read(cls, table: Mapping[str, Any], place: str) -> MethodConfig:
        """The method that a table of a file describes.

        Raises:
            ConfigError: if the kind or a setting is wrong.
        """
        kind, method, settings = split_kind(table, place, methods(), method_class)
        return cls(kind=kind, settings=build_config(method.config_class, settings, place))

    @property
    def federated(self) -> bool:
        """Whether the method is a computation over a population of users; a central one has its own `fit`."""
        return not hasattr(method_class(self.kind), "fit")

    @pydantic.model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.settings.model_dump(mode="json")}


class ArmTuneConfig(Config):
    """What `[tune]` does otherwise for one arm.

    Attributes:
        trials, seeds: instead of its own; None is its. An arm whose trials depend on the seed is better tuned with
            several, or the luckiest start is chosen.
        spaces: instead of those beside the method's configuration; None is those. The key is `space`, and
            `fedrec.spaces.read_spaces` says how a space is written.
    """

    trials: int | None = pydantic.Field(None, ge=1)
    seeds: tuple[Seed, ...] | None = pydantic.Field(None, min_length=1)
    spaces: dict[str, Any] | None = pydantic.Field(None, alias="space")  # `Space`, which has a form of its own in TOML

    @classmethod
    def read(cls, table: Mapping[str, Any], place: str) -> ArmTuneConfig:
        """The section that a table of a file describes.

        Raises:
            ConfigError: if a key or a space is wrong.
        """
        tables = dict(table)
        if "space" in tables:
            if not isinstance(tables["space"], Mapping):
                raise ConfigError(f"{place}.space = {tables['space']!r}: must be a table of spaces by setting")
            tables["space"] = read_spaces(tables["space"], f"{place}.space")
        return build_config(cls, tables, place)

    @pydantic.model_serializer
    def _as_toml(self) -> dict[str, Any]:
        spaces = None if self.spaces is None else {key: space.as_table() for key, space in self.spaces.items()}
        return {"trials": self.trials, "seeds": self.seeds and list(self.seeds), "space": spaces}


def each_epsilon(arms: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The arms of a file, one whose `privacy.epsilon` is a list being as many: "NAME-eps8" for epsilon = 8, and so on.

    A point in an epsilon is "_" in the name: "NAME-eps0_5".
    """
    found: list[Mapping[str, Any]] = []
    for arm in arms:
        privacy: Any = arm.get("privacy")
        epsilons = privacy.get("epsilon") if isinstance(privacy, Mapping) else None
        if not isinstance(epsilons, list) or not all(isinstance(epsilon, int | float) for epsilon in epsilons):
            found.append(arm)  # as it is; whatever is wrong with it is told where arms are read
            continue
        for epsilon in epsilons:
            name = f"{arm.get('name', '')}-eps{epsilon:g}".replace(".", "_")
            found.append({**arm, "name": name, "privacy": {**privacy, "epsilon": epsilon}})
    return found


_SECTIONS: dict[str, type[Config]] = {
    "population": PopulationConfig,
    "participation": ParticipationConfig,
    "privacy": PrivacyConfig,
}
"""What an arm has beside its method, if that is federated."""


def _default(model: type[Config]) -> Any:
    """A section that a federated arm always has, with its defaults, and that a central one never has."""
    return pydantic.Field(default_factory=lambda fields: model() if fields["method"].federated else None)


class ArmConfig(Config):
    """One way to make recommendations, compared with the other arms.

    Attributes:
        name: of the arm, in every table, figure and folder.
        method: what is fitted.
        population: who holds the data; federated methods only.
        participation: who answers in a round; federated methods only.
        privacy: the guarantee that the arm must reach; None is no guarantee. A file may list several epsilons, and
            has an arm for each then: see `each_epsilon`.
        tune: what the experiment's `[tune]` does otherwise for this arm.
    """

    name: Name
    method: MethodConfig
    population: PopulationConfig | None = _default(PopulationConfig)
    participation: ParticipationConfig | None = _default(ParticipationConfig)
    privacy: PrivacyConfig | None = None
    tune: ArmTuneConfig | None = None

    @classmethod
    def read(cls, table: Mapping[str, Any], place: str) -> ArmConfig:
        """The arm that a table of a file describes.

        Raises:
            ConfigError: if a section is wrong.
        """
        arm = dict(table)
        for name in ("method", "tune", *_SECTIONS):
            if name in arm and not isinstance(arm[name], Mapping):
                raise ConfigError(f"{place}.{name} = {arm[name]!r}: must be a table, such as {name} = {{ ... }}")
        if "method" in arm:
            arm["method"] = MethodConfig.read(arm["method"], f"{place}.method")
        if "tune" in arm:
            arm["tune"] = ArmTuneConfig.read(arm["tune"], f"{place}.tune")
        for name, model in _SECTIONS.items():
            if name in arm:
                arm[name] = build_config(model, arm[name], f"{place}.{name}")
        return build_config(cls, arm, place)

    @property
    def spaces(self) -> Mapping[str, Space]:
        """What may be tuned, by dotted key of the method's settings; nothing if empty."""
        if self.tune is not None and self.tune.spaces is not None:
            return self.tune.spaces
        return type(self.method.settings).space

    def with_settings(self, settings: Mapping[str, Value]) -> ArmConfig:
        """The arm with other values of its method's settings, by dotted key.

        Raises:
            ConfigError: if there is no such setting, or a value is not allowed.
        """
        method = changed(self.method.settings, settings, f"arms.{self.name}.method")
        return self.model_copy(update={"method": MethodConfig(kind=self.method.kind, settings=method)})

    @pydantic.model_validator(mode="after")
    def _only_a_federation_has_sections(self) -> Self:
        for name in _SECTIONS:
            if getattr(self, name) is not None and not self.method.federated:
                raise ConfigError(
                    f"arms.{self.name}.{name}: method '{self.method.kind}' is trained centrally and has no {name}; "
                    f"remove the section or choose a federated method: {', '.join(METHODS)}"
                )
        return self
