"""The attacks of an experiment: what is tried on which arms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pydantic

from fedrec.attacks import ATTACKS, Attack
from fedrec.components import Config, build_config, split_kind
from fedrec.experiment.arms import ArmConfig, Name


class AttackConfig(Config):
    """One attack: `{ kind = "history", on = ["federated"], trials = 100 }`.

    Attributes:
        name: of the attack, in every table and folder; its kind unless something else is said.
        kind: the attack's, or "module:Class" for one of one's own.
        on: the arms that are attacked, federated ones.
        settings: the configuration of that attack's class, every default filled in.
    """

    name: Name
    kind: str
    on: tuple[str, ...] = pydantic.Field(min_length=1)
    settings: pydantic.SerializeAsAny[Config]

    @classmethod
    def read(cls, table: Mapping[str, Any], place: str) -> AttackConfig:
        """The attack that a table of a file describes.

        Raises:
            ConfigError: if the kind or a setting is wrong.
        """
        kind, attack, settings = split_kind(table, place, ATTACKS, ATTACKS.__getitem__)
        own = {"kind": kind, "name": settings.pop("name", kind.rpartition(":")[2])}
        own |= {"on": settings.pop("on")} if "on" in settings else {}
        own["settings"] = build_config(attack.config_class, settings, place)
        return build_config(cls, own, place)

    @pydantic.model_serializer
    def _flat(self) -> dict[str, Any]:
        own = {"name": self.name, "kind": self.kind, "on": list(self.on)}
        return own | self.settings.model_dump(mode="json")

    def build(self) -> Attack:
        """The attack."""
        return ATTACKS[self.kind](self.settings)


def plan(attacks: Sequence[AttackConfig], arms: Sequence[ArmConfig]) -> Iterator[tuple[AttackConfig, ArmConfig]]:
    """Each attack with each arm that it is on, in the order of the configuration."""
    by_name = {arm.name: arm for arm in arms}
    for attack in attacks:
        for name in attack.on:
            yield attack, by_name[name]
