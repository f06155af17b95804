"""Recommenders within recommenders: members named by kind, whatever layer they come from.

This layer knows the central recommenders. A layer above admits its own registry and says how what is in it becomes a
`Recommender`; the federated methods are admitted so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pydantic
from torch import Tensor

from fedrec.components import Config, Registry, build_config
from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError, ModelError, did_you_mean
from fedrec.recommenders.histories import Histories, folds_in
from fedrec.recommenders.recommender import (
    RECOMMENDERS,
    Disclosure,
    NoCheckpoints,
    Recommender,
    Tensors,
    Training,
)

Wrap = Callable[[Any], Recommender]

_ADMITTED: list[tuple[Registry[Any], Wrap]] = []


def admit(registry: Registry[Any], wrap: Wrap) -> None:
    """Let members be of another registry's kinds.

    Args:
        registry: of components that are no recommenders themselves.
        wrap: from one of its components to a recommender.
    """
    _ADMITTED.append((registry, wrap))


def member_kinds() -> list[str]:
    """The kinds that a member can have."""
    return sorted([*RECOMMENDERS, *(kind for registry, _ in _ADMITTED for kind in registry)])


def _registry_of(kind: str) -> Registry[Any]:
    for registry in (RECOMMENDERS, *(registry for registry, _ in _ADMITTED)):
        if kind in registry:
            return registry
    if ":" in kind:
        return RECOMMENDERS
    raise ConfigError(f"unknown method kind '{kind}'; {did_you_mean(kind, member_kinds())}")


class Member(Config):
    """A recommender that another one is made of: `{ kind = "item-neighbors", neighbors = 50 }`.

    Attributes:
        kind: of the registry, or "module:Class".
        settings: the configuration of that class, every default filled in.
    """

    kind: str
    settings: pydantic.SerializeAsAny[Config]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _read(cls, table: Any) -> Any:
        if not isinstance(table, Mapping):
            return table
        settings = dict(table)
        kind = settings.pop("kind", None)
        if not isinstance(kind, str):
            raise ConfigError(f"members: {table!r} has no kind; choose one of: {', '.join(member_kinds())}")
        if isinstance(settings.get("settings"), Config):
            return table
        config_class = _registry_of(kind)[kind].config_class
        return {"kind": kind, "settings": build_config(config_class, settings, f"members.{kind}")}

    @pydantic.model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.settings.model_dump(mode="json")}

    def build(self) -> Recommender:
        """The recommender, not yet fitted; a federated method runs on everybody, without a guarantee."""
        registry = _registry_of(self.kind)
        component: Any = registry[self.kind](self.settings)
        if hasattr(component, "fit"):
            return component  # type: ignore[no-any-return]
        wraps = [wrap for admitted, wrap in _ADMITTED if admitted is registry or registry is RECOMMENDERS]
        if not wraps:
            raise ConfigError(f"members: '{self.kind}' has no `fit`, and nothing here runs it; see docs/extending.md")
        return wraps[0](component)


class Ensemble:
    """The fitted members of a recommender."""

    def __init__(self, members: Sequence[Member], owner: str) -> None:
        self.members = tuple(members)
        self.owner = owner
        self._fitted: list[Recommender] = []

    def fit(self, train: Interactions, training: Training, stage: str = "") -> None:
        """Fit every member. Their log lines carry their names; an interrupted fit begins again with the first.

        Args:
            train, training: as of any recommender. Members that stop early look at the same validator.
            stage: what the log lines begin with, where members are fitted more than once.
        """
        fitted = []
        for name, member in zip(self.names, self.members, strict=True):

            def log(step: int, what: str, value: float, disclosure: Disclosure, place: str = f"{stage}{name}") -> None:
                training.log(step, f"{place}/{what}", value, disclosure)

            recommender = member.build()
            arm = f"{training.arm}/{name}"
            own = replace(training, arm=arm, log=log, progress=_untold, checkpoints=NoCheckpoints())
            recommender.fit(train, own)
            fitted.append(recommender)
        self._fitted = fitted

    @property
    def names(self) -> list[str]:
        """Position and kind of each member."""
        return [f"{number}-{member.kind}" for number, member in enumerate(self.members, start=1)]

    def scores(self, users: Tensor) -> Iterator[Tensor]:
        """The scores of each member, float64 on the CPU."""
        return (recommender.score(users).detach().cpu().double() for recommender in self._ready())

    @property
    def folds_in(self) -> bool:
        """Whether all members do."""
        return all(folds_in(recommender) for recommender in self._ready())

    def scores_of(self, histories: Histories) -> Iterator[Tensor]:
        """The scores of each member for users who have these items.

        Raises:
            ModelError: if a member does not fold in.
        """
        for name, recommender in zip(self.names, self._ready(), strict=True):
            if not folds_in(recommender):
                raise ModelError(f"{self.owner}: member {name} does not fold in; score users who were in training")
            yield recommender.score_histories(histories).detach().cpu().double()  # type: ignore[attr-defined]

    def tensors(self) -> Tensors:
        """Copies of the tensors of all members, by "position-kind/name": members may share theirs."""
        pairs = zip(self.names, self._ready(), strict=True)
        return {f"{name}/{key}": tensor.clone() for name, found in pairs for key, tensor in found.tensors().items()}

    def _ready(self) -> list[Recommender]:
        if not self._fitted:
            raise ModelError(f"{self.owner} has not been fitted; call fit(train, training) before scoring")
        return self._fitted


def _untold(_: int, __: int, ___: float | None) -> None:
    """Whoever watches is told of the members that are fitted, not of their steps."""
