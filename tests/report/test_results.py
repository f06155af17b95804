from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrec.errors import RunError
from fedrec.report.results import read_results
from tests.report.handmade import ARMS, CONFIG, GROUP_WIDTH, MEANS, manifest, metric_rows, summary, without_groups

MakeRun = Callable[..., Path]


def test_arms_keep_the_order_of_the_configuration_whatever_the_order_of_the_summary(make_run: MakeRun) -> None:
    content = summary()
    content["arms"] = dict(reversed(content["arms"].items()))
    assert read_results(make_run(summary=content)).arms == list(ARMS)


def test_scores_are_those_of_the_summary(run: Path) -> None:
    scores = read_results(run).scores.set_index(["arm", "metric"])
    assert scores["mean"]["federated", "ndcg@10"] == 0.0647
    assert scores["low"]["federated", "ndcg@10"] == pytest.approx(0.0647 * 0.88)
    assert scores["high"]["federated", "ndcg@10"] == pytest.approx(0.0647 * 1.12)
    assert math.isnan(scores["low"]["federated", "coverage@10"])
    assert len(scores) == len(ARMS) * (len(MEANS) + 1)


def test_groups_are_those_of_the_headline_metric_with_their_sizes(run: Path) -> None:
    groups = read_results(run).groups
    assert list(dict.fromkeys(groups["attribute"])) == ["gender", "age", "activity"]
    one = groups[(groups["arm"] == "central") & (groups["group"] == "F")]
    mean = 0.0684 * 0.86
    assert one.drop(columns="arm").values.tolist() == [
        ["gender", "F", 273, mean, mean * (1 - GROUP_WIDTH), mean * (1 + GROUP_WIDTH)]
    ]


def test_a_run_that_knows_of_no_groups_can_be_read(make_run: MakeRun) -> None:
    before = summary()
    for arm in before["arms"].values():
        del arm["groups"]  # as an earlier version wrote it
    for name, content in (("none", without_groups()), ("before", before)):
        results = read_results(make_run(name, summary=content))
        assert results.groups.empty
        assert results.between_groups.empty


def test_an_arm_may_be_called_na(make_run: MakeRun) -> None:
    content: dict[str, Any] = json.loads(json.dumps(summary()).replace('"central"', '"NA"'))
    rows = [("NA" if row[0] == "central" else row[0], *row[1:]) for row in metric_rows()]
    results = read_results(make_run(config=CONFIG.replace('"central"', '"NA"'), summary=content, metrics=rows))
    assert (
        set(results.scores["arm"]) == set(results.metrics["arm"]) == {"popularity", "NA", "federated", "federated-dp"}
    )


def test_between_groups_is_of_those_that_are_large_enough(run: Path) -> None:
    between = read_results(run).between_groups.set_index(["arm", "attribute", "summary"])["value"]
    assert between["central", "gender", "gap"] == pytest.approx(0.0684 * (1.06 - 0.86))
    assert between["central", "age", "worst-group"] == pytest.approx(0.0684 * 0.81)  # 56+ has fewer than 20 users
    assert between["central", "age", "ratio"] == pytest.approx(0.81 / 1.08)
    assert between["central", "age", "gap"] == pytest.approx(
        summary()["arms"]["central"]["groups"]["age"]["gap"]["value"]
    )
    assert len(between) == len(ARMS) * 3 * 3


def test_nothing_lies_between_groups_of_which_one_is_large_enough(make_run: MakeRun) -> None:
    content = summary()
    for arm in content["arms"].values():
        arm["groups"]["gender"]["groups"]["F"]["users"] = 19
        arm["groups"]["gender"]["gap"] = None
    assert set(read_results(make_run(summary=content)).between_groups["attribute"]) == {"age", "activity"}


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not a run directory .*fedrec run"):
        read_results(tmp_path)
    with pytest.raises(RunError, match="not a run directory"):
        read_results(tmp_path / "nowhere")


def test_an_unfinished_run_is_refused_with_the_command_that_finishes_it(make_run: MakeRun) -> None:
    run = make_run(manifest=manifest() | {"finished": False})
    with pytest.raises(RunError, match=f"not finished; finish it with: fedrec resume {run}"):
        read_results(run)


@pytest.mark.parametrize("name", ["summary.json", "metrics.csv", "history.csv"])
def test_a_lost_file_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(RunError, match=f"{name}: missing"):
        read_results(run)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("summary.json", b"{", "not valid JSON"),
        ("summary.json", b"[]", "not a JSON object"),
        ("summary.json", b'{"metric": "ndcg@10", "arms": {}}', "it has no arm 'popularity'"),
        ("manifest.json", b"\xff\xfe", "not text"),
        ("config.toml", b"name = ", "not valid TOML"),
        ("metrics.csv", b"", "not a table"),
        ("metrics.csv", b"arm,seed\n", "it has no column 'split'"),
        ("metrics.csv", b"arm,seed,split,metric,group,value\na,0,test,m,,many\n", "not a table"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong_in_one_line(
    run: Path, name: str, content: bytes, reason: str
) -> None:
    (run / name).write_bytes(content)
    with pytest.raises(RunError, match=f"{name}: {reason}") as raised:
        read_results(run)
    assert "\n" not in str(raised.value)
    assert "run again" in str(raised.value)


def test_the_length_of_lists_follows_the_headline_metric(make_run: MakeRun) -> None:
    content: dict[str, Any] = json.loads(json.dumps(summary()).replace("@10", "@20"))
    rows = [
        tuple(str(cell).replace("@10", "@20") if n == 3 else cell for n, cell in enumerate(r)) for r in metric_rows()
    ]
    results = read_results(make_run(summary=content, metrics=rows))
    assert (results.headline, results.length) == ("ndcg@20", "@20")
    assert len(results.groups) > 0
