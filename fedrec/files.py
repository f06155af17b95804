"""Replacing a file so that whoever reads it, also after a power cut, finds it whole: as it was, or as it is now."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside its place, move it there, and wait until both have reached the disk.

    Args:
        path: of the file; its folder is made if there is none.
        content: of the file.

    Raises:
        OSError: if it cannot be written: no permission, no room. The path then holds what it held before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)  # the move itself is a change of the folder
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
