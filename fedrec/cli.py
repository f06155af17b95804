"""The command line: `fedrec run`, `resume`, `compare`, `report`, `data` and `list`.

Each command calls one public function. A mistake of the user's ends in one line on standard error and exit code 2;
anything else that goes wrong is ours and keeps its traceback. Imports of the library stand inside the commands, so that
`fedrec --help` answers at once.
"""

from __future__ import annotations

import inspect
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import rich.progress
import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from fedrec import __version__
from fedrec.errors import FedrecError

if TYPE_CHECKING:
    from rich.table import Table

    from fedrec.experiment import Step

MISTAKE = 2  # the exit code of a user's mistake
INTERRUPTED = 130  # of Ctrl-C, as shells have it: 128 + SIGINT

app = typer.Typer(
    name="fedrec",
    help="Private, federated, graph-based recommendation: experiments whose numbers can be believed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Data sets: what there is, fetching, describing.", no_args_is_help=True)
app.add_typer(data_app, name="data")

out = Console()
err = Console(stderr=True)


def main() -> None:
    """Run the command line on the arguments of the process."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1  # --debug may stand anywhere
    sys.path.insert(0, "")  # a method of one's own, "my_module:MyMethod", is found where the command is run
    try:
        app(["--debug", *arguments] if debug else arguments, prog_name="fedrec")
    except FedrecError as error:
        if debug:
            raise
        _say(" ".join(str(error).split()))  # one line, whatever a message quotes
        sys.exit(MISTAKE)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedrec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and more log lines.")] = False,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO if debug else logging.WARNING, format="%(name)s: %(message)s"
    )


ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The experiment, a TOML file.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that 'fedrec run' wrote.")]


@app.command()
def run(
    config: ConfigFile,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a value: arms.federated.method.rounds=20. Repeatable."
        ),
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write; runs/<name>-<utc time> by default.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="What federated arms run on; overrides engine.kind.")
    ] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", help="Nodes of that engine; overrides engine.nodes.")] = None,
) -> None:
    """Run an experiment, and show what came of it."""
    from fedrec.experiment import default_folder, read_config
    from fedrec.experiment import run as run_experiment

    overrides = list(set_ or [])
    overrides += [f"engine.kind={engine}"] if engine is not None else []
    overrides += [f"engine.nodes={nodes}"] if nodes is not None else []
    experiment = read_config(config, overrides)
    folder = out_folder or default_folder(experiment)
    with _interruptible(folder), _progress() as progress:
        run_experiment(experiment, folder, progress)
    _show(folder)


@app.command()
def resume(folder: RunFolder) -> None:
    """Finish a run that was interrupted; it ends in the same numbers as if it had not been."""
    from fedrec.experiment import resume as resume_run

    with _interruptible(folder), _progress() as progress:
        resume_run(folder, progress)
    _show(folder)


@app.command()
def report(folder: RunFolder) -> None:
    """Write report.html of a finished run again, and show its table."""
    _show(folder)


@app.command()
def compare(folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs.")]) -> None:
    """Show the arms of several runs in one table."""
    from fedrec.report import comparison_table

    _print(comparison_table(folders))


class Sort(StrEnum):
    """What `fedrec list` can list."""

    methods = "methods"
    metrics = "metrics"
    datasets = "datasets"


@app.command("list")
def list_(sort: Sort) -> None:
    """List what a configuration can name."""
    rows = {Sort.methods: _methods, Sort.metrics: _metrics, Sort.datasets: _datasets}[sort]()
    width = max(len(name) for name, _ in rows)
    for name, description in rows:
        typer.echo(f"{name:<{width}}  {description}")


def _methods() -> list[tuple[str, str]]:
    from fedrec.experiment import method_class, methods

    return [(kind, _first_line(method_class(kind))) for kind in methods()]


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _metrics() -> list[tuple[str, str]]:
    from fedrec.evaluation import METRICS

    return [(name, f"{metric.orientation} {metric.formula}") for name, metric in METRICS.items()]


def _datasets() -> list[tuple[str, str]]:
    from fedrec.data import DATASETS

    return [(name, dataset.description) for name, dataset in DATASETS.items()]


def _show(folder: Path) -> None:
    """The table of a finished run, its guarantees, and where its report is."""
    from fedrec.experiment import RunDirectory
    from fedrec.report import summary_table, write_report

    page = write_report(folder)
    _print(summary_table(folder))
    for arm, found in RunDirectory(folder).summary["arms"].items():
        if found["guarantee"]:  # no epsilon without what it depends on
            out.print(
                f"{arm}: {found['guarantee']['words']}", markup=False, highlight=False, soft_wrap=not out.is_terminal
            )
    typer.echo(f"report: {page}")


def _print(table: Table) -> None:
    """A table as wide as the terminal; in a file, as wide as it wants to be."""
    if out.is_terminal:
        out.print(table)
    else:
        wide = Console(width=1000)
        wide.print(table, width=wide.measure(table).maximum)


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    """Ctrl-C says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        begun = (folder / "config.toml").exists()
        _say(f"interrupted; finish it with: fedrec resume {folder}" if begun else "interrupted; nothing was written")
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _progress() -> Iterator[Callable[[Step], None]]:
    """Bars on a terminal, a line now and then elsewhere."""
    if not err.is_terminal:
        yield _Lines().show
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[best]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with rich.progress.Progress(*columns, console=err) as display:
        yield _Bars(display).show


class _Bars:
    """One bar for the run, and one below it for the arm and seed at work."""

    def __init__(self, display: rich.progress.Progress) -> None:
        self._display = display
        self._job = 0
        self._whole = display.add_task("all arms and seeds", total=None, best="")
        self._part = display.add_task("", total=None, best="", visible=False)

    def show(self, step: Step) -> None:
        if step.job != self._job:
            self._job = step.job
            self._display.update(self._whole, completed=step.job - 1, total=step.jobs)
            self._display.reset(self._part, description=f"{step.arm}, seed {step.seed}", best="", visible=True)
        self._display.update(self._part, completed=step.done, total=step.planned or None, best=_best(step))


class _Lines:
    """A line when an arm begins, and at most one every `SECONDS` after that."""

    SECONDS = 20.0

    def __init__(self) -> None:
        self._last = 0.0

    def show(self, step: Step) -> None:
        now = time.monotonic()
        if step.done == 0:
            _say(f"[{step.job}/{step.jobs}] {step.arm}, seed {step.seed}")
        elif now - self._last > self.SECONDS:
            _say(f"[{step.job}/{step.jobs}] {step.arm}, seed {step.seed}: {step.done}/{step.planned} {_best(step)}")
        else:
            return
        self._last = now


def _best(step: Step) -> str:
    return "" if step.best is None else f"validation {step.metric} {step.best:.4f}"


def _say(line: str) -> None:
    """One line on standard error, as it is: no wrapping, no markup."""
    err.print(f"fedrec: {line}", markup=False, highlight=False, soft_wrap=True)


data_help = "A data set's name, or the path of a file or folder of one's own."


@data_app.command("list")
def data_list() -> None:
    """List the data sets that can be named."""
    list_(Sort.datasets)


@data_app.command("get")
def data_get(name: Annotated[str, typer.Argument(metavar="NAME", help="A data set's name.")]) -> None:
    """Fetch a data set, unless it is there already, and say where it is."""
    from fedrec.data import fetch

    typer.echo(fetch(name))


@data_app.command("describe")
def data_describe(names: Annotated[list[str], typer.Argument(metavar="NAME|PATH...", help=data_help)]) -> None:
    """Describe data sets as graphs: size, degrees, components, communities."""


if __name__ == "__main__":
    main()
