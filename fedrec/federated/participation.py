"""Who takes part in a round, who of them answers, and who answers late.

Participation is drawn once a round. By Poisson sampling each client takes part independently with probability q, from
a stream of its own, so that a device can decide alone; the accountants assume it. In cycles each client takes part in
every b-th round, which bounds how often it does, and amplifies nothing. Samples of a fixed size are offered for
comparison with papers; no guarantee covers them. A sum is divided by the expected number of users, never by the number
seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedrec.components import Config
from fedrec.privacy import cycle_of
from fedrec.streams import Streams


class ParticipationConfig(Config):
    """How a round's participants are drawn.

    Attributes:
        sampling: "poisson", each client independently; "cyclic", each client in every b-th round, b = 1/q, from a first
            one that is drawn for each independently; or "fixed", round(q n) of the n clients, at least one, without
            replacement. No guarantee of privacy covers fixed samples.
        rate: q, the probability that a client takes part in a round; for "cyclic" one over a whole number.
        dropout: probability that a participant is lost: it downloads what is asked, and neither answers nor steps.
        straggler: probability that one that is not lost answers late.
        delay: rounds by which a late answer is late.
        late: what becomes of a late answer. The device has trained on what it was sent `delay` rounds ago and has
            stepped its private state. "discard" drops the answer; "fold" adds it to the sum of the same query (same
            kind, phase and tables) of the round that it arrives in, as it is. One that finds no such query, or arrives
            after the last round, is lost.
    """

    sampling: Literal["poisson", "cyclic", "fixed"] = "poisson"
    rate: float = Field(1.0, gt=0, le=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    straggler: float = Field(0.0, ge=0, lt=1)
    delay: int = Field(1, ge=1)
    late: Literal["discard", "fold"] = "discard"

    @model_validator(mode="after")
    def _whole_cycles(self) -> Self:
        if self.sampling == "cyclic" and abs(cycle_of(self.rate) * self.rate - 1) > 1e-6:
            raise ValueError(f"rate = {self.rate} is not one over a whole number of rounds; such as 0.25 or 0.1")
        return self

    def expected_share(self, n_clients: int) -> float:
        """The expected share of clients that are drawn."""
        return _fixed_size(self.rate, n_clients) / max(1, n_clients) if self.sampling == "fixed" else self.rate


@dataclass(frozen=True, eq=False)
class Participants:
    """The outcome of one round's draw. All are positions of clients, ascending.

    Attributes:
        drawn: how many take part, lost ones included: they all download what is asked.
        on_time: [m] those who answer in time.
        late: [l] those whose answer comes late.
    """

    drawn: int
    on_time: Tensor
    late: Tensor


def participants(config: ParticipationConfig, keys: Tensor, streams: Streams) -> Participants:
    """Draw a round's participants: a pure function of the settings, the clients' keys, the seed and the round.

    Args:
        config: how they are drawn.
        keys: [C] int64 stream keys of the clients.
        streams: at the round of the draw.
    """
    drawn = _drawn(config, keys, streams)
    lost, late = torch.zeros_like(drawn), torch.zeros_like(drawn)
    if config.dropout > 0:
        lost = streams.uniform("dropout", keys) < config.dropout
    if config.straggler > 0:
        late = streams.uniform("straggler", keys) < config.straggler
    answering = drawn & ~lost
    on_time, behind = (torch.nonzero(mask).flatten() for mask in (answering & ~late, answering & late))
    return Participants(int(drawn.sum()), on_time, behind)


def _drawn(config: ParticipationConfig, keys: Tensor, streams: Streams) -> Tensor:
    """[C] bool, who takes part."""
    if config.sampling == "fixed":
        words = streams.words("participation", keys)
        return words.argsort().argsort() < _fixed_size(config.rate, len(keys))
    if config.sampling == "cyclic":
        cycle = cycle_of(config.rate)
        return (streams.at(0).uniform("cycle", keys) * cycle).long() == streams.round % cycle
    if config.rate < 1:
        return streams.uniform("participation", keys) < config.rate
    return torch.ones(len(keys), dtype=torch.bool, device=keys.device)


def _fixed_size(rate: float, n_clients: int) -> int:
    return min(n_clients, max(1, round(rate * n_clients)))
