"""Scripts that stand beside the package, for tests of what they do."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest


def imported(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, *beside: str) -> ModuleType:
    """A script, imported from its folder as Python does when it is run.

    Args:
        monkeypatch: undoes it after the test.
        folder: of the script.
        name: of the script, without its ending.
        beside: other scripts of the folder that it imports; of other folders there may be some of the same names.
    """
    monkeypatch.syspath_prepend(str(folder))
    for module in (name, *beside):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return importlib.import_module(name)
