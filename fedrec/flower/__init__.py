"""Flower: queries and sums as messages. Nothing outside this package imports `flwr`."""

from fedrec.flower.records import (
    query_from_record,
    query_to_record,
    totals_from_record,
    totals_to_record,
)

__all__ = ["query_from_record", "query_to_record", "totals_from_record", "totals_to_record"]
