"""Queries and sums as Flower records: what travels, and nothing else.

A query's message holds its kind, the moment it is asked, its broadcast tensors and its settings. An answer holds the
sums of a node's users and their counts. A node builds only queries on its allow-list, and reads arrays as plain
numbers: nothing in a message is imported or unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated import Query, Totals, build_query
from fedrec.federated.query import Setting

R = TypeVar("R", ConfigRecord, ArrayRecord)

_QUERY, _SETTINGS, _BROADCAST, _SUMS, _COUNTS = "query", "settings", "broadcast", "sums", "counts"

_NUMBERS = ("answered", "clipped", "bytes_up", "bytes_down", "delayed", "late")
"""What an answer counts."""


def query_to_record(query: Query, round: int, phase: int) -> RecordDict:
    """The message that asks a query.

    Args:
        query: what is asked.
        round, phase: the moment it is asked; a node answers a moment once and repeats that answer.
    """
    return RecordDict(
        {
            _QUERY: ConfigRecord({"kind": query.kind, "round": round, "phase": phase}),
            _SETTINGS: ConfigRecord(dict(query.settings)),
            _BROADCAST: _arrays(query.broadcast),
        }
    )


def query_from_record(record: RecordDict) -> tuple[Query, int, int]:
    """The query of a message, its round and its phase.

    Raises:
        DataError: if a part is missing, the kind is not on the allow-list, or a field is not the query's own.
    """
    header = _part(record, _QUERY, ConfigRecord)
    settings = cast(Mapping[str, Setting], dict(_part(record, _SETTINGS, ConfigRecord)))
    broadcast = _tensors(_part(record, _BROADCAST, ArrayRecord))
    kind, round, phase = (header.get(name) for name in ("kind", "round", "phase"))
    if not (isinstance(kind, str) and isinstance(round, int) and isinstance(phase, int)):
        raise DataError(f"a query's header is {dict(header)}; it needs kind, round and phase")
    return build_query(kind, broadcast, settings), round, phase


def totals_to_record(totals: Totals) -> RecordDict:
    """A node's answer: the sums over its users, and how many there were."""
    counts: dict[str, int | str] = {name: getattr(totals, name) for name in _NUMBERS}
    counts["refused"] = json.dumps(dict(totals.refused))
    return RecordDict({_SUMS: _arrays(totals.sums), _COUNTS: ConfigRecord(dict(counts))})


def totals_from_record(record: RecordDict, query: Query) -> Totals:
    """The answer of a node, checked against the query's tables.

    Raises:
        DataError: if a table is missing, of another shape or not finite, or a count is not a natural number.
    """
    sums = _tensors(_part(record, _SUMS, ArrayRecord))
    if set(sums) != set(query.tables):
        raise DataError(f"a node answered tables {sorted(sums)} to '{query.kind}', which asks {sorted(query.tables)}")
    for name, shape in query.tables.items():
        if tuple(sums[name].shape) != shape:
            raise DataError(f"a node answered table '{name}' of shape {tuple(sums[name].shape)} instead of {shape}")
        if not torch.isfinite(sums[name]).all():
            raise DataError(f"a node answered table '{name}' with values that are not finite")
    counts = dict(_part(record, _COUNTS, ConfigRecord))
    refused = json.loads(str(counts.pop("refused", "{}")))
    if set(counts) != set(_NUMBERS) or not all(map(_natural, counts.values())):
        raise DataError(f"a node answered counts {counts}; they must be natural numbers")
    return Totals(sums, refused=refused, **cast(dict[str, int], counts))  # type: ignore[arg-type]


def _natural(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    return ArrayRecord({name: Array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()})


def _tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """Flower reads arrays with pickle switched off; the copy makes them writable.

    Raises:
        DataError: if an array's bytes are not an array of numbers.
    """
    tensors = {}
    for name, array in record.items():
        try:
            tensors[name] = torch.from_numpy(array.numpy().copy())
        except (ValueError, TypeError, EOFError, OSError) as error:
            raise DataError(f"array '{name}' of a message cannot be read: {error}") from error
    return tensors


def _part(record: RecordDict, name: str, sort: type[R]) -> R:
    part = record.get(name)
    if not isinstance(part, sort):
        raise DataError(f"a message has no {sort.__name__} '{name}'; it was not sent by fedrec")
    return part
