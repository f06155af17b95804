"""The cache: filled in one step, checked at each use, refilled when damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fedrec.data import DATASETS, cache_folder, catalog, clean, fetch, load
from fedrec.data.movielens import parse_grouplens
from fedrec.data.readers import RawInteractions
from fedrec.errors import ConfigError, DataError

from .conftest import raw_of


class Source:
    """A place that data come from: each answer is data, or an error to raise; the last one is repeated."""

    __name__ = "a source"

    def __init__(self, *answers: RawInteractions | Exception) -> None:
        self.answers = answers
        self.asked = 0

    def __call__(self, scratch: Path) -> RawInteractions:
        assert not list(scratch.iterdir())
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def tiny(grouplens_archive: Path) -> RawInteractions:
    return parse_grouplens(grouplens_archive)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FEDREC_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def serve(monkeypatch: pytest.MonkeyPatch, right: RawInteractions, *sources: Source) -> None:
    """Let ml-100k be these data, from these places."""
    entry = replace(
        DATASETS["ml-100k"],
        users=len(right.users),
        items=len(right.items),
        fingerprint=clean(right)[0].fingerprint,
        sources=sources,
    )
    monkeypatch.setitem(DATASETS, "ml-100k", entry)


def test_data_are_fetched_once(monkeypatch: pytest.MonkeyPatch, tiny: RawInteractions, cache: Path) -> None:
    source = Source(tiny)
    serve(monkeypatch, tiny, source)
    first, second = load("ml-100k"), load("ml-100k")
    assert source.asked == 1
    for table in ("rows", "users", "items"):
        pd.testing.assert_frame_equal(getattr(first, table), getattr(tiny, table))
        pd.testing.assert_frame_equal(getattr(second, table), getattr(tiny, table))
    assert clean(second)[0].fingerprint == clean(tiny)[0].fingerprint
    assert [path.name for path in (cache / "v1").iterdir()] == ["ml-100k"]  # no scratch is left


@pytest.mark.parametrize("file", ["rows.parquet", "users.parquet", "items.parquet", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["truncated", "one bit", "missing"])
def test_a_damaged_cache_is_fetched_again(
    monkeypatch: pytest.MonkeyPatch, tiny: RawInteractions, file: str, damage: str
) -> None:
    source = Source(tiny)
    serve(monkeypatch, tiny, source)
    path = fetch("ml-100k") / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert not catalog.is_intact(path.parent)
    assert len(load("ml-100k").rows) == 4
    assert source.asked == 2
    assert catalog.is_intact(path.parent)


def test_what_is_out_of_reach_is_taken_from_the_next_place(
    monkeypatch: pytest.MonkeyPatch, tiny: RawInteractions
) -> None:
    first, second = Source(ConnectionError("no network")), Source(tiny)
    serve(monkeypatch, tiny, first, second)
    assert len(load("ml-100k").rows) == 4
    assert (first.asked, second.asked) == (1, 1)


@pytest.mark.parametrize("damage", ["truncated", "other ratings", "no attributes"])
def test_what_arrives_damaged_is_fetched_once_more(
    monkeypatch: pytest.MonkeyPatch, tiny: RawInteractions, damage: str
) -> None:
    bad: dict[str, RawInteractions | Exception] = {
        "truncated": DataError("truncated"),
        "other ratings": replace(tiny, rows=tiny.rows.assign(rating=5)),
        "no attributes": replace(tiny, users=pd.DataFrame()),
    }
    source = Source(bad[damage], tiny)
    serve(monkeypatch, tiny, source)
    assert len(load("ml-100k").users) == 3
    assert source.asked == 2


def test_offline_without_a_copy_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tiny: RawInteractions, cache: Path
) -> None:
    wrong = raw_of(("a", "x", "1", "1"), ("b", "x", "1", "1"))
    serve(monkeypatch, tiny, Source(ConnectionError("no network")), Source(wrong))
    with pytest.raises(DataError, match=r"no network; a source: its fingerprint is .*set FEDREC_DATA") as caught:
        load("ml-100k")
    assert "\n" not in str(caught.value)
    assert list((cache / "v1").iterdir()) == []  # nothing half-written


def test_a_killed_download_never_looks_finished(
    monkeypatch: pytest.MonkeyPatch, tiny: RawInteractions, cache: Path
) -> None:
    def killed(ready: Path, folder: Path) -> None:
        assert ready.parent.parent == folder.parent  # one file system: the last step is a rename
        raise KeyboardInterrupt

    source = Source(tiny)
    serve(monkeypatch, tiny, source)
    with monkeypatch.context() as patch:
        patch.setattr(catalog, "_publish", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch("ml-100k")
    assert not (cache / "v1" / "ml-100k").exists()
    assert len(load("ml-100k").rows) == 4
    assert source.asked == 2


def test_a_faster_process_keeps_its_copy(monkeypatch: pytest.MonkeyPatch, tiny: RawInteractions) -> None:
    inner = Source(tiny)

    class Slow(Source):
        def __call__(self, scratch: Path) -> RawInteractions:
            serve(monkeypatch, tiny, inner)
            fetch("ml-100k")  # another process, meanwhile
            return super().__call__(scratch)

    slow = Slow(tiny)
    serve(monkeypatch, tiny, slow)
    assert catalog.is_intact(fetch("ml-100k"))
    assert (slow.asked, inner.asked) == (1, 1)


def test_a_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tiny: RawInteractions, cache: Path
) -> None:
    cache.write_text("a file where the folder should be")
    serve(monkeypatch, tiny, Source(tiny))
    with pytest.raises(DataError, match=r"ml-100k: cannot be written .*set FEDREC_DATA to a folder that can"):
        fetch("ml-100k")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown dataset 'ml-100'; did you mean 'ml-100k'\?"):
        fetch("ml-100")


def test_the_cache_is_the_users_own_unless_told(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("FEDREC_DATA")
    assert cache_folder().name == "fedrec"
