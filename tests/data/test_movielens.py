"""MovieLens-100K from either place is the same, and whatever else arrives is refused."""

from __future__ import annotations

import http.client
import io
import subprocess
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedrec.data import clean
from fedrec.data.movielens import from_grouplens, from_recbole_wheel, parse_grouplens, parse_recbole_wheel
from fedrec.errors import DataError

from .conftest import RECBOLE, pairs_of


def test_both_places_have_the_same_tables(grouplens_archive: Path, recbole_wheel: Path) -> None:
    original, copy = parse_grouplens(grouplens_archive), parse_recbole_wheel(recbole_wheel)
    for table in ("rows", "users", "items"):
        pd.testing.assert_frame_equal(getattr(original, table), getattr(copy, table))
    assert clean(original)[0].fingerprint == clean(copy)[0].fingerprint


def test_the_tables_by_hand(grouplens_archive: Path) -> None:
    data, _ = clean(parse_grouplens(grouplens_archive))
    assert pairs_of(data) == [("196", "242"), ("186", "302"), ("22", "267"), ("196", "1412")]
    assert data.rating is not None
    assert data.rating.tolist() == [3, 3, 1, 4]
    assert data.user_attributes.iloc[0].to_dict() == {
        "age": 24,
        "gender": "M",
        "occupation": "writer",
        "zip_code": "05201",
    }
    assert data.item_attributes["title"].tolist() == [
        "Misérables, Les",
        "unknown",
        '"Quoted" (Again)',
        "Land Before Time III: The Time of the Great Giving",
    ]
    assert data.item_attributes["year"].fillna(0).tolist() == [1995, 0, 1971, 1995]  # not that of the video's release
    assert data.item_attributes["genres"].fillna("none").tolist() == [
        "Film-Noir",
        "none",
        "Children's|Film-Noir",
        "Animation|Children's",
    ]


@pytest.mark.parametrize("content", [b"", b"<html>log in to the network</html>", b"PK\x03\x04 and no more"])
def test_an_archive_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ml-100k.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"ml-100k\.zip: damaged or not what it should be"):
        parse_grouplens(tmp_path / "ml-100k.zip")


def test_an_archive_that_lacks_a_file_is_refused(recbole_wheel: Path, grouplens_archive: Path) -> None:
    with pytest.raises(DataError, match=r"u\.data"):
        parse_grouplens(recbole_wheel)
    with pytest.raises(DataError, match=r"ml-100k\.inter"):
        parse_recbole_wheel(grouplens_archive)


def test_a_damaged_member_is_refused(grouplens_archive: Path) -> None:
    content = bytearray(grouplens_archive.read_bytes())
    at = content.index(b"881250949")
    content[at : at + 1] = b"9"  # the archive's own checksum no longer holds
    grouplens_archive.write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        parse_grouplens(grouplens_archive)


@pytest.mark.parametrize(
    "content",
    ["1\tMisérables, Les\t1995\tDrama\n".encode("latin-1"), b"1\tBabe\t1995\tDrama\n2\tBabe\t1995\tDrama\tmore\n"],
)
def test_a_table_in_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "recbole.whl", "w") as wheel:
        for name, text in RECBOLE.items():
            table = b"a header\n" + content if name.endswith(".item") else text.encode()
            wheel.writestr(f"recbole/dataset_example/ml-100k/{name}", table)
    with pytest.raises(DataError, match="a table is not what it should be"):
        parse_recbole_wheel(tmp_path / "recbole.whl")


def answer_with(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def urlopen(address: str, timeout: float) -> Any:
        assert address == "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
        assert timeout > 0
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def test_the_original_is_downloaded(monkeypatch: pytest.MonkeyPatch, grouplens_archive: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    answer_with(monkeypatch, io.BytesIO(grouplens_archive.read_bytes()))
    assert len(from_grouplens(tmp_path / "scratch").rows) == 4


class Interrupted(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise http.client.IncompleteRead(b"PK", 1000)


def test_a_truncated_download_is_damaged_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer_with(monkeypatch, Interrupted())
    with pytest.raises(DataError, match="broke off after 2 bytes"):
        from_grouplens(tmp_path)


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), TimeoutError("timed out")])
def test_no_network_is_a_connection_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception) -> None:
    answer_with(monkeypatch, error)
    with pytest.raises(ConnectionError, match=r"ml-100k\.zip"):
        from_grouplens(tmp_path)


def pip_does(monkeypatch: pytest.MonkeyPatch, wheel: bytes | None, code: int, errors: str) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in command
        assert command[-1] == "recbole==1.2.1"
        if wheel is not None:
            Path(command[-2], "recbole-1.2.1-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, code, "", errors)

    monkeypatch.setattr(subprocess, "run", run)


def test_the_wheel_comes_through_pip(monkeypatch: pytest.MonkeyPatch, recbole_wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    pip_does(monkeypatch, recbole_wheel.read_bytes(), 0, "")
    assert len(from_recbole_wheel(tmp_path / "scratch").rows) == 4


def test_what_pip_complains_of_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pip_does(monkeypatch, None, 1, "WARNING: Retrying\nERROR: No matching distribution found\nhint: try later\n")
    with pytest.raises(ConnectionError, match=r"ERROR: No matching distribution found$"):
        from_recbole_wheel(tmp_path)
    pip_does(monkeypatch, None, 0, "")
    with pytest.raises(ConnectionError, match=r"nothing was downloaded$"):
        from_recbole_wheel(tmp_path)


def test_a_pip_that_never_ends_is_a_connection_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(command: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ConnectionError, match="no answer in 300 s"):
        from_recbole_wheel(tmp_path)
