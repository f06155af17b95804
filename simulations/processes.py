"""Processes that benchmarks start, and how much memory they take."""

from __future__ import annotations

import os
import resource
import sys
import threading
from pathlib import Path

import psutil


def environment() -> dict[str, str]:
    """For a process that imports what this one can, reports nothing to Flower, and decides on its own threads."""
    own = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join([root, *(entry for entry in sys.path if entry)])
    return own | {"PYTHONPATH": path, "FLWR_TELEMETRY_ENABLED": "0", "OMP_WAIT_POLICY": "PASSIVE"}


def peak_memory() -> int:
    """Bytes that this process had in memory at most.

    Linux tells it of the process alone; `getrusage` may tell that of the process which started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    """Begin `peak_memory` anew, where the system lets a process do so."""
    references = Path("/proc/self/clear_refs")
    if references.is_file():
        references.write_text("5")


class TreeMemory:
    """Watches a process and all that it starts, together, once a second; memory that they share counts once.

    Attributes:
        peak: the most bytes seen.
    """

    def __init__(self, root: int) -> None:
        self.peak = 0
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> TreeMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self.peak = max(self.peak, _tree(self._root))


def _tree(root: int) -> int:
    total = 0
    try:
        processes = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            memory = process.memory_full_info()
        except psutil.Error:  # it has ended meanwhile
            continue
        total += getattr(memory, "pss", memory.rss)
    return total
