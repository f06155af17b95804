"""From an arm's `privacy` section to the engine that keeps it."""

from __future__ import annotations

from fedrec.errors import ConfigError, PrivacyError
from fedrec.federated.device_sums import DistributedNoise, LocalNoise, MaskedSums
from fedrec.federated.engine import Engine, is_simulation
from fedrec.federated.population import PopulationConfig
from fedrec.federated.private_engine import SILOS, PrivateEngine
from fedrec.federated.private_sums import PrivateSums, ServerNoise
from fedrec.privacy import Correlation, Gaussian, PrivacyConfig, Schedule, UniformSource


def require_unit(privacy: PrivacyConfig, population: PopulationConfig) -> None:
    """Refuse a promise about others than the clients, or about silos that data made.

    Raises:
        PrivacyError: if the unit is not what a client is, or who is in which silo follows from interactions.
        ConfigError: if the clip of silos is to adapt, of which a bit counts users.
    """
    if privacy.unit == "user":
        if population.kind == "silos":
            raise PrivacyError(f"population.kind = 'silos': {SILOS}")
        return
    if population.kind == "users":
        raise PrivacyError("privacy.unit = 'silo': every user is a client; set population.kind = 'silos'")
    if population.rule in ("louvain", "dirichlet"):
        raise PrivacyError(
            f"privacy.unit = 'silo' with population.rule = '{population.rule}': who is in which silo follows from "
            "everyone's data, so that removing one silo would change the others; take 'random' or 'attribute'"
        )
    if privacy.adaptive is not None:
        raise ConfigError("privacy.adaptive: clips follow the norms of users; with unit = 'silo' leave it out")


def protect(
    engine: Engine, schedule: Schedule, privacy: PrivacyConfig, source: UniformSource, clients: int
) -> PrivateEngine:
    """The engine under the guarantee that is asked for.

    Args:
        engine: adds up.
        schedule: of `privacy.schedule`.
        privacy: the section.
        source: of the noise.
        clients: in the population, a public number.

    Raises:
        PrivacyError: if the settings do not go together, or the engine does not hand over what devices send.
    """
    correlation = None if privacy.continual is None else Correlation.of(privacy.continual, schedule)
    mechanism = Gaussian()
    over_messages = getattr(engine, "secure_sums", None)
    if not (privacy.trust == "central" or (privacy.trust == "secagg" if over_messages else is_simulation(engine))):
        raise PrivacyError(
            f"privacy.trust = '{privacy.trust}': this engine's nodes reply with sums of their users; set trust = "
            "'central' or 'secagg', or simulate with engine.kind = 'local'"
        )
    sums: PrivateSums
    if privacy.trust == "central":
        sums = ServerNoise(mechanism, source)
    elif over_messages is not None:
        sums = over_messages(mechanism, source, privacy.answering)
    elif privacy.trust == "secagg":
        sums = MaskedSums(mechanism, source, clients, privacy.answering, privacy.executed)
    elif privacy.trust == "distributed":
        sums = DistributedNoise(source, clients, privacy.answering, privacy.executed)
    else:
        sums = LocalNoise(mechanism, source, privacy.executed)
    return PrivateEngine(
        engine,
        schedule,
        privacy.noise_multipliers(schedule),
        source,
        mechanism,
        sums=sums,
        adaptive=privacy.adaptive,
        correlation=correlation,
        unit=privacy.unit,
    )
