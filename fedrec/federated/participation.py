"""Who takes part in a round, and who of them answers.

Participation is drawn once a round, by Poisson sampling: each user independently with probability q, from a stream of
its own, so that a device can decide alone. The accountants assume it. Some who take part drop out before answering; a
sum is still divided by the expected number q|U|, never by the number seen.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.streams import Streams


class ParticipationConfig(Config):
    """How a round's participants are drawn.

    Attributes:
        sampling: "poisson", each user independently.
        rate: q, the probability that a user takes part in a round.
        dropout: probability that a participant is lost before answering.
    """

    sampling: Literal["poisson"] = "poisson"
    rate: float = Field(1.0, gt=0, le=1)
    dropout: float = Field(0.0, ge=0, lt=1)


class PopulationConfig(Config):
    """What a client is.

    Attributes:
        kind: "users", one user a client.
    """

    kind: Literal["users"] = "users"


def participants(config: ParticipationConfig, keys: Tensor, streams: Streams) -> Tensor:
    """Positions of the users who take part and answer, ascending.

    Args:
        config: rate and dropout.
        keys: [U] int64 stream keys of the population.
        streams: at the round of the draw.
    """
    answering = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
    if config.rate < 1:
        answering &= streams.uniform("participation", keys) < config.rate
    if config.dropout > 0:
        answering &= streams.uniform("dropout", keys) >= config.dropout
    return torch.nonzero(answering).flatten()
