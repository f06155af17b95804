"""Queries and sums as Flower records: what travels, and nothing else.

A query's message holds its kind, its settings and its broadcast tensors (`fedrec.flower.requests` adds the moment it is
asked). An answer holds the sums of a node's users and their counts. A node builds only queries on its allow-list, and
reads arrays as plain numbers: nothing in a message is imported or unpickled, and nothing larger than a bound is read.

A summed table travels in whichever of three layouts is smallest: whole, as the rows that are not zero, or as the
entries that are not. One user's answer has few of them, a shard's has all.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated import Query, Totals, build_query
from fedrec.federated.query import Setting
from fedrec.privacy import Clip

R = TypeVar("R", ConfigRecord, ArrayRecord)

_QUERY, _SETTINGS, _BROADCAST, _SUMS, _COUNTS = "query", "settings", "broadcast", "sums", "counts"

COUNTS = ("answered", "clipped", "delayed", "late")
"""What an answer counts, in users."""

LARGEST = 1 << 29  # bytes of a message's arrays; a 500 MB item table is ten times Gowalla's in double precision

ROUNDING = 1e-5  # of devices that compute in single precision

_NUMBERS = "fiub"  # kinds of NumPy types that are numbers: floating, signed, unsigned, bool


def query_to_record(query: Query) -> RecordDict:
    """The message of a query: its kind, settings and broadcast."""
    return RecordDict(
        {
            _QUERY: ConfigRecord({"kind": query.kind}),
            _SETTINGS: ConfigRecord(dict(query.settings)),
            _BROADCAST: arrays(query.broadcast),
        }
    )


def query_from_record(record: RecordDict, largest: int = LARGEST) -> Query:
    """The query of a message.

    Args:
        record: the message.
        largest: bytes of arrays that are read.

    Raises:
        DataError: if a part is missing, the arrays are too large, the kind is not on the allow-list, or a field is not
            the query's own.
    """
    kind = part(record, _QUERY, ConfigRecord).get("kind")
    settings = cast(Mapping[str, Setting], dict(part(record, _SETTINGS, ConfigRecord)))
    if not isinstance(kind, str):
        raise DataError(f"a query of kind {kind!r}; it needs the name of a query")
    return build_query(kind, tensors(part(record, _BROADCAST, ArrayRecord), largest), settings)


def totals_to_record(totals: Totals) -> RecordDict:
    """A node's answer: the sums over its users, and how many there were."""
    counts: dict[str, int | str] = {name: getattr(totals, name) for name in COUNTS}
    counts["refused"] = json.dumps(dict(totals.refused))
    sums: dict[str, Tensor] = {}
    for name, total in totals.sums.items():
        sums |= {f"{name}{suffix}": tensor for suffix, tensor in _layout(total).items()}
    return RecordDict({_SUMS: arrays(sums), _COUNTS: ConfigRecord(dict(counts))})


