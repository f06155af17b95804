"""What the documents show is true: their Python runs, their TOML is valid, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import click
import pytest
import torch
import typer

from fedrec.attacks import ATTACKS
from fedrec.cli import app
from fedrec.components import build_config, check_spaces
from fedrec.experiment import read_config
from fedrec.federated import QUERIES, Devices, LocalEngine
from fedrec.privacy import PrivacyConfig
from fedrec.streams import Streams
from fedrec.testing import CHECKS
from tests.attacks import planted

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [*DOCUMENTS, ROOT / "experiments/README.md", *sorted((ROOT / "papers").glob("*/README.md"))]


def blocks(document: str, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


def execute(code: str, names: dict[str, Any]) -> None:
    """Run an example as a file of its own: the imports of this one are not its."""
    exec(compile(code, "example.py", "exec", dont_inherit=True), names)


def test_the_readmes_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("README.md", "python")
    small = code.replace('name="ml-100k"', 'name="synthetic"').replace("rounds=60", "rounds=2")
    assert small.count("synthetic") == small.count("rounds=2") == 1
    execute(small, {})
    assert re.fullmatch(r"NDCG@10 0\.\d{4}, coverage 0\.\d{3}\n", capsys.readouterr().out)


def test_the_example_method_keeps_the_contract(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    method, *others = blocks("docs/extending.md", "python")
    (check,) = (block for block in others if "check_method" in block)
    assert len(method.splitlines()) + len(check.splitlines()) < 60
    module = ModuleType("my_methods")
    monkeypatch.setitem(sys.modules, "my_methods", module)
    execute(method, module.__dict__)
    (space,) = (block for block in blocks("docs/extending.md", "python") if "fedrec.spaces" in block)
    tuned: dict[str, Any] = {"__name__": "example"}
    execute(space, tuned)
    settings = tuned["ItemCosineConfig"]()
    assert settings == settings.model_validate(module.ItemCosineConfig().model_dump())  # the same settings
    check_spaces(settings, settings.space, "method")
    execute(check, {})
    report = capsys.readouterr().out
    assert [line.split() for line in report.splitlines()] == [["ok", name] for name in CHECKS]


def test_the_example_recommender_keeps_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (block for block in blocks("docs/extending.md", "python") if "check_recommender" in block)
    execute(code, {})
    assert "ok   beats_chance" in capsys.readouterr().out


def test_the_example_query_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = (block for block in blocks("docs/extending.md", "python") if "class FirstItems" in block)
    monkeypatch.setattr("fedrec.federated.query.QUERIES", QUERIES.copy())
    names: dict[str, Any] = {"__name__": __name__}
    execute(code, names)
    devices = Devices(torch.tensor([5, 6, 7]), torch.tensor([0, 2, 2, 3]), torch.tensor([1, 3, 1]), 4)
    totals = LocalEngine(devices, Streams(0)).sum(names["FirstItems"](n_items=4), round=1)
    assert totals.sums["first"].flatten().tolist() == [0, 2, 0, 0]


def test_the_privacy_model_names_every_query_that_a_device_answers() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/privacy.md").read_text(), flags=re.MULTILINE)
    own = {kind for kind, query in QUERIES.items() if query.__module__.startswith("fedrec.")}
    assert sorted(re.findall(r"`([a-z-]+)`", " ".join(rows))) == sorted(own)


def own_modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The files that docs/extending.md calls my_methods.py and my_attacks.py."""
    modules = {}
    for name in ("my_methods", "my_attacks"):
        (code,) = (block for block in blocks("docs/extending.md", "python") if block.startswith(f'"""{name}.py'))
        modules[name] = ModuleType(name)
        execute(code, modules[name].__dict__)
        monkeypatch.setitem(sys.modules, name, modules[name])
    return modules


WITH_EXPERIMENTS = ("tutorial", "extending", "recommenders", "deployment")


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{name}.md" for name in WITH_EXPERIMENTS)])
def test_toml_is_valid(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_modules(monkeypatch)
    found = blocks(document, "toml")
    assert found
    for text in found:
        whole = text if "name" in tomllib.loads(text) else f'name = "x"\nseeds = [0]\ndata.name = "ml-100k"\n{text}'
        path = tmp_path / "experiment.toml"
        path.write_text(whole)
        assert read_config(path).arms


def test_the_example_attack_reads_bare_answers_and_says_nothing_through_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    module, users = own_modules(monkeypatch)["my_attacks"], planted.interactions(30, 40, 5)
    attack = module.LargestEntry(module.LargestEntryConfig(sums=(1, 20), trials=200))
    for kind in ("popularity", "ease"):  # counts, and a matrix of items
        bare, many = attack.run(planted.target(kind, {}, users))
        assert (bare.case, bare.value, many.case) == ("one answer", 1.0, "sum of 20")
        assert many.value < 1.0 > bare.chance
    for found in attack.run(planted.target("popularity", {}, users, PrivacyConfig(noise_multiplier=100.0))):
        # Right by accident one time in eight: five standard errors of the difference, a false alarm in a million.
        assert abs(found.value - found.chance) < 5 * (2 * (1 / 8) * (7 / 8) / 200) ** 0.5


def test_the_example_attack_is_part_of_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("docs/attacks.md", "python")
    module = ModuleType("my_attacks")
    execute(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "my_attacks", module)
    shown, own = blocks("docs/attacks.md", "toml")
    path = tmp_path / "experiment.toml"
    path.write_text(f'name = "x"\nseeds = [0]\ndata.name = "ml-100k"\n{shown}\n{own}')
    assert [attack.name for attack in read_config(path).attacks] == [
        "history",
        "gender",
        "audit",
        "audit-by-runs",
        "Activity",
    ]
    attack = module.Activity(module.ActivityConfig(sums=(1,), trials=30))
    found = attack.run(planted.target("popularity", {}, planted.interactions(30, 40, 5)))
    assert [finding.value for finding in found] == [0.5]  # all are equally active


def test_the_attacks_of_the_table_are_those_there_are() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/attacks.md").read_text(), flags=re.MULTILINE)
    assert {kind for kind in rows if kind in ATTACKS} == set(ATTACKS)


def commands(document: Path) -> list[list[str]]:
    """The commands that its blocks without a language show: `fedrec ...` and `python ...`."""
    found = []
    for block in re.findall(r"^```\n(.*?)^```", document.read_text(), flags=re.DOTALL | re.MULTILINE):
        for line in re.findall(r"^(?:fedrec|python) .*", block, flags=re.MULTILINE):
            said = re.split(r" {2,}(?!--)", line)[0].replace("<utc time>", "TIME")  # a remark may stand behind it
            found.append(shlex.split(said, comments=True))
    return found


@pytest.mark.parametrize("document", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_that_are_shown_can_be_given(document: Path) -> None:
    fedrec = cast(click.Group, typer.main.get_command(app))
    for program, *arguments in commands(document):
        if program == "python":
            assert (ROOT / arguments[0]).is_file(), arguments
            continue
        command: click.Command = fedrec
        context = click.Context(fedrec, info_name=program)
        while isinstance(command, click.Group):
            name, found, arguments = command.resolve_command(context, arguments)
            assert found is not None
            command, context = found, click.Context(found, parent=context, info_name=name)
        command.parse_args(context, arguments)  # it refuses what it does not know


def test_the_ways_to_spend_a_budget_are_valid() -> None:
    (shown,) = blocks("docs/privacy.md", "toml")
    sections = [tomllib.loads(line)["privacy"] for line in shown.splitlines()]
    assert len(sections) > 5
    for section in sections:
        build_config(PrivacyConfig, section, "privacy")


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
