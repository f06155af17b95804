"""What the commands show: tables on standard output; progress and messages, a line each, on standard error."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from fedrec.experiment import Step

SECONDS_BETWEEN_LINES = 30.0  # a log of an hour stays readable

_BEGUN = re.compile(r"fedrec: (.+, seed \d+)")
_ROUND = re.compile(r"fedrec: round (\d+) of (\d+), (.+)")

out = Console()
err = Console(stderr=True)


def say(line: str) -> None:
    """One line on standard error, as it is: no wrapping, no markup."""
    err.print(f"fedrec: {line}", markup=False, highlight=False, soft_wrap=True)


def show_paragraph(text: str) -> None:
    """Text on standard output; wrapped on a terminal, one line in a file."""
    out.print(text, markup=False, highlight=False, soft_wrap=not out.is_terminal)


def show_table(table: Table) -> None:
    """A table as wide as the terminal; in a file, as wide as it wants to be."""
    if out.is_terminal:
        out.print(table)
    else:
        wide = Console(width=1000)
        wide.print(table, width=wide.measure(table).maximum)


@contextmanager
def progress() -> Iterator[Callable[[Step], None]]:
    """What a run is to be told of its steps: bars on a terminal, a line now and then elsewhere."""
    if not err.is_terminal:
        yield _Lines().show
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[best]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=err) as display:
        yield _Bars(display).show


@contextmanager
def following() -> Iterator[Callable[[str], None]]:
    """What is to be told of the lines of a run elsewhere: on a terminal those of its rounds are a bar."""
    if not err.is_terminal:
        yield _show_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[nodes]}"))
    with Progress(*columns, TimeRemainingColumn(compact=True), console=err) as display:
        yield _Rounds(display).show


def _show_line(line: str) -> None:
    err.print(line, markup=False, highlight=False, soft_wrap=True)


class _Rounds:
    """One bar, for the arm and seed at work; `fedrec.experiment.deployed` logs the lines that move it."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._bar = display.add_task("", total=None, nodes="", visible=False)

    def show(self, line: str) -> None:
        if begun := _BEGUN.fullmatch(line):
            self._display.reset(self._bar, total=None, description=begun[1], nodes="", visible=True)
        elif done := _ROUND.fullmatch(line):
            self._display.update(self._bar, completed=int(done[1]), total=int(done[2]), nodes=done[3])
        else:
            _show_line(line)


class _Bars:
    """One bar for the run, and one below it for the arm and seed at work."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._job = 0
        self._whole = display.add_task("all arms and seeds", total=None, best="")
        self._part = display.add_task("", total=None, best="", visible=False)

    def show(self, step: Step) -> None:
        if step.job != self._job:
            self._job = step.job
            self._display.update(self._whole, completed=step.job - 1, total=step.jobs)
            self._display.reset(self._part, description=_what(step), best="", visible=True)
        self._display.update(self._part, completed=step.done, total=step.planned or None, best=_best(step))


class _Lines:
    """A line when an arm or its tuning begins, and at most one every `SECONDS_BETWEEN_LINES` after that."""

    def __init__(self) -> None:
        self._last = 0.0
        self._tuned = ""

    def show(self, step: Step) -> None:
        now = time.monotonic()
        at = f"[{step.job}/{step.jobs}] {_what(step)}"
        if step.done == 0 and (step.trial is None or step.arm != self._tuned):
            self._tuned = "" if step.trial is None else step.arm
            say(at)
        elif now - self._last > SECONDS_BETWEEN_LINES:
            say(f"{at}: {step.done}/{step.planned} {_best(step)}".rstrip())
        else:
            return
        self._last = now


def _what(step: Step) -> str:
    return f"{step.arm}, seed {step.seed}" if step.trial is None else f"{step.arm}, trial {step.trial}"


def _best(step: Step) -> str:
    return "" if step.best is None else f"validation {step.metric} {step.best:.4f}"
