"""Attacks within an experiment: what is read, run, resumed, summarised and shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer

from fedrec.attacks import Finding, Target
from fedrec.components import Config
from fedrec.errors import ConfigError
from fedrec.experiment import read_config, resume, run
from fedrec.experiment.attacking import findings_text, over_seeds, read_findings
from fedrec.report import attack_summaries, write_report
from fedrec.report.attack_figure import shown_measure, success_against_chance
from fedrec.report.palette import marks
from fedrec.report.results import read_results
from tests.experiment.tiny import write_experiment

HISTORY: dict[str, Any] = {"kind": "history", "on": ["federated", "private"], "sums": [1, 4], "trials": 4}
AUDIT: dict[str, Any] = {"name": "check", "kind": "audit", "on": ["private"], "canaries": 20}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacked")
    return run(read_config(write_experiment(folder, attacks=[HISTORY, AUDIT])), folder / "run")


def test_findings_are_kept_by_attack_arm_and_seed(finished: Path) -> None:
    table = pd.read_csv(finished / "attacks.csv")
    assert list(table.columns) == ["attack", "arm", "seed", "case", "measure", "value", "error", "chance", "trials"]
    of_history = table[table["attack"] == "history"]
    assert len(of_history) == 2 * 2 * 2 * 2  # arms, seeds, cases, measures
    bare = of_history[(of_history["arm"] == "federated") & (of_history["case"] == "one answer")]
    assert (bare[bare["measure"] == "auc"]["value"] > 0.7).all()
    audited = table[(table["attack"] == "check") & (table["measure"] == "epsilon-bound")]
    assert audited["seed"].tolist() == [3, 5]
    assert (audited["value"] <= 8).all()


def test_a_run_that_was_killed_between_attacks_ends_in_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    (again / "attacks" / "history" / "private" / "seed-5.json").unlink()
    (again / "attacks.csv").unlink()
    facts = json.loads((again / "manifest.json").read_text()) | {"finished": False}
    (again / "manifest.json").write_text(json.dumps(facts))
    kept = (again / "attacks" / "check" / "private" / "seed-3.json").stat().st_mtime_ns
    resume(again)
    assert (again / "attacks.csv").read_bytes() == (finished / "attacks.csv").read_bytes()
    assert (again / "summary.json").read_bytes() == (finished / "summary.json").read_bytes()
    assert (again / "attacks" / "check" / "private" / "seed-3.json").stat().st_mtime_ns == kept


def test_terminal_and_page_show_a_table_for_each_attack(finished: Path) -> None:
    tables = attack_summaries(finished)
    assert [str(table.title) for table in tables] == ["attack: history", "attack: check"]
    assert [str(column.header) for column in tables[1].columns] == [
        "arm",
        "case",
        "ε claimed",
        "ε at least",
        "ε at least, as Gaussian noise",
        "ε if Gaussian",
        "Right guesses",
    ]
    assert tables[0].row_count == 4
    page = write_report(finished).read_text()
    assert 'id="attacks"' in page
    assert "How often each attack was right" in page
    assert "History read" in page


def test_the_figure_puts_each_case_at_its_success_and_its_chance(finished: Path) -> None:
    results = read_results(finished)
    entries = results.summary["attacks"]
    assert [shown_measure(entry["findings"]) for entry in entries] == ["auc", "auc", "right-guesses"]
    panels = success_against_chance(entries, marks(results.arms)).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["history", "check"]
    drawn = [one for one in panels[0].containers if isinstance(one, ErrorbarContainer)]
    lines: list[Any] = [one.lines[0] for one in drawn]
    values = [f["value"] for entry in entries[:2] for f in entry["findings"] if f["measure"] == "auc"]
    assert [float(line.get_xdata()[0]) for line in lines] == values
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["one answer", "sum of 4"]


def test_the_effective_configuration_reads_back(finished: Path) -> None:
    config = read_config(finished / "config.toml")
    assert [attack.name for attack in config.attacks] == ["history", "check"]
    assert config.attacks[1].settings.model_dump()["items"] == 1


def test_attacks_are_overridden_by_name(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, attacks=[HISTORY, AUDIT])
    config = read_config(path, ["attacks.history.trials=9", "attacks.check.items=2"])
    assert [attack.settings.model_dump().get("trials") for attack in config.attacks] == [9, None]
    with pytest.raises(ConfigError, match="there is no attack 'histroy'; did you mean 'history'"):
        read_config(path, ["attacks.histroy.trials=9"])


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (HISTORY | {"on": ["federatd"]}, "attacks.history.on: there is no arm 'federatd'; did you mean 'federated'"),
        (HISTORY | {"trails": 9}, "attacks.history.trails: unknown key 'trails'; did you mean 'trials'"),
        (HISTORY | {"kind": "histroy"}, "unknown attack kind 'histroy'; did you mean 'history'"),
        ({"kind": "history"}, r"attacks\.history\.on: missing"),
        (HISTORY | {"name": "a/b"}, "a name becomes a folder"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, attack: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_config(write_experiment(tmp_path, attacks=[attack]))


def test_two_attacks_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two attacks are named 'history'"):
        read_config(write_experiment(tmp_path, attacks=[HISTORY, HISTORY]))


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (AUDIT | {"on": ["federated"]}, "attacks.check on federated: .* the arm has none"),
        (HISTORY | {"on": ["central"]}, "attacks.history on central: .* is trained centrally"),
        (HISTORY | {"after": 9}, "the arm has 6 rounds"),
        (HISTORY | {"sums": [24]}, "leaves one of 24 out"),
        ({"kind": "attribute", "on": ["federated"], "attribute": "gender"}, "no user column 'gender'"),
    ],
)
def test_what_cannot_be_attacked_is_found_before_anything_is_written(
    tmp_path: Path, attack: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        run(read_config(write_experiment(tmp_path, attacks=[attack])), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Nothing:
    """Finds a number that is none."""

    config_class: ClassVar[type[Config]] = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, target: Target) -> None:
        pass

    def run(self, target: Target) -> list[Finding]:
        return [Finding("case", "measure", float("nan"))]


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ConfigError, match="'measure' of 'case' is not finite"):
        findings_text(Nothing(Config()).run(None))  # type: ignore[arg-type]


def test_findings_over_seeds_by_hand(tmp_path: Path) -> None:
    first = [Finding("one answer", "auc", 0.9, 0.03, 0.5, 10), Finding("one answer", "bound", 1.0)]
    second = [Finding("one answer", "auc", 0.7, 0.04, 0.6, 10), Finding("one answer", "bound", 2.0)]
    auc, bound = over_seeds([first, second])
    assert (auc.value, auc.error, auc.chance, auc.trials) == pytest.approx((0.8, 0.025, 0.55, 20))
    assert (bound.value, bound.error, bound.chance) == (1.5, None, None)
    path = tmp_path / "findings.json"
    path.write_text(findings_text(first))
    assert read_findings(path) == first