@dataclass(frozen=True, eq=False)
class Part:
    """A node's share of one summed table.

    Attributes:
        value: [m, w] numbers; the whole table where there is no index.
        index: [m] int64 ascending places: of rows where w is the table's width, of entries (row by row) where it is 1
            and the table is wider.
    """

    value: Tensor
    index: Tensor | None = None

    def dense(self, shape: tuple[int, int]) -> Tensor:
        """The table that it stands for."""
        if self.index is None:
            return self.value
        table = self.value.new_zeros(math.prod(shape) // self.value.shape[1], self.value.shape[1])
        table[self.index] = self.value
        return table.view(shape)


@dataclass(frozen=True, eq=False)
class NodeAnswer:
    """What a node answered, checked.

    Attributes:
        parts: by table.
        counts: by the names in `COUNTS`.
        refused: reason -> users whom the node left out.
    """

    parts: Mapping[str, Part]
    counts: Mapping[str, int]
    refused: Mapping[str, int]


def answer_from_record(
    record: RecordDict,
    query: Query,
    users: int,
    largest: int = LARGEST,
    tables: Mapping[str, tuple[int, int]] | None = None,
) -> NodeAnswer:
    """The answer of a node, checked against the query's tables.

    Args:
        record: the message.
        query: that it answers.
        users: how many the node has.
        largest: bytes of arrays that are read.
        tables: their shapes, where they are not the query's alone.

    Raises:
        DataError: if a table is missing, of another shape or not finite, names a row that there is not, or a count is
            not that of some of the users.
    """
    sums = tensors(part(record, _SUMS, ArrayRecord), largest)
    tables = query.tables if tables is None else tables
    found = {name: _read(name, sums, shape, query.kind) for name, shape in tables.items()}
    if sums:
        raise DataError(f"tables {sorted(sums)} in an answer to '{query.kind}', which asks {sorted(tables)}")
    counts = dict(part(record, _COUNTS, ConfigRecord))
    try:
        refused = json.loads(str(counts.pop("refused", "{}")))
    except (ValueError, RecursionError) as error:
        raise DataError(f"reasons of refusal that are no JSON: {error}") from error
    if set(counts) != set(COUNTS) or not all(map(_natural, counts.values())):
        raise DataError(f"counts {counts}; they must be natural numbers")
    if not isinstance(refused, dict) or not all(map(_natural, refused.values())):
        raise DataError(f"refused users {refused!r}; they must be natural numbers by reason")
    numbers = cast(dict[str, int], counts)
    drawn = numbers["answered"] + numbers["delayed"]
    if drawn + sum(refused.values()) > users or numbers["late"] > users or numbers["clipped"] > drawn:
        raise DataError(f"counts {numbers} of a node of {users} users")
    return NodeAnswer(found, numbers, refused)


def require_clipped(answer: NodeAnswer, clip: Clip, clients: int | None = None) -> None:
    """Refuse what clipped contributions cannot add up to: a node moves a sum by no more than its users may.

    Args:
        answer: of a node that was asked to clip.
        clip: of one client's contribution, over all tables or by table.
        clients: that the node's users are at most; None where each is one.

    Raises:
        DataError: if the answer, or a table of it that has a clip of its own, is longer than as many clips as users are
            in it.
    """
    users = answer.counts["answered"] + answer.counts["late"]
    users = users if clients is None else min(users, clients)
    norms = {name: float(torch.linalg.vector_norm(part.value.double())) for name, part in answer.parts.items()}
    bounds = [(f" of table '{name}'", norms[name], bound) for name, bound in clip.tables]
    for where, norm, bound in bounds or [("", math.hypot(*norms.values()), clip.norm)]:
        if norm > users * bound * (1 + ROUNDING):
            raise DataError(
                f"an answer longer than its users' clips{where}; norm {norm:g} of {users} users clipped to {bound:g}"
            )


def _layout(total: Tensor) -> dict[str, Tensor]:
    """The smallest way to send a table: suffix of the name -> tensor."""
    if total.is_sparse:
        sparse = total.coalesce()
        row, column = sparse.indices()
        return {"/entries": row * total.shape[1] + column, "/value": sparse.values().unsqueeze(1)}
    total = total.detach().cpu()
    size, width = total.element_size(), total.shape[1]
    nonzero = total != 0  # also where it is NaN, which the server must see to refuse it
    rows = torch.nonzero(nonzero.any(dim=1)).flatten()
    costs = {
        "": total.numel() * size,
        "/rows": len(rows) * (8 + width * size),
        "/entries": int(nonzero.sum()) * (8 + size),
    }
    cheapest = min(costs, key=lambda suffix: costs[suffix])
    if cheapest == "/rows":
        return {"/rows": rows, "/value": total[rows]}
    if cheapest == "/entries":
        places = torch.nonzero(nonzero.flatten()).flatten()
        return {"/entries": places, "/value": total.flatten()[places].unsqueeze(1)}
    return {"": total}


def _read(name: str, sums: dict[str, Tensor], shape: tuple[int, int], kind: str) -> Part:
    """One table of an answer, in any layout; what was read is taken out of `sums`."""
    keys = [key for key in (name, f"{name}/rows", f"{name}/entries") if key in sums]
    if len(keys) != 1 or (keys[0] != name and f"{name}/value" not in sums):
        raise DataError(f"table '{name}' is not in an answer to '{kind}', once and whole")
    if keys[0] == name:
        found, expected = Part(sums.pop(name)), shape
    else:
        index, value = sums.pop(keys[0]), sums.pop(f"{name}/value")
        width = shape[1] if keys[0].endswith("/rows") else 1
        found, expected = Part(value, index), (len(index) if index.dim() == 1 else -1, width)
        places = math.prod(shape) // width
        if index.dtype != torch.int64 or index.dim() != 1 or bool((index.diff() <= 0).any()):
            raise DataError(f"table '{name}' with rows that are repeated or out of order")
        if len(index) and (int(index[0]) < 0 or int(index[-1]) >= places):
            raise DataError(f"table '{name}' with an unknown row: it has {shape[0]} of width {shape[1]}")
    if tuple(found.value.shape) != expected or found.value.dtype not in (torch.float32, torch.float64):
        raise DataError(
            f"table '{name}' of shape {tuple(found.value.shape)} and type {found.value.dtype} instead of {expected}"
        )
    if not torch.isfinite(found.value).all():
        raise DataError(f"table '{name}' with values that are not finite")
    return found


def _natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def arrays(named: Mapping[str, Tensor]) -> ArrayRecord:
    """Tensors as Flower sends them."""
    return ArrayRecord({name: Array(tensor.detach().cpu().numpy()) for name, tensor in named.items()})


def digest_of_tensors(named: Mapping[str, Tensor], after: str = "") -> str:
    """SHA-256 of a text and of tensors with their names, types and shapes, in order of name."""
    digest = sha256(after.encode())
    for name, tensor in sorted(named.items()):
        digest.update(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}/".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def size(record: RecordDict) -> int:
    """Bytes of the arrays of a message."""
    return sum(len(array.data) for held in record.array_records.values() for array in held.values())


def tensors(record: ArrayRecord, largest: int = LARGEST) -> dict[str, Tensor]:
    """What was sent, as tensors of their own memory.

    Raises:
        DataError: if an array's bytes are not an array of numbers, or there are too many of them.
    """
    total = sum(len(array.data) for array in record.values())
    if total > largest:
        raise DataError(f"a payload of {total:,} bytes; at most {largest:,} are read")
    found = {}
    for name, array in record.items():
        try:
            _check_header(array.data)
            # Flower reads arrays with pickle switched off; the copy makes them writable.
            found[name] = torch.from_numpy(array.numpy().copy())
        except Exception as error:  # NumPy parses headers as Python text, and a stranger's can make it raise anything
            raise DataError(f"array '{name}' of a message cannot be read: {error}") from error
    return found


def _check_header(data: bytes) -> None:
    """NumPy makes room for what a header promises before it looks for it, so the promise is held against the bytes."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"NumPy format {version}")
    shape, _, dtype = read(stream)
    if dtype.kind not in _NUMBERS:
        raise ValueError(f"type {dtype} is no number")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"{len(data) - stream.tell()} bytes for shape {shape} of {dtype}")


def part(record: RecordDict, name: str, sort: type[R]) -> R:
    """A part of a message.

    Raises:
        DataError: if there is none of that sort.
    """
    found = record.get(name)
    if not isinstance(found, sort):
        raise DataError(f"a message has no {sort.__name__} '{name}'; it was not sent by fedrec")
    return found
