from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedrec.report.findings import standings, verdicts
from fedrec.report.results import read_results
from tests.report.handmade import summary

MakeRun = Callable[..., Path]


def test_arms_stand_from_the_highest_to_the_lowest_as_shares_of_the_highest(run: Path) -> None:
    found = standings(read_results(run))
    assert [one.arm for one in found] == ["central", "federated", "popularity", "federated-dp"]
    assert found[0].share is None
    assert found[0].against_best is None
    assert found[1].share == pytest.approx(0.0647 / 0.0684)
    assert (found[1].low, found[1].high) == pytest.approx((0.0647 * 0.88, 0.0647 * 1.12))
    assert found[1].against_best is not None
    assert found[1].against_best.better is None
    assert found[3].against_best is not None
    assert found[3].against_best.better == "central"


def test_the_better_arm_follows_the_sign_of_the_difference(run: Path) -> None:
    found = {(one.a, one.b): one for one in verdicts(read_results(run))}
    assert (found["popularity", "central"].better, found["popularity", "central"].worse) == ("central", "popularity")
    assert found["central", "federated-dp"].better == "central"
    assert found["central", "federated"].better is None
    assert found["central", "federated"].difference == 0.0037


def test_verdicts_are_by_the_corrected_p_value_and_say_when_the_tests_disagree(run: Path) -> None:
    found = {(one.a, one.b): one for one in verdicts(read_results(run))}
    assert found["central", "federated"].p_bootstrap == 0.2213  # before the correction it is below .05
    assert [pair for pair, one in found.items() if one.disputed] == [("popularity", "federated-dp")]


def test_a_useless_best_arm_has_no_shares(make_run: MakeRun) -> None:
    content = summary()
    for arm in content["arms"].values():
        arm["metrics"]["ndcg@10"] = {"mean": 0.0, "ci95": [0.0, 0.0], "per_seed": [0.0] * 3}
    found = standings(read_results(make_run(summary=content)))
    assert [one.share for one in found] == [None] * 4
    assert found[0].arm == "popularity"  # of equals, the first in the configuration
