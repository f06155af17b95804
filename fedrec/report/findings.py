"""What the numbers say: how each arm stands against the best one, and which differences are more than chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedrec.report.results import Results

SIGNIFICANT = 0.05  # the level that goes with intervals of 95%


@dataclass(frozen=True)
class Verdict:
    """A paired test, read out.

    Attributes:
        a, b: the arms compared.
        difference: mean over users of a − b.
        low, high: its 95% interval.
        p_bootstrap, p_wilcoxon: p-values of the two tests, after Holm's correction; no Wilcoxon's where the server had
            no user's values.
        better, worse: the arms, if the bootstrap test tells them apart; None if it does not.
        d_z, rank_biserial: effect sizes; None there too, and if an earlier version wrote the run.
        disputed: whether only one of the two tests tells them apart.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_wilcoxon: float | None
    better: str | None
    worse: str | None
    d_z: float | None
    rank_biserial: float | None
    disputed: bool


@dataclass(frozen=True)
class Standing:
    """How an arm stands against the one with the highest headline metric.

    Attributes:
        arm: its name.
        mean, low, high: the metric and its 95% interval, NaN where there is none.
        share: the mean as a share of the best arm's; None for the best arm itself, and if the best is 0.
        against_best: the paired test with the best arm, or None.
    """

    arm: str
    mean: float
    low: float
    high: float
    share: float | None
    against_best: Verdict | None


def verdicts(results: Results) -> list[Verdict]:
    """Every paired test of the run."""
    return [_verdict(test) for test in results.summary["tests"]]


def standings(results: Results) -> list[Standing]:
    """The arms, from the highest headline metric to the lowest; of equals, the first in the configuration leads."""
    rows = results.scores[results.scores["metric"] == results.headline]
    ranked: list[Any] = list(rows.sort_values("mean", ascending=False, kind="stable").itertuples())
    tests = {frozenset((verdict.a, verdict.b)): verdict for verdict in verdicts(results)}
    best = ranked[0]
    return [
        Standing(
            arm=str(row.arm),
            mean=float(row.mean),
            low=float(row.low),
            high=float(row.high),
            share=None if row.arm == best.arm or best.mean <= 0 else float(row.mean / best.mean),
            against_best=tests.get(frozenset((str(row.arm), str(best.arm)))),
        )
        for row in ranked
    ]


def _verdict(test: dict[str, Any]) -> Verdict:
    apart = test["p_bootstrap_holm"] < SIGNIFICANT
    better, worse = (test["a"], test["b"]) if test["difference"] > 0 else (test["b"], test["a"])
    low, high = test["ci95"]
    return Verdict(
        a=test["a"],
        b=test["b"],
        difference=test["difference"],
        low=low,
        high=high,
        p_bootstrap=test["p_bootstrap_holm"],
        p_wilcoxon=test["p_wilcoxon_holm"],
        better=better if apart else None,
        worse=worse if apart else None,
        d_z=test.get("d_z"),
        rank_biserial=test.get("rank_biserial"),
        disputed=test["p_wilcoxon_holm"] is not None and apart != (test["p_wilcoxon_holm"] < SIGNIFICANT),
    )
