"""`FederatedRecommender`: a federated method, an engine and perhaps a guarantee, as one arm of an experiment."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial
from typing import ClassVar

from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError, ModelError, PrivacyError
from fedrec.evaluation import Validator
from fedrec.federated.cohort import Devices, HeldOutItems
from fedrec.federated.costs import Communication
from fedrec.federated.engine import EngineConfig, LocalEngine, Simulation
from fedrec.federated.method import METHODS, FederatedMethod, Federation
from fedrec.federated.participation import ParticipationConfig
from fedrec.federated.population import PopulationConfig, silos_of
from fedrec.federated.private_engine import SILOS, PrivateEngine, require_one_answer
from fedrec.federated.queries import Evaluate
from fedrec.federated.reference_engine import ReferenceEngine
from fedrec.federated.rounds import Rounds
from fedrec.privacy import (
    Gaussian,
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
        silos_of(self.population, train, seed=0)
        self._check(train)

    def _check(self, train: Interactions) -> None:
        """All but the silos, which may take a while to find."""
        if self.privacy is not None:
            if self.population.kind == "silos":
                raise PrivacyError(f"population.kind = 'silos': {SILOS}")
            self._check_stopping(self.privacy)
            require_one_answer(self.participation)
            check_delta(self.privacy.delta, train.n_users)
            self.privacy.noise_multipliers(self.schedule(self.privacy))
        self.method.start(Federation(train.n_users, train.n_items, Streams(0)))

    def fit(self, train: Interactions, training: Training) -> None:
        """Run the method's rounds over the users of `train`."""
        self._check(train)
        device, streams = training.torch_device, Streams(training.seed)
        secret = Streams(secrets.randbits(256)) if self.engine.randomness == "os" else None
        validator = self._validator(training)
        devices = Devices.of(
            train,
            device,
            silo=silos_of(self.population, train, training.seed),
            held_out={} if validator is None else {"valid": HeldOutItems.of(validator.valid)},
        )
        engine = {"local": LocalEngine, "reference": ReferenceEngine}[self.engine.kind]
        local = engine(devices, streams, self.participation, sample=secret)
        private = None if self.privacy is None else self._protect(local, self.privacy, training)
        federation = Federation(train.n_users, train.n_items, streams, self.engine.dtype, device)
        rounds = Rounds(self.method, federation, local, private)
        if validator is not None:
            training = replace(training, validator=partial(rounds.validate, validator))
        # Noise that cannot be drawn again is saved with each round: a resumed run does over at most the round in which
        # it was killed, of which nobody saw a number.
        drawn_once = private is not None and self.engine.randomness == "os"
        run_rounds(
            rounds,
            training,
            steps=self.method.rounds,
            stopping=self.method.stopping,
            save_every=1 if drawn_once else None,
            disclosure="simulation" if private is None else "released",
        )
        self._rounds, self.communication = rounds, rounds.communication
        if self.privacy is not None and private is not None:
            self.guarantee = Guarantee.of(
                private.ledger,
                delta=self.privacy.delta,
                n_users=train.n_users,
                randomness=self.engine.randomness,
                mechanism=private.mechanism,
                planned=private.planned(),
            )

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
        return self._fitted().state()

    def _fitted(self) -> Rounds:
        if self._rounds is None:
            raise ModelError("the recommender is not fitted; call fit(train, training) first")
        return self._rounds

    def schedule(self, privacy: PrivacyConfig) -> Schedule:
        """Everything that the method will release, at this participation."""
        releases = self.method.releases()
        if privacy.clip is not None:
            if len(releases) != 1:
                kinds = ", ".join(planned.query for planned in releases)
                raise ConfigError(
                    f"privacy.clip = {privacy.clip}: one clip cannot serve the queries {kinds}; set the method's clips"
                )
            releases = (replace(releases[0], clip=privacy.clip),)
        if privacy.validation is not None:
            # A look may come with any round's releases, and shares of one draw must not sum to more than one.
            releases = tuple(replace(planned, share=(1 - privacy.validation) * planned.share) for planned in releases)
            every = self.method.stopping.every
            looks = PlannedRelease(
                query=Evaluate.kind,
                draws=self.method.rounds // every,
                clip=2**0.5,  # 1 for the count and at most 1 for the metric: nobody is cut
                share=privacy.validation,
                first=every,
                every=every,
            )
            releases = (*releases, looks)
        return Schedule(releases, rate=self.participation.rate, sampling=self.participation.sampling)

    def _check_stopping(self, privacy: PrivacyConfig) -> None:
        """Early stopping looks at users' held-out items: under a guarantee it is planned and paid for, or left out."""
        stopping, rounds = self.method.stopping, self.method.rounds
        if stopping.patience > 0 and privacy.validation is None:
            raise ConfigError(
                f"method.stopping.patience = {stopping.patience}: early stopping looks at users' held-out items, and "
                "the privacy budget does not pay for that; set patience = 0, or privacy.validation = 0.1 to set a "
                "tenth aside"
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

    def _protect(self, local: Simulation, privacy: PrivacyConfig, training: Training) -> PrivateEngine:
        schedule = self.schedule(privacy)
        # Two arms of one seed must not share their noise, whatever they differ in: subtracting them would remove it.
        setting = f"{privacy.model_dump_json()}{self.participation.model_dump_json()}"
        arm = f"{training.arm}/{type(self.method).__qualname__}{self.method.config.model_dump_json()}{setting}"
        source = SystemNoise() if self.engine.randomness == "os" else SeededNoise(Streams(training.seed), arm)
        return PrivateEngine(local, schedule, privacy.noise_multipliers(schedule), source, Gaussian())


admit(METHODS, FederatedRecommender)  # a federated method can be a member of a hybrid
