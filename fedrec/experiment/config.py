"""What was asked: an experiment as a TOML file, and the overrides of `--set`.

An experiment has one data section, one split, and several arms evaluated on the very same split, seeds and candidates,
so that their differences are paired. Every section is the configuration model of the component it configures; an error
names the place by the names of the arms (`arms.federated.method.dim`), not by their positions.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pydantic
import tomli_w

from fedrec.components import Config, build_config, check_spaces, parse_document, setting_of
from fedrec.data import DataConfig
from fedrec.errors import ConfigError, did_you_mean
from fedrec.evaluation import EvaluationConfig
from fedrec.experiment.arms import ArmConfig, Name, each_epsilon
from fedrec.experiment.attacks import AttackConfig
from fedrec.experiment.search import Search, Seed, TuneConfig
from fedrec.experiment.tracking import TrackingConfig
from fedrec.federated import EngineConfig
from fedrec.spaces import Value


class ExperimentConfig(Config):
    """An experiment: what `fedrec run` is given.

    Attributes:
        name: of the experiment; names its folder.
        seeds: each arm is fitted once a seed.
        data: what is read, cleaned and split. A relative path starts at the working directory.
        evaluation: how the arms are compared.
        arms: what is compared.
        engine: what the federated arms run on.
        tune: how settings are chosen before the arms are compared; None takes them as they are.
        attacks: what is tried on the arms once they are fitted.
        tracking: where the run can be followed beside its own folder; None is nowhere.
    """

    name: Name
    seeds: tuple[Seed, ...]
    data: DataConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    arms: tuple[ArmConfig, ...]
    engine: EngineConfig = EngineConfig()
    tune: TuneConfig | None = None
    attacks: tuple[AttackConfig, ...] = ()
    tracking: TrackingConfig | None = None

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> ExperimentConfig:
        """The experiment that a document (a parsed TOML file) describes.

        Raises:
            ConfigError: on the first thing that is wrong.
        """
        tables = dict(document)
        arms = tables.get("arms")
        if isinstance(arms, Sequence) and all(isinstance(arm, Mapping) for arm in arms):
            each = enumerate(each_epsilon(arms))
            tables["arms"] = tuple(ArmConfig.read(arm, f"arms.{arm.get('name', n)}") for n, arm in each)
        attacks = tables.get("attacks")
        if isinstance(attacks, Sequence) and all(isinstance(attack, Mapping) for attack in attacks):
            tables["attacks"] = tuple(
                AttackConfig.read(attack, f"attacks.{attack.get('name', attack.get('kind', number))}")
                for number, attack in enumerate(attacks)
            )
        return build_config(cls, tables, "")

    @pydantic.field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds:
            raise ValueError("an experiment needs at least one seed, such as seeds = [0]")
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed occurs twice; give each once")
        return seeds

    @pydantic.field_validator("arms")
    @classmethod
    def _arms(cls, arms: tuple[ArmConfig, ...]) -> tuple[ArmConfig, ...]:
        if not arms:
            raise ConfigError("arms = []: an experiment needs at least one [[arms]]")
        seen: dict[str, str] = {}
        for arm in arms:
            folded = arm.name.casefold()  # a name becomes a folder, and some file systems do not tell a from A
            if folded in seen:
                raise ConfigError(f"arms: two arms are named '{seen[folded]}' and '{arm.name}'; rename one")
            seen[folded] = arm.name
        return arms

    @pydantic.field_validator("attacks")
    @classmethod
    def _attacks(cls, attacks: tuple[AttackConfig, ...]) -> tuple[AttackConfig, ...]:
        seen: set[str] = set()
        for attack in attacks:
            if attack.name.casefold() in seen:
                raise ConfigError(f"attacks: two attacks are named '{attack.name}'; give one a name of its own")
            seen.add(attack.name.casefold())
        return attacks

    @pydantic.model_validator(mode="after")
    def _attacked_arms_exist(self) -> Self:
        names = [arm.name for arm in self.arms]
        for attack in self.attacks:
            for name in attack.on:
                if name not in names:
                    raise ConfigError(
                        f"attacks.{attack.name}.on: there is no arm '{name}'; {did_you_mean(name, names)}"
                    )
        return self

    @pydantic.model_validator(mode="after")
    def _tuning_is_possible(self) -> Self:
        for arm in self.arms:
            if arm.tune is not None and self.tune is None:
                raise ConfigError(
                    f"arms.{arm.name}.tune: the experiment has no [tune] section; add one, or remove this"
                )
        if self.tune is not None:
            self._check_tuned_arms(self.tune)
            self.searches()
        return self

    def _check_tuned_arms(self, tune: TuneConfig) -> None:
        names = {arm.name: arm for arm in self.arms}
        for name in tune.arms or ():
            if name not in names:
                raise ConfigError(f"tune.arms: there is no arm '{name}'; {did_you_mean(name, names)}")
            if not names[name].spaces:
                raise ConfigError(
                    f"tune.arms: arm '{name}' has no search space; give it one, such as "
                    "tune = { space = { rate = { log-uniform = [1e-3, 1e-1] } } }"
                )
        if not any(arm.spaces for arm in self.arms):
            raise ConfigError(
                "tune: no arm has a search space; give one, such as arms.<name>.tune.space.dim = [32, 64]"
            )

    def searches(self) -> dict[str, Search]:
        """The search for the settings of each arm that is tuned, by the arm's name.

        Raises:
            ConfigError: if a space holds what the method does not allow, a grid is too large, or a private arm would
                be tuned without saying so.
        """
        tune = self.tune
        if tune is None:
            return {}
        found = {}
        for arm in self.arms:
            if not arm.spaces or (tune.arms is not None and arm.name not in tune.arms):
                continue
            if arm.privacy is not None and not tune.unpaid:
                raise ConfigError(
                    f"arms.{arm.name}: tuning looks at the users' data again and again, which this arm's epsilon does "
                    "not pay for; list the arms to tune in tune.arms, or say tune.unpaid = true"
                )
            settings, place = arm.method.settings, f"arms.{arm.name}.method"
            check_spaces(settings, arm.spaces, place)
            try:
                found[arm.name] = Search(
                    arm=arm.name,
                    spaces=arm.spaces,
                    own={key: setting_of(settings, key) for key in arm.spaces},
                    sampler=tune.sampler,
                    trials=(arm.tune and arm.tune.trials) or tune.trials,
                    seeds=(arm.tune and arm.tune.seeds) or tune.seeds or self.seeds[:1],
                    points=tune.points,
                    pruner=tune.pruner,
                )
            except ConfigError as error:
                raise ConfigError(f"arms.{arm.name}.tune: {error}") from None
        return found

    def tuned(self, chosen: Mapping[str, Mapping[str, Value]]) -> ExperimentConfig:
        """The same experiment with chosen settings, by arm and dotted key, and nothing left to tune."""
        arms = tuple(arm.with_settings(chosen.get(arm.name, {})).model_copy(update={"tune": None}) for arm in self.arms)
        return self.model_copy(update={"arms": arms, "tune": None})

    def to_toml(self) -> str:
        """The effective configuration, every default written out; `read_config` gives back an equal one.

        Raises:
            ConfigError: if TOML cannot say it: where a default is set to None, which is no TOML value.
        """
        text = tomli_w.dumps(_sayable(self.model_dump(mode="json")))
        if ExperimentConfig.read(tomllib.loads(text)) != self:
            raise ConfigError(f"experiment '{self.name}': a setting is None, which TOML cannot say; give it a value")
        return text


def _sayable(value: Any) -> Any:
    """A dumped model without None, which TOML has no word for, and without tables of nothing.

    A table of nothing but None stays: it says that there is one, all of whose settings are their defaults.
    """
    if isinstance(value, list):
        return [_sayable(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {key: _sayable(entry) for key, entry in value.items() if entry is not None and entry != {}}


def read_config(path: Path, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Read an experiment from a TOML file.

    Args:
        path: the file.
        overrides: "dotted.key=value" each, arms by name: "arms.federated.method.rounds=20". A value is read as TOML,
            and as plain text where it is none.

    Raises:
        ConfigError: if the file is missing or is no TOML, or something in it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; check the path") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder; give the path of a .toml file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); make it readable") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file (byte {error.start}); give a TOML file in UTF-8") from None
    return parse_config(text, str(path), overrides)


def parse_config(text: str, source: str, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Read an experiment from the text of a TOML file; `source` says in messages where it comes from.

    Raises:
        ConfigError: if it is no TOML, or something in it is wrong.
    """
    document = parse_document(text, source, overrides)
    try:
        return ExperimentConfig.read(document)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
