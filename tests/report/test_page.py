from __future__ import annotations

import html
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedrec.errors import RunError
from fedrec.report import write_report
from tests.report.handmade import CONFIG, MEANS, history_rows, manifest, metric_rows, summary, write_run

MakeRun = Callable[..., Path]

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """The elements and the words of a page; fails on elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.cells: list[list[str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("href", "src", "xlink:href"):
                self.addresses.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += f" {data.strip()}"

    @property
    def rows(self) -> list[list[str]]:
        """The rows of all tables, as the words of their cells."""
        return [[" ".join(cell.split()) for cell in row] for row in self.cells]

    @property
    def text(self) -> str:
        """All words of the page."""
        return " ".join(" ".join(self.words).split())


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of the whole run, to be read by several tests."""
    return page_of(write_run(tmp_path_factory.mktemp("page") / "run"))


def test_the_table_of_arms_holds_the_numbers_of_the_summary(page: Page) -> None:
    (row,) = (row for row in page.rows if row[0] == "federated" and row[1].startswith("0.0647"))
    assert row[:7] == [
        "federated",
        "0.0647 [0.0569, 0.0725]",
        "0.1279 [0.1126, 0.1432]",
        "0.3389",
        "0.8933",
        "9.44 [8.31, 10.57]",
        "0.6563 [0.5775, 0.7351]",
    ]


def test_every_mean_of_the_summary_that_is_shown_is_shown_as_it_is(page: Page) -> None:
    for metric in ("ndcg@10", "recall@10", "coverage@10", "gini@10", "intra-list-diversity@10"):
        for mean in MEANS[metric]:
            assert f"{mean:.4f}" in page.text


def test_the_paired_tests_are_read_out(page: Page) -> None:
    rows = {row[0]: row[1:] for row in page.rows}
    assert rows["popularity − central"] == [
        "−0.0248 [−0.0308, −0.0188]",
        "< 0.001",
        "< 0.001",
        "−0.25",
        "−0.50",
        "central ranks better than popularity.",
    ]
    assert rows["central − federated"] == [
        "+0.0037 [−0.0023, 0.0097]",
        *("0.22", "0.31", "+0.04", "+0.50"),
        "No difference shown.",
    ]
    assert "The two tests disagree" in rows["popularity − federated-dp"][-1]


def test_the_deviation_from_seed_to_seed_is_said_and_an_earlier_run_has_none(run: Path) -> None:
    said = f"deviates by {MEANS['ndcg@10'][0] / 50:.4f} (popularity), {MEANS['ndcg@10'][1] / 50:.4f} (central)"
    assert said in write_report(run).read_text()
    path = run / "summary.json"
    path.write_text(re.sub(r',\s*"(d_z|rank_biserial|seed_deviation)": [-0-9.e]+', "", path.read_text()))
    earlier = write_report(run).read_text()
    assert "deviates by" not in earlier
    assert "Effect" not in earlier


def test_gaps_stand_beside_what_chance_would_leave_and_none_is_marked(page: Page, run: Path) -> None:
    mean = MEANS["ndcg@10"][1]
    (row,) = (row for row in page.rows if row[0] == "central" and "by chance" in "".join(row))
    assert row[1:4] == [
        f"{mean * 0.2:.4f} {mean * 0.15:.4f} by chance p = 0.042",
        f"{mean * 0.86:.4f}",
        f"{0.86 / 1.06:.4f}",
    ]
    assert row[4] == f"{mean * (1.08 - 0.81):.4f} {mean * 0.25:.4f} by chance p = 0.34"
    assert row[7] == f"{mean * (1.22 - 0.79):.4f} {mean * 0.14:.4f} by chance p < 0.001"
    of_groups = write_report(run).read_text().partition('<section id="groups">')[2].partition("</section>")[0]
    assert 'class="best"' not in of_groups


def test_in_short_ranks_the_arms_against_the_best(page: Page) -> None:
    short = page.text.partition("In short")[2].partition("What was asked")[0]
    for words in (
        "central 0.0684 [0.0602, 0.0766] highest NDCG@10 federated",
        "federated 0.0647 [0.0569, 0.0725] 95% of central, no difference shown (p = 0.22) popularity",
        "federated-dp 0.0312 [0.0275, 0.0349] 46% of central, lower beyond chance (p < 0.001); ε = 8.00",
    ):
        assert words in short.replace("\xa0", " ")


def test_the_guarantee_is_the_one_of_the_run_word_for_word(page: Page) -> None:
    guarantee = summary()["arms"]["federated-dp"]["guarantee"]
    for words in (guarantee["words"], guarantee["unit"], guarantee["adjacency"], *guarantee["notes"].values()):
        assert words in page.text
    assert "No guarantee: popularity , central , federated ." in page.text


def test_costs_and_facts_of_the_data_are_there(page: Page) -> None:
    assert ["federated", "88.33", "11.40 MB", "43.10 MB", "1 min 36 s"] in page.rows
    assert ["central", "–", "–", "31.2 s"] in [[row[0], *row[2:]] for row in page.rows if len(row) == 5]
    facts = manifest()
    for said in (*facts["data"]["cleaning"], *facts["split"]["notes"], facts["data"]["fingerprint"], "98,114", "1,682"):
        assert said in page.text
    assert "torch 2.13.0" in page.text.replace("\xa0", " ")
    assert "9a34ef1c0ffee" in page.text


