"""From an arm's `privacy` section to the engine that keeps it."""

from __future__ import annotations

from fedrec.errors import ConfigError, PrivacyError
from fedrec.federated.device_sums import DistributedNoise, LocalNoise, MaskedSums
from fedrec.federated.engine import Engine, is_simulation
from fedrec.federated.population import PopulationConfig
from fedrec.federated.private_engine import SILOS, PrivateEngine
from fedrec.federated.private_sums import PrivateSums, ServerNoise, is_over_nodes
from fedrec.privacy import Correlation, Gaussian, PrivacyConfig, Schedule, SeededNoise, UniformSource


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
    of_devices = source.for_devices() if isinstance(source, SeededNoise) else source
    sums: PrivateSums
    if privacy.trust == "central":
        sums = ServerNoise(mechanism, source)
    elif is_over_nodes(engine):
        sums = engine.private_sums(privacy, mechanism, source, clients)
    elif not is_simulation(engine):
        raise PrivacyError(
            f"privacy.trust = '{privacy.trust}': this engine does not hand over what devices send; set trust = "
            "'central', or simulate with engine.kind = 'local'"
        )
    elif privacy.trust == "secagg":
        sums = MaskedSums(mechanism, source, clients, privacy.answering, privacy.executed)
    elif privacy.trust == "distributed":
        sums = DistributedNoise(of_devices, clients, privacy.answering, privacy.executed)
    else:
        sums = LocalNoise(mechanism, of_devices, privacy.executed)
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
