"""The tables of the attacks: what each came to on each arm, beside chance. Terminal and page share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedrec.report import wording
from fedrec.report.columns import Cell
from fedrec.report.results import Results

_SAID = {
    "auc": "AUC",
    "history-read": "History read",
    "right-pairs": "Right of pairs",
    "item-guessed": "Item guessed",
    "claimed-epsilon": "ε claimed",
    "epsilon-bound": "ε at least",
    "epsilon-bound-gaussian": "ε at least, as Gaussian noise",
    "epsilon-estimate": "ε if Gaussian",
    "right-guesses": "Right guesses",
}


@dataclass(frozen=True)
class AttackRow:
    """What one attack came to on one arm in one case.

    Attributes:
        arm: its name.
        case: what was observed, or tried.
        cells: by measure; the note is what chance comes to.
    """

    arm: str
    case: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class AttackTable:
    """What one attack came to.

    Attributes:
        name: of the attack.
        measures: the columns, by name in the results and as a heading.
        rows: arm by arm, case by case.
    """

    name: str
    measures: Mapping[str, str]
    rows: tuple[AttackRow, ...]


def attack_tables(results: Results) -> list[AttackTable]:
    """The table of each attack of a run; none if nothing was attacked, or an earlier version wrote the run."""
    by_name: dict[str, list[AttackRow]] = {}
    measures: dict[str, dict[str, str]] = {}
    for entry in results.summary.get("attacks", []):
        rows: dict[str, dict[str, Cell]] = {}
        for finding in entry["findings"]:
            measure = str(finding["measure"])
            measures.setdefault(entry["attack"], {})[measure] = _SAID.get(measure, wording.title(measure))
            rows.setdefault(finding["case"], {})[measure] = _cell(finding)
        found = by_name.setdefault(entry["attack"], [])
        found += [AttackRow(entry["arm"], case, cells) for case, cells in rows.items()]
    return [AttackTable(name, measures.get(name, {}), tuple(rows)) for name, rows in by_name.items()]


def _cell(finding: Mapping[str, Any]) -> Cell:
    error, chance = finding["error"], finding["chance"]
    text = f"{finding['value']:.3f}" + (f" ± {error:.3f}" if error is not None else "")
    return Cell(text, f"chance {chance:.3f}" if chance else "")