def test_the_whole_configuration_is_shown(run: Path) -> None:
    assert html.escape(CONFIG, quote=True).replace("&quot;", "&#34;") in write_report(run).read_text()


def test_the_page_stands_alone_and_is_well_formed(run: Path) -> None:
    page = page_of(run)
    assert len(set(page.ids)) == len(page.ids)
    assert all(address.startswith("#") for address in page.addresses)
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    text = write_report(run).read_text()
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(run: Path, tmp_path: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    copy = shutil.copytree(run, tmp_path / "elsewhere" / "copy")
    assert write_report(copy).read_bytes() == first


def test_nothing_else_in_the_directory_changes(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.iterdir()}
    page = write_report(run)
    after = {path: path.read_bytes() for path in run.iterdir()}
    assert page == run / "report.html"
    assert after.pop(page)
    assert after == before


EVIL = "<script>alert('x')</script>"


def test_whatever_comes_from_data_is_escaped(make_run: MakeRun) -> None:
    facts = manifest()
    facts["data"]["cleaning"] = [f"{EVIL}: 1 dropped"]
    facts["split"]["notes"] = [f"{EVIL} is cold"]
    facts["machine"]["platform"] = EVIL
    facts["versions"]["torch"] = EVIL
    content = summary()
    for arm in content["arms"].values():
        arm["groups"] = {EVIL: arm["groups"]["gender"]} | arm["groups"]
        arm["groups"]["age"]["groups"] = {EVIL: arm["groups"]["age"]["groups"]["0-17"]}
    facts["data"]["source"] = EVIL
    config = CONFIG.replace('name = "ml-100k"', f'path = "{EVIL}"')
    run = make_run(manifest=facts, summary=content, config=config)
    text = write_report(run).read_text()
    assert "<script" not in text
    words = Page(text).text
    for said in (f"{EVIL}: 1 dropped", f"{EVIL} is cold", f"torch {EVIL}", f"{EVIL}, 2 cores", f'path = "{EVIL}"'):
        assert said in words
    assert words.count(f"{EVIL} · 36") == 1  # a group in the figure
    assert words.count(EVIL) >= 10  # the source twice, and an attribute in figure and table


def without(metric: str) -> dict[str, Any]:
    content = summary()
    for arm in content["arms"].values():
        del arm["metrics"][metric]
    return content


def test_a_metric_that_nobody_measured_leaves_no_hole(make_run: MakeRun) -> None:
    measured = [row for row in metric_rows() if not str(row[3]).startswith("intra-list-diversity@10")]
    page = page_of(make_run(summary=without("intra-list-diversity@10"), metrics=measured))
    assert "Intra-list" not in page.text
    assert "Coverage@10" in page.text
    assert re.search(r"\b(nan|None|Undefined)\b", page.text) is None


def test_a_metric_that_one_arm_lacks_is_a_dash_there(make_run: MakeRun) -> None:
    content = summary()
    del content["arms"]["central"]["metrics"]["novelty@10"]
    (row,) = (row for row in page_of(make_run(summary=content)).rows if row[0] == "central" and "0.4127" in row)
    assert row[5] == "–"


def test_a_run_of_one_arm_and_seed_without_anything_optional_has_no_empty_section(make_run: MakeRun) -> None:
    content = summary()
    content["tests"] = []
    content["arms"] = {"central": content["arms"]["central"]}
    content["arms"]["central"]["groups"] = {}
    content["arms"]["central"]["metrics"] = {"ndcg@10": {"mean": 0.0, "ci95": None, "per_seed": [0.0]}}
    facts = manifest() | {"seeds": [0], "git": None}
    facts["data"]["cleaning"] = []
    facts["split"]["notes"] = []
    start, end = CONFIG.index('[[arms]]\nname = "popularity"'), CONFIG.index('[[arms]]\nname = "central"')
    config = CONFIG[:start] + CONFIG[end : CONFIG.index('[[arms]]\nname = "federated"')]
    page = page_of(make_run(summary=content, manifest=facts, metrics=[], history=[], config=config))
    assert page.ids == ["answer", "asked", "arms", "privacy", "cost", "data", "reading"]
    assert "1 arm, 1 seed," in page.text
    assert "No arm of this run has a privacy guarantee." in page.text
    assert "best of its column" not in page.text
    assert re.search(r"\b(nan|None|Undefined)\b", page.text) is None


def test_an_unfinished_run_has_no_report(make_run: MakeRun) -> None:
    run = make_run(manifest=manifest() | {"finished": False})
    with pytest.raises(RunError, match="fedrec resume"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_foreign_folder_has_no_report(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(RunError, match="not a run directory") as raised:
        write_report(tmp_path)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_curves_come_from_the_history(make_run: MakeRun) -> None:
    only_loss = [row for row in history_rows() if row[3] != "validation"]
    assert "learning" not in page_of(make_run(history=only_loss)).ids
