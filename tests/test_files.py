"""A file that is replaced is whole at every moment, and stays replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fedrec.files import replace_file


def test_the_content_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for content in (b"first", b"", b"a longer one than the first"):
        replace_file(path, content)
        assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_the_file_is_on_the_disk_before_it_is_moved_and_the_move_is_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "file", list[tuple[str, bytes | None]]()
    path.write_bytes(b"old")
    sync = os.fsync

    def look(number: int) -> None:
        sort = "folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file"
        seen.append((sort, path.read_bytes()))
        sync(number)

    monkeypatch.setattr(os, "fsync", look)
    replace_file(path, b"new")
    assert seen == [("file", b"old"), ("folder", b"new")]


def test_where_there_is_no_room_the_old_content_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
