"""Messages hold what was asked and what was summed, and refuse the rest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated import Totals
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig
from fedrec.federated.queries import Count, Evaluate, Gram, LocalTraining
from fedrec.flower import query_from_record, query_to_record
from fedrec.flower.records import answer_from_record, size, totals_to_record


def training() -> LocalTraining:
    items = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return LocalTraining(items, "bpr", 2, 0.3, 0.7, 3, 0.5, 0.5)


def test_a_query_comes_back_as_it_went() -> None:
    query = query_from_record(query_to_record(training()))
    assert isinstance(query, LocalTraining)
    assert query.settings == training().settings
    assert torch.equal(query.items, training().items)
    assert query.items.dtype == torch.float64


def test_an_evaluation_names_its_method_and_brings_its_model() -> None:
    method, model = EgoLightGCN(EgoLightGCNConfig(dim=3)), {"items": training().items}
    asked = Evaluate(method, model, "valid", ("ndcg@5", "mrr@2"), 7, {"gender": 2})
    query = query_from_record(query_to_record(asked))
    assert isinstance(query, Evaluate)
    assert query.method.config == method.config
    assert query.settings == asked.settings
    assert torch.equal(query.state["items"], training().items)


def test_totals_come_back_as_they_went() -> None:
    table = torch.arange(5.0, dtype=torch.float64).view(5, 1)
    totals = Totals({"count": table}, 4, 2, {"an unknown row": 1}, delayed=3, late=5)
    again = answer_from_record(totals_to_record(totals), Count(5), users=8)
    assert torch.equal(again.parts["count"].dense((5, 1)), table)
    assert again.counts == {"answered": 4, "clipped": 2, "delayed": 3, "late": 5}
    assert again.refused == {"an unknown row": 1}


def sent(total: Tensor) -> tuple[RecordDict, Tensor]:
    record = totals_to_record(Totals({"gram": total}, 1))
    gram = Gram(torch.ones(40, dtype=torch.float64))
    return record, answer_from_record(record, gram, users=1).parts["gram"].dense((40, 40))


def test_a_table_travels_in_the_smallest_layout_and_arrives_the_same() -> None:
    """Of 40 x 40 doubles: 12,800 bytes whole, 328 a row with its number, 16 an entry with its place."""
    full = torch.randn(40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows, entries = torch.zeros_like(full), torch.zeros_like(full)
    rows[[3, 17]] = full[[3, 17]]
    entries[[3, 17, 39], [5, 0, 39]] = 1.5
    overhead = 2 * 128  # NumPy's header, before the numbers of each array
    for table, expected in ((full, 12_800), (rows, 2 * 328), (entries, 3 * 16)):
        record, again = sent(table)
        assert torch.equal(again, table)
        assert expected < size(record) <= expected + overhead
        assert torch.equal(sent(table.to_sparse())[1], table)


def test_an_unknown_kind_is_refused() -> None:
    record = query_to_record(training())
    record["query"] = ConfigRecord({"kind": "builtins:eval"})
    with pytest.raises(DataError, match="not on this node's allow-list"):
        query_from_record(record)


@pytest.mark.parametrize("part", ["query", "settings", "broadcast"])
def test_a_message_with_a_missing_part_is_refused(part: str) -> None:
    record = query_to_record(training())
    del record[part]
    with pytest.raises(DataError, match=f"'{part}'"):
        query_from_record(record)


def test_what_is_too_large_is_not_read() -> None:
    with pytest.raises(DataError, match="a payload of 272 bytes; at most 271 are read"):
        query_from_record(query_to_record(training()), largest=271)


HEADER = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }".ljust(117)
    + b"\n"
)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04K\x01.",  # a pickle
        np.lib.format.magic(1, 0)
        + b"\x46\x00"
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(69)
        + b"\n\x80",
        HEADER + bytes(8),  # a header that promises 800 GB, which NumPy would make room for
        b"",
    ],
)
def test_what_is_no_array_of_numbers_is_not_read(data: bytes) -> None:
    record = query_to_record(training())
    record["broadcast"] = ArrayRecord({"items": Array("float64", (1,), "numpy.ndarray", data)})
    with pytest.raises(DataError, match="'items' of a message cannot be read"):
        query_from_record(record)


@pytest.mark.parametrize(
    ("sums", "reason"),
    [
        ({"count": np.ones((4, 1))}, "of shape"),
        ({"counts": np.ones((5, 1))}, "is not in an answer"),
        ({"count": np.ones((5, 1)), "more": np.ones((5, 1))}, "tables"),
        ({"count": np.full((5, 1), np.nan)}, "not finite"),
        ({"count": np.ones((5, 1), dtype=np.int64)}, "type torch.int64"),
        ({"count/rows": np.array([5]), "count/value": np.ones((1, 1))}, "an unknown row"),
        ({"count/rows": np.array([-1]), "count/value": np.ones((1, 1))}, "an unknown row"),
        ({"count/rows": np.array([2, 2]), "count/value": np.ones((2, 1))}, "repeated or out of order"),
        ({"count/rows": np.array([1, 2]), "count/value": np.ones((1, 1))}, "of shape"),
        ({"count/rows": np.array([1])}, "is not in an answer"),
    ],
)
def test_an_answer_that_does_not_fit_the_query_is_refused(sums: Mapping[str, np.ndarray], reason: str) -> None:
    record = totals_to_record(Totals({"count": torch.ones(5, 1)}, 1))
    record["sums"] = ArrayRecord({name: Array(table) for name, table in sums.items()})
    with pytest.raises(DataError, match=reason):
        answer_from_record(record, Count(5), users=3)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"answered": -1, "clipped": 0, "delayed": 0, "late": 0, "refused": "{}"}, "natural numbers"),
        ({"answered": 4, "clipped": 0, "delayed": 0, "late": 0, "refused": "{}"}, "of a node of 3 users"),
        ({"answered": 3, "clipped": 0, "delayed": 0, "late": 0, "refused": '{"bad": 1}'}, "of a node of 3 users"),
        ({"answered": 1, "clipped": 0, "delayed": 0, "late": 0, "refused": '{"bad": -1}'}, "natural numbers"),
        ({"answered": 1, "clipped": 0, "delayed": 0, "late": 0, "refused": "{"}, "no JSON"),
        ({"answered": 1, "clipped": 0, "late": 0, "refused": "{}"}, "natural numbers"),
    ],
)
def test_counts_are_those_of_some_of_the_users(counts: dict[str, int | str], reason: str) -> None:
    record = totals_to_record(Totals({"count": torch.ones(5, 1)}, 1))
    record["counts"] = ConfigRecord(dict(counts))
    with pytest.raises(DataError, match=reason):
        answer_from_record(record, Count(5), users=3)
