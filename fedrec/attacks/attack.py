"""`Attack`: what an observer tries on an arm, and the findings that it comes to.

An attack is given the arm before it is trained, and its users: it plays the arm's rounds itself, looks at what an
observer would see of them, guesses, and says how often it was right, beside what chance would have made of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedrec.components import Component, Registry
from fedrec.data import Interactions
from fedrec.errors import ConfigError
from fedrec.federated import FederatedMethod, FederatedRecommender, Federation, Query
from fedrec.privacy import Schedule, SeededNoise
from fedrec.streams import Streams


@dataclass(frozen=True)
class Finding:
    """One number that an attack came to.

    Attributes:
        case: what was observed ("one answer", "sum of 10"), or which setting was tried.
        measure: what the value is of.
        value: the success.
        error: its standard error; None where it has none.
        chance: what a guess without the observation comes to, or the same guess about somebody who is not in it; None
            where there is no such thing.
        trials: number of trials that the value is a mean of, or of guesses.
    """

    case: str
    measure: str
    value: float
    error: float | None = None
    chance: float | None = None
    trials: int = 1

    @classmethod
    def mean(cls, case: str, measure: str, values: Sequence[float] | Tensor, chance: float | None = None) -> Finding:
        """The mean of independent trials, with its standard error."""
        found = torch.as_tensor(values, dtype=torch.float64)
        error = float(found.std()) / math.sqrt(len(found)) if len(found) > 1 else None
        return cls(case, measure, float(found.mean()), error, chance, len(found))


@dataclass(frozen=True, eq=False)
class Target:
    """An arm under attack, and its users.

    Attributes:
        recommender: the arm, not fitted.
        train: what the users train on, with what is known of them.
        valid: what they hold out for validation, for saying what a defence costs; it may be empty.
        seed: of the rounds that are played.
    """

    recommender: FederatedRecommender
    train: Interactions
    valid: Interactions
    seed: int

    @property
    def method(self) -> FederatedMethod:
        """What the arm trains."""
        return self.recommender.method

    @property
    def streams(self) -> Streams:
        """Of the users and the server; what the attacker draws has purposes of its own."""
        return Streams(self.seed)

    def require_plain(self) -> None:
        """Refuse an arm whose single answers and sums of them cannot be played: of all attacks but the audit.

        Raises:
            ConfigError: if it is trained over silos, devices add the noise, or clip or noise follow what was released
                before.
        """
        if self.recommender.population.kind != "users":
            raise ConfigError("population.kind = 'silos': this attack is on users; name other arms in `on`")
        privacy = self.recommender.privacy
        if privacy is None:
            return
        if privacy.trust not in ("central", "secagg"):
            raise ConfigError(
                f"privacy.trust = '{privacy.trust}': this attack plays sums of users that the server adds noise to; "
                "name arms of trust 'central' or 'secagg' in `on`"
            )
        if privacy.adaptive is not None or privacy.continual is not None or isinstance(privacy.clip, dict):
            raise ConfigError(
                "privacy.adaptive, privacy.continual, clips by query or table: this attack plays one fixed clip a "
                "query, of the method's settings, and noise of its own in each round; name other arms in `on`"
            )

    @property
    def schedule(self) -> Schedule | None:
        """Every release of the arm; None without a guarantee."""
        privacy = self.recommender.privacy
        return None if privacy is None else self.recommender.schedule(privacy)

    def noise_multipliers(self) -> dict[str, float]:
        """By kind of release; none without a guarantee."""
        privacy, schedule = self.recommender.privacy, self.schedule
        return {} if privacy is None or schedule is None else privacy.noise_multipliers(schedule)

    @property
    def memory(self) -> Query | None:
        """The query of the first round whose private state scoring reads, which is what an arm trains by."""
        state = self.method.start(self.federation(self.train.n_users, self.train.n_items))
        return self.method.memory(state)

    def noise(self, purpose: str) -> SeededNoise:
        """Noise for the releases of an arm that is played, of no other arm's and no other purpose's."""
        privacy = self.recommender.privacy
        settings = f"{self.method.config.model_dump_json()}{privacy and privacy.model_dump_json()}"
        return SeededNoise(self.streams, f"{purpose}/{type(self.method).__qualname__}{settings}")

    def federation(self, n_users: int, n_items: int) -> Federation:
        """What is public, with so many users and items."""
        known = self.train.item_attributes.reindex(range(n_items))  # nothing is known of items that are added
        return Federation(n_users, n_items, self.streams, self.recommender.engine.dtype, item_attributes=known)


class Attack(Component, Protocol):
    """An attack."""

    def check(self, target: Target) -> None:
        """Whether it can attack an arm, as far as can be said before anything is played.

        Raises:
            ConfigError: if it cannot; naming the setting, its value and the remedy.
        """

    def run(self, target: Target) -> list[Finding]:
        """Attack an arm."""


ATTACKS: Registry[Attack] = Registry("attack")
"""The attacks, by kind."""
