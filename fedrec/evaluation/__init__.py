"""Evaluation: exact lists, metrics that say what they are, intervals and paired tests, and the protocol over them."""

from fedrec.evaluation.config import EvaluationConfig
from fedrec.evaluation.csr import Csr, tie_hash
from fedrec.evaluation.fairness import BETWEEN_GROUPS, MIN_GROUP, Groups, coded_groups, group_labels, user_groups
from fedrec.evaluation.held_out import HeldOut
from fedrec.evaluation.metrics import METRICS, SAMPLED, Metric, MetricName, MetricRow, metric_of
from fedrec.evaluation.protocol import Evaluation, Validator, evaluate, make_validator
from fedrec.evaluation.statistics import (
    Comparison,
    GapTest,
    Interval,
    bootstrap_interval,
    bootstrap_intervals,
    compare,
    gap_by_chance,
    holm,
    rank_biserial,
    seed_deviation,
    standardised_difference,
    wilcoxon,
)
from fedrec.evaluation.sums import (
    OMITTED,
    Layout,
    percentile_interval,
    poisson_weights,
    resampled_means,
    rows_of_sums,
    secret_weights,
)
from fedrec.evaluation.topk import Factors, Scorer, TopK, top_k

__all__ = [
    "BETWEEN_GROUPS",
    "METRICS",
    "MIN_GROUP",
    "OMITTED",
    "SAMPLED",
    "Comparison",
    "Csr",
    "Evaluation",
    "EvaluationConfig",
    "Factors",
    "GapTest",
    "Groups",
    "HeldOut",
    "Interval",
    "Layout",
    "Metric",
    "MetricName",
    "MetricRow",
    "Scorer",
    "TopK",
    "Validator",
    "bootstrap_interval",
    "bootstrap_intervals",
    "coded_groups",
    "compare",
    "evaluate",
    "gap_by_chance",
    "group_labels",
    "holm",
    "make_validator",
    "metric_of",
    "percentile_interval",
    "poisson_weights",
    "rank_biserial",
    "resampled_means",
    "rows_of_sums",
    "secret_weights",
    "seed_deviation",
    "standardised_difference",
    "tie_hash",
    "top_k",
    "user_groups",
    "wilcoxon",
]
