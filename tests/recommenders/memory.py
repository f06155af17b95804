"""Checkpoints and logs in memory."""

import json
from collections.abc import Mapping

from torch import Tensor

from fedrec.recommenders import Disclosure, Tensors


class MemoryCheckpoints:
    """The last checkpoint, as a file would hold it: copied tensors, and facts that went through JSON."""

    def __init__(self) -> None:
        self.saved: tuple[dict[str, Tensor], str] | None = None
        self.saves = 0

    def load(self) -> tuple[Tensors, Mapping[str, object]] | None:
        if self.saved is None:
            return None
        tensors, facts = self.saved
        return {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(facts)

    def save(self, tensors: Tensors, facts: Mapping[str, object]) -> None:
        self.saved = {name: tensor.clone() for name, tensor in tensors.items()}, json.dumps(facts, allow_nan=False)
        self.saves += 1


class MemoryLog:
    """Logged rows, in order."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, float, Disclosure]] = []

    def __call__(self, step: int, name: str, value: float, disclosure: Disclosure) -> None:
        self.rows.append((step, name, value, disclosure))

    def values(self, name: str) -> list[float]:
        return [value for _, found, value, _ in self.rows if found == name]


class KilledError(Exception):
    """The process died here."""


class KillAt:
    """A progress callback that dies after a step, and what it was told before."""

    def __init__(self, step: int | None = None) -> None:
        self.step = step
        self.seen: list[tuple[int, int, float | None]] = []

    def __call__(self, done: int, planned: int, best: float | None) -> None:
        self.seen.append((done, planned, best))
        if done == self.step:
            raise KilledError
