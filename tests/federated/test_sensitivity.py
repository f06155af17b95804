"""Adjacent data sets: whatever a method asks, one user more or less moves the clipped sums by no more than the clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fedrec.components import build_config
from fedrec.federated import METHODS, Ask, Devices, Federation, LocalEngine, Query, Totals
from fedrec.privacy import BIT_CLIP, Clip
from fedrec.streams import Streams

SMALL: dict[str, dict[str, Any]] = {
    "ease": {},
    "ego-lightgcn": {"dim": 4},
    "exact-lightgcn": {"dim": 4, "layers": 2},
    "fcf": {"dim": 4},
    "fedmf": {"dim": 4},
    "fedncf": {},
    "ials": {"dim": 4},
    "pfedrec": {"dim": 4},
    "popularity": {},
    "spectral": {"factors": 3},
}


class Asked(NamedTuple):
    """A query and when it was asked."""

    query: Query
    round: int
    phase: int


class Recorded(LocalEngine):
    """Keeps what is asked."""

    asked: tuple[Asked, ...] = ()

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        self.asked = (*self.asked, Asked(query, round, phase))
        return super().sum(query, round=round, phase=phase, clip=clip)


def asked(kind: str, devices: Devices) -> Sequence[Asked]:
    """What two rounds of a method ask, in order."""
    method_class: Any = METHODS[kind]
    method = method_class(build_config(method_class.config_class, SMALL.get(kind, {}), "method"))
    engine = Recorded(devices, Streams(0))
    state = method.start(Federation(len(devices), devices.n_items, Streams(0), torch.float64))
    for round in (1, 2):
        state = method.round(state, Ask(engine, round))
    return engine.asked


def after(earlier: Sequence[Asked], devices: Devices) -> LocalEngine:
    """An engine whose users remember what earlier queries left on their devices."""
    engine = LocalEngine(devices, Streams(0))
    for query, round, phase in earlier:
        engine.sum(query, round=round, phase=phase)
    return engine


def moved(queries: Sequence[Asked], clip: Clip, devices: Devices, users: Tensor, user: int) -> dict[str, float]:
    """By how much each table's clipped sum of the last query moves, and the shifted bits', when a user leaves."""
    *earlier, (query, round, phase) = queries
    whole, rest = (
        after(earlier, devices.take(some)).sum(query, round=round, phase=phase, clip=clip)
        for some in (users, users[users != user])
    )
    bits = [BIT_CLIP * totals.answered - totals.clipped for totals in (whole, rest)]
    found = {name: float((whole.sums[name] - rest.sums[name]).norm()) for name in query.tables}
    return found | {"bit": abs(bits[0] - bits[1])}


@pytest.mark.parametrize("kind", sorted(METHODS))
def test_a_user_moves_every_clipped_sum_by_no_more_than_the_clip(kind: str, devices: Devices) -> None:
    """Flat, at any norm that an adaptive clip may take, and by table; the clips are well within the answers' norms."""
    generator, queries = torch.Generator().manual_seed(len(kind)), asked(kind, devices)
    reached: dict[str, float] = {}
    for number, (query, round, phase) in enumerate(queries):
        if reached.get(query.kind, 0.0) > 0.5:
            continue
        sequence = queries[: number + 1]
        norms = dict.fromkeys(query.tables, 0.0)
        for answer in after(queries[:number], devices).answers(query, round=round, phase=phase):
            for name, part in answer.contributions.items():
                norms[name] = max(norms[name], float(part.squared_norms(1)) ** 0.5)
        largest = max(1e-9, math.hypot(*norms.values()))
        for share in (0.05, 0.3):
            flat = Clip(share * largest)
            by_table = Clip.by_table({name: share * max(norm, 1e-9) for name, norm in norms.items()})
            for _ in range(3):
                users = torch.randperm(40, generator=generator)[:12].sort().values
                user = int(users[torch.randint(12, (), generator=generator)])
                tables = moved(sequence, flat, devices, users, user)
                assert tables.pop("bit") == BIT_CLIP
                assert math.hypot(*tables.values()) <= flat.norm * (1 + 1e-9), query.kind
                reached[query.kind] = max(reached.get(query.kind, 0.0), math.hypot(*tables.values()) / flat.norm)
                each = moved(sequence, by_table, devices, users, user)
                assert all(each[name] <= norm * (1 + 1e-9) for name, norm in by_table.tables), query.kind
    assert min(reached.values()) > 0.5, f"{reached}: where the clips cut nobody the test shows nothing"
