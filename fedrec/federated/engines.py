"""`ENGINES`: how `engine.kind` becomes an engine over a population that is dealt to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from fedrec.errors import ConfigError
from fedrec.federated.cohort import Devices
from fedrec.federated.engine import EngineConfig, LocalEngine, Simulation
from fedrec.federated.participation import ParticipationConfig
from fedrec.federated.reference_engine import ReferenceEngine
from fedrec.streams import Streams


@dataclass(frozen=True, eq=False)
class Dealt:
    """What an engine is made of.

    Attributes:
        config: the [engine] section.
        devices: the population.
        streams: of the run.
        participation: who takes part in a round.
        sample: streams that participants are drawn from; None takes those of the run.
        rollbacks: how many checkpoints back the users may be rolled.
    """

    config: EngineConfig
    devices: Devices
    streams: Streams
    participation: ParticipationConfig
    sample: Streams | None
    rollbacks: int


Open = Callable[[Dealt], AbstractContextManager[Simulation]]
"""Opens an engine for one fit. Once it is closed nobody can be asked any more, but `look` still serves scoring."""


def _local(dealt: Dealt) -> AbstractContextManager[Simulation]:
    return nullcontext(LocalEngine(dealt.devices, dealt.streams, dealt.participation, sample=dealt.sample))


def _reference(dealt: Dealt) -> AbstractContextManager[Simulation]:
    return nullcontext(ReferenceEngine(dealt.devices, dealt.streams, dealt.participation, sample=dealt.sample))


ENGINES: dict[str, Open] = {"local": _local, "reference": _reference}
"""By kind; `fedrec.flower.rays` adds "ray"."""


def open_engine(dealt: Dealt) -> AbstractContextManager[Simulation]:
    """The engine that a configuration asks for.

    Raises:
        ConfigError: if it is none that holds a population in this process.
    """
    kind = dealt.config.kind
    if kind not in ENGINES:
        raise ConfigError(
            f"engine.kind = '{kind}': its users are on nodes of their own, and this process has been dealt them; use "
            "'local' or 'ray', or give the experiment to a SuperLink with: fedrec run --engine flower"
        )
    return ENGINES[kind](dealt)
