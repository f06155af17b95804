"""Death at a moment of one's choosing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedrec.experiment import store


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the library catches it."""


@contextmanager
def killed_at_write(number: int) -> Iterator[None]:
    """Die at the n-th write of a file, before its content is in place."""
    writes = 0
    original = store.write_atomically

    def write(path: Path, content: bytes | str) -> None:
        nonlocal writes
        writes += 1
        if writes == number:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.part").write_bytes(b"half")
            raise Killed(str(path))
        original(path, content)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("store", "summary", "runner", "trials"):
            patch.setattr(f"fedrec.experiment.{module}.write_atomically", write)
        yield
