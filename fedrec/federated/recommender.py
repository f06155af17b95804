"""`FederatedRecommender`: a federated method, an engine and perhaps a guarantee, as one arm of an experiment."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial
from typing import ClassVar

import pandas as pd
from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError, ModelError, PrivacyError
from fedrec.evaluation import Validator
from fedrec.federated.cohort import Devices, HeldOutItems
from fedrec.federated.costs import Communication
from fedrec.federated.engine import EngineConfig, Population, is_simulation
from fedrec.federated.engines import Dealt, open_engine
from fedrec.federated.method import METHODS, FederatedMethod, Federation
from fedrec.federated.participation import ParticipationConfig
from fedrec.federated.population import PopulationConfig, count_silos, silos_of
from fedrec.federated.private_engine import Journal, PrivateEngine, require_one_answer
from fedrec.federated.private_sums import is_over_nodes
from fedrec.federated.protection import protect, require_unit
from fedrec.federated.queries import Evaluate
from fedrec.federated.queries.evaluate import largest_norm
from fedrec.federated.rounds import Rounds, Watched
from fedrec.privacy import (
    Correlation,
    Guarantee,
    PlannedRelease,
    PrivacyConfig,
    Schedule,
    SeededNoise,
    SystemNoise,
    check_delta,
)
from fedrec.recommenders.histories import Histories
from fedrec.recommenders.members import admit
from fedrec.recommenders.recommender import Tensors, Training
from fedrec.recommenders.trainer import train as run_rounds
from fedrec.streams import Streams


class FederatedRecommender:
    """Trains a federated method and ranks with it.

    Args:
        method: the algorithm.
        population: what a client is.
        participation: who takes part in a round.
        privacy: the guarantee that is asked for; None trains without noise.
        engine: where it runs.

    Attributes:
        guarantee: after fitting, what may be said about privacy; None without a `privacy` section.
        communication: after fitting, what it cost.
    """

    config_class: ClassVar[type[Config]] = EngineConfig

    def __init__(
        self,
        method: FederatedMethod,
        *,
        population: PopulationConfig | None = None,
        participation: ParticipationConfig | None = None,
        privacy: PrivacyConfig | None = None,
        engine: EngineConfig | None = None,
    ) -> None:
        self.method = method
        self.population = population or PopulationConfig()
        self.participation = participation or ParticipationConfig()
        self.privacy = privacy
        self.engine = engine or EngineConfig()
        self.guarantee: Guarantee | None = None
        self.communication = Communication()
        self._rounds: Rounds | None = None

    def check(self, train: Interactions) -> None:
        """Whether this arm can be trained, before anything is written.

        Raises:
            ConfigError, PrivacyError: naming the setting, its value and the remedy.
        """
        silos = count_silos(silos_of(self.population, train, seed=0))
        self.check_size(train.n_users, train.n_items, train.item_attributes, silos)

    def check_size(
        self, n_users: int, n_items: int, item_attributes: pd.DataFrame | None = None, silos: int | None = None
    ) -> None:
        """All but the silos, which take the data to find: whether a federation of this size can be trained.

        Args:
            n_users, n_items: its sizes.
            item_attributes: what is publicly known of the items; None is nothing.
            silos: number of silos; None where every user is a client.

        Raises:
            ConfigError, PrivacyError: naming the setting, its value and the remedy.
        """
        if self.privacy is not None:
            require_unit(self.privacy, self.population)
            self._check_stopping(self.privacy)
            require_one_answer(self.participation)
            check_delta(self.privacy.delta, silos or n_users, self.privacy.unit)
            schedule = self.schedule(self.privacy)
            self.privacy.noise_multipliers(schedule)
            if self.privacy.continual is not None:
                Correlation.of(self.privacy.continual, schedule)
        known = pd.DataFrame() if item_attributes is None else item_attributes
        self.method.start(Federation(n_users, n_items, Streams(0), item_attributes=known))

    def fit(self, train: Interactions, training: Training) -> None:
        """Run the method's rounds over the users of `train`."""
        device, streams = training.torch_device, Streams(training.seed)
        silo = silos_of(self.population, train, training.seed)
        self.check_size(train.n_users, train.n_items, train.item_attributes, count_silos(silo))
        secret = Streams(secrets.randbits(256)) if self.engine.randomness == "os" else None
        validator = self._validator(training)
        devices = Devices.of(
            train,
            device,
            silo=silo,
            held_out={} if validator is None else {"valid": HeldOutItems.of(validator.valid)},
        )
        known = train.item_attributes
        federation = Federation(train.n_users, train.n_items, streams, self.engine.dtype, device, known)
        dealt = Dealt(self.engine, devices, streams, self.participation, secret, self.rollbacks)
        with open_engine(dealt) as population:
            self.fit_over(population, federation, training, validator, count_silos(silo))

    def fit_over(
        self,
        population: Population,
        federation: Federation,
        training: Training,
        watched: Watched | None,
        silos: int | None = None,
        journal: Journal | None = None,
    ) -> None:
        """Run the method's rounds over an engine's users, wherever they are.

        Args:
            population: the engine.
            federation: what is public about it.
            training: as in `fit`.
            watched: what early stopping asks the devices for, which hold a validation part then; None is nothing.
            silos: number of silos; None where every user is a client.
            journal: of releases, where what is asked next is seen by others before the round's checkpoint.

        Raises:
            PrivacyError: if the population is not of what the promise is about.
        """
        if self.privacy is not None and (self.privacy.unit == "silo") != (silos is not None):
            raise PrivacyError(f"privacy.unit = '{self.privacy.unit}' over a population of {silos or 'no'} silos")
        clients = silos or federation.n_users
        private = None if self.privacy is None else self._protect(population, self.privacy, training, clients)
        if private is not None and journal is not None:
            private.journal = journal
        rounds = Rounds(self.method, federation, population, private)
        if watched is not None:
            training = replace(training, validator=partial(rounds.validate, watched))
        run_rounds(
            rounds,
            training,
            steps=self.method.rounds,
            stopping=self.method.stopping,
            save_every=1 if self._drawn_once or journal is not None else None,
            disclosure="released" if private is not None else "simulation" if is_simulation(population) else "server",
        )
        self._rounds, self.communication = rounds, rounds.communication
        if self.privacy is not None and private is not None:
            self.guarantee = Guarantee.of(
                private.ledger,
                delta=self.privacy.delta,
                n_users=federation.n_users,
                randomness=self.engine.randomness,
                mechanism=private.mechanism,
                planned=private.planned(),
                trust=self.privacy.trust,
                silos=silos if self.privacy.unit == "silo" else None,
                executed=self.privacy.executed,
                nodes=is_over_nodes(population),
            )

    @property
    def _drawn_once(self) -> bool:
        """Whether noise cannot be drawn again, and is saved with each round therefore.

        A resumed run then does over at most the round in which it was killed, of which nobody saw a number.
        """
        return self.privacy is not None and self.engine.randomness == "os"

    @property
    def rollbacks(self) -> int:
        """How many checkpoints back the best state can be when training stops."""
        stopping = self.method.stopping
        return 2 + stopping.patience * (stopping.every if self.privacy is not None else 1)

    def score(self, users: Tensor) -> Tensor:
        """Scores of every item, as the users' devices compute them: [n] -> [n, n_items]."""
        return self._fitted().score(users)

    @property
    def folds_in(self) -> bool:
        """Whether the fitted method scores from a history alone: then a new user is served like any other."""
        return self._fitted().folds_in

    def score_histories(self, histories: Histories) -> Tensor:
        """Scores of every item for users who took no part, from their items: [len(histories), n_items].

        Raises:
            ModelError: if devices need to remember something of the training.
        """
        return self._fitted().score_histories(histories)

    def tensors(self) -> Tensors:
        """The server's model and, since a simulation holds them, the users' private states."""
        # The noise that later rounds would take back in part is no part of a model: with it, released sums lose theirs.
        return {name: tensor for name, tensor in self._fitted().state().items() if not name.startswith("noise/")}

    def model(self) -> Tensors:
        """The server's model alone, under the names that the method gives its tensors."""
        return self._fitted().model()

    def _fitted(self) -> Rounds:
        if self._rounds is None:
            raise ModelError("the recommender is not fitted; call fit(train, training) first")
        return self._rounds

    def schedule(self, privacy: PrivacyConfig) -> Schedule:
        """Everything that the method will release, at this participation."""
        every, sampling = self.method.stopping.every, self.participation
        looks = PlannedRelease(
            query=Evaluate.kind,
            draws=max(1, self.method.rounds // every),
            clip=largest_norm(metrics=1),  # nobody is cut
            first=every,
            every=every,
        )
        return privacy.schedule(self.method.releases(), sampling.rate, sampling.sampling, looks)

    def _check_stopping(self, privacy: PrivacyConfig) -> None:
        """Early stopping looks at users' held-out items: under a guarantee it is planned and paid for, or left out."""
        stopping, rounds = self.method.stopping, self.method.rounds
        if stopping.patience > 0 and privacy.validation is None:
            raise ConfigError(
                f"method.stopping.patience = {stopping.patience}: early stopping looks at users' held-out items, and "
                "the privacy budget does not pay for that; set patience = 0, or privacy.validation = 0.1 to set a "
                "tenth aside"
            )
        if privacy.validation is not None and privacy.unit == "silo":
            raise ConfigError(
                f"privacy.validation = {privacy.validation}: a silo's metrics are clipped as one user's; set "
                "method.stopping.patience = 0, and leave validation out"
            )
        if privacy.validation is not None and stopping.patience == 0:
            raise ConfigError(
                f"privacy.validation = {privacy.validation}: this arm does not stop early; set "
                "method.stopping.patience, or leave validation out"
            )
        if privacy.validation is not None and rounds % stopping.every:
            raise ConfigError(
                f"method.rounds = {rounds} is no multiple of stopping.every = {stopping.every}, so that the last look "
                "would not be one that was planned; change either"
            )

    def _validator(self, training: Training) -> Validator | None:
        """What early stopping asks the devices for. Without early stopping no device is dealt a held-out item.

        A validator that is a function of scores and no more (a researcher's own) stays at the server, in a simulation.
        """
        validator = training.validator
        watching = self.method.stopping.patience > 0 and training.steps is None
        if watching and self.privacy is not None and not isinstance(validator, Validator | None):
            raise ConfigError("a validator that is a function of scores asks the devices nothing; use make_validator's")
        return validator if isinstance(validator, Validator) and watching else None

    def _protect(
        self, population: Population, privacy: PrivacyConfig, training: Training, clients: int
    ) -> PrivateEngine:
        # Two arms of one seed must not share their noise, whatever they differ in: subtracting them would remove it.
        setting = "".join(part.model_dump_json(exclude_defaults=True) for part in (privacy, self.participation))
        arm = f"{training.arm}/{type(self.method).__qualname__}{self.method.config.model_dump_json()}{setting}"
        source = SystemNoise() if self.engine.randomness == "os" else SeededNoise(Streams(training.seed), arm)
        return protect(population, self.schedule(privacy), privacy, source, clients)


admit(METHODS, FederatedRecommender)  # a federated method can be a member of a hybrid
