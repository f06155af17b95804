"""Run directories to report on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.handmade import write_run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run directory with some of its parts replaced."""

    def make(name: str = "run", **changes: Any) -> Path:
        return write_run(tmp_path / name, **changes)

    return make


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    """A finished run directory."""
    return make_run()
