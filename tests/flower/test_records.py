"""Messages hold what was asked and what was summed, and refuse the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedrec.errors import DataError
from fedrec.federated import Totals
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig
from fedrec.federated.queries import Count, Evaluate, LocalTraining
from fedrec.flower import query_from_record, query_to_record, totals_from_record, totals_to_record


def training() -> LocalTraining:
    items = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return LocalTraining(items, "bpr", 2, 0.3, 0.7, 3, 0.5, 0.5)


def test_a_query_comes_back_as_it_went() -> None:
    query, round, phase = query_from_record(query_to_record(training(), round=4, phase=1))
    assert (round, phase) == (4, 1)
    assert isinstance(query, LocalTraining)
    assert query.settings == training().settings
    assert torch.equal(query.items, training().items)
    assert query.items.dtype == torch.float64


def test_an_evaluation_names_its_method_and_brings_its_model() -> None:
    method, model = EgoLightGCN(EgoLightGCNConfig(dim=3)), {"items": training().items}
    asked = Evaluate(method, model, "valid", ("ndcg@5", "mrr@2"), 7, {"gender": 2})
    query, _, _ = query_from_record(query_to_record(asked, round=4, phase=1))
    assert isinstance(query, Evaluate)
    assert query.method.config == method.config
    assert query.settings == asked.settings
    assert torch.equal(query.state["items"], training().items)


def test_totals_come_back_as_they_went() -> None:
    totals = Totals(
        {"count": torch.arange(5.0, dtype=torch.float64).view(5, 1)}, 7, 2, {"an unknown row": 1}, 100, 9, 3, 4
    )
    again = totals_from_record(totals_to_record(totals), Count(5))
    assert torch.equal(again.sums["count"], totals.sums["count"])
    assert (again.answered, again.clipped, again.bytes_up, again.bytes_down) == (7, 2, 100, 9)
    assert (again.delayed, again.late) == (3, 4)
    assert again.refused == {"an unknown row": 1}


def test_an_unknown_kind_is_refused() -> None:
    record = query_to_record(training(), 1, 0)
    record["query"] = ConfigRecord({"kind": "builtins:eval", "round": 1, "phase": 0})
    with pytest.raises(DataError, match="not on this node's allow-list"):
        query_from_record(record)


@pytest.mark.parametrize("part", ["query", "settings", "broadcast"])
def test_a_message_with_a_missing_part_is_refused(part: str) -> None:
    record = query_to_record(training(), 1, 0)
    del record[part]
    with pytest.raises(DataError, match=f"'{part}'"):
        query_from_record(record)


def test_an_array_of_objects_is_not_unpickled() -> None:
    record = query_to_record(training(), 1, 0)
    record["broadcast"] = ArrayRecord({"items": Array("object", (1,), "numpy.ndarray", b"\x80\x04K\x01.")})
    with pytest.raises(DataError, match="'items' of a message cannot be read"):
        query_from_record(record)


@pytest.mark.parametrize(
    ("sums", "reason"),
    [
        ({"count": np.ones((4, 1))}, "of shape"),
        ({"counts": np.ones((5, 1))}, "tables"),
        ({"count": np.full((5, 1), np.nan)}, "not finite"),
    ],
)
def test_an_answer_that_does_not_fit_the_query_is_refused(sums: dict[str, np.ndarray], reason: str) -> None:
    record = totals_to_record(Totals({"count": torch.ones(5, 1)}, 1))
    record["sums"] = ArrayRecord({name: Array(table) for name, table in sums.items()})
    with pytest.raises(DataError, match=reason):
        totals_from_record(record, Count(5))


def test_counts_are_natural_numbers() -> None:
    record: RecordDict = totals_to_record(Totals({"count": torch.ones(5, 1)}, 1))
    record["counts"] = ConfigRecord({"answered": -1, "clipped": 0, "bytes_up": 0, "bytes_down": 0, "refused": "{}"})
    with pytest.raises(DataError, match="natural numbers"):
        totals_from_record(record, Count(5))
