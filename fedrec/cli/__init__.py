"""The command line: `fedrec run`, `resume`, `compare`, `report`, `data` and `list`.

Each command calls one public function. A mistake of the user's ends in one line on standard error and exit code 2;
anything else that goes wrong is ours and keeps its traceback. Imports of the library stand inside the commands, so that
`fedrec --help` answers at once.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from fedrec import __version__
from fedrec.cli import data
from fedrec.cli.console import following, progress, say, show_paragraph, show_table
from fedrec.errors import ConfigError, FedrecError

if TYPE_CHECKING:
    from fedrec.experiment import ExperimentConfig

__all__ = ["app", "main"]

MISTAKE = 2  # the exit code of a user's mistake
INTERRUPTED = 130  # of Ctrl-C, as shells have it: 128 + SIGINT

app = typer.Typer(
    name="fedrec",
    help="Private, federated, graph-based recommendation: experiments whose numbers can be believed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line on the arguments of the process."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1  # --debug may stand anywhere
    # Threads that wait must not spin: on cores shared with other work, rounds of small sums took 20 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.path.append(str(Path.cwd()))  # a method of one's own, "my_module:MyMethod", is found where the command is run
    try:
        code = app(["--debug", *arguments] if debug else arguments, prog_name="fedrec", standalone_mode=False)
        sys.exit(code or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        say(_usage(error))
        sys.exit(MISTAKE)
    except FedrecError as error:
        if debug:
            raise
        say(" ".join(str(error).split()))  # one line, whatever a message quotes
        sys.exit(MISTAKE)


def _usage(error: click.UsageError) -> str:
    """What is wrong with the arguments, in one line."""
    said = re.sub(r"( Did you mean '[^']*'\?)\1", r"\1", error.format_message())  # typer and click both suggest
    command = error.ctx.command_path if error.ctx else "fedrec"
    return f"{' '.join(said.split()).rstrip('.')}; see: {command} --help"


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
    superlink: Annotated[
        str | None,
        typer.Option("--superlink", metavar="ADDRESS", help="SuperLink of engine flower; overrides engine.superlink."),
    ] = None,
) -> None:
    """Run an experiment, and show what came of it."""
    from fedrec.experiment import default_folder, read_config
    from fedrec.experiment import run as run_experiment

    overrides = list(set_ or [])
    overrides += [f"engine.kind={engine}"] if engine is not None else []
    overrides += [f"engine.nodes={nodes}"] if nodes is not None else []
    overrides += [f"engine.superlink='{superlink}'"] if superlink is not None else []
    experiment = read_config(config, overrides)
    kind = experiment.engine.kind
    if nodes is not None and kind not in ("ray", "flower"):
        raise ConfigError(
            f"engine.nodes = {nodes}: engine '{kind}' has no nodes; give --engine ray or flower, or no --nodes"
        )
    if superlink is not None and kind != "flower":
        raise ConfigError(f"engine.superlink = '{superlink}': engine '{kind}' asks no SuperLink; give --engine flower")
    folder = out_folder or default_folder(experiment)
    if experiment.engine.kind == "flower":
        _submit(experiment, folder)
        return
    with _interruptible(folder), progress() as told:
        run_experiment(experiment, folder, told)
    _show(folder)


@app.command()
def resume(folder: RunFolder) -> None:
    """Finish a run that was interrupted; it ends in the same numbers as if it had not been."""
    from fedrec.experiment import RunDirectory
    from fedrec.experiment import resume as resume_run

    experiment = RunDirectory(folder).config
    if experiment.engine.kind == "flower":
        _submit(experiment, folder)
        return
    with _interruptible(folder), progress() as told:
        resume_run(folder, told)
    _show(folder)


def _submit(experiment: ExperimentConfig, folder: Path) -> None:
    """Give an experiment to a SuperLink, and show what came of it."""
    from fedrec.experiment import RunDirectory
    from fedrec.flower.submit import submit
    from fedrec.report import summary_table

    if experiment.engine.superlink is None:
        raise ConfigError("engine.kind = 'flower' and no SuperLink; give its address with --superlink host:port")
    if not RunDirectory(folder).finished:
        with following() as tell:
            submit(experiment.to_toml(), experiment.engine.superlink, folder, tell)
    show_table(summary_table(folder))
    _show_guarantees(folder)


@app.command()
def report(folder: RunFolder) -> None:
    """Write report.html of a finished run again, and show its table."""
    _show(folder)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs.")],
    across_data: Annotated[
        bool,
        typer.Option("--across-data", help="Also runs on other data or splits; their numbers answer other questions."),
    ] = False,
) -> None:
    """Show the arms of several runs in one table."""
    from fedrec.report import comparison_table

    show_table(comparison_table(folders, across_data=across_data))
    for folder in folders:
        _show_guarantees(folder)


class Sort(StrEnum):
    """What `fedrec list` can list."""

    attacks = "attacks"
    methods = "methods"
    metrics = "metrics"
    datasets = "datasets"


@app.command("list")
def list_(sort: Sort) -> None:
    """List what a configuration can name."""
    found = {Sort.attacks: _attacks, Sort.methods: _methods, Sort.metrics: _metrics, Sort.datasets: _datasets}
    rows = found[sort]()
    width = max(len(name) for name, _ in rows)
    for name, description in rows:
        typer.echo(f"{name:<{width}}  {description}")


def _methods() -> list[tuple[str, str]]:
    from fedrec.experiment import method_class, methods

    return [(kind, _first_line(method_class(kind))) for kind in methods()]


def _attacks() -> list[tuple[str, str]]:
    from fedrec.attacks import ATTACKS

    return [(kind, _first_line(ATTACKS[kind])) for kind in ATTACKS]


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _metrics() -> list[tuple[str, str]]:
    from fedrec.evaluation import METRICS

    return [
        (name, f"{metric.orientation}  {metric.formula}; {metric.range}; {metric.source}")
        for name, metric in METRICS.items()
    ]


def _datasets() -> list[tuple[str, str]]:
    from fedrec.data import DATASETS

    return [(name, dataset.description) for name, dataset in DATASETS.items()]


def _show(folder: Path) -> None:
    """The table of a finished run, its guarantees, and where its report is."""
    from fedrec.report import attack_summaries, summary_table, write_report

    page = write_report(folder)
    show_table(summary_table(folder))
    for table in attack_summaries(folder):
        show_table(table)
    _show_guarantees(folder)
    typer.echo(f"report: {page}")


def _show_guarantees(folder: Path) -> None:
    """No epsilon without what it depends on."""
    from fedrec.experiment import RunDirectory

    for arm, found in RunDirectory(folder).summary["arms"].items():
        if found["guarantee"]:
            show_paragraph(f"{arm}: {found['guarantee']['words']}")


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    """Ctrl-C says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        begun = (folder / "config.toml").exists()
        say(f"interrupted; finish it with: fedrec resume {folder}" if begun else "interrupted; nothing was written")
        raise typer.Exit(INTERRUPTED) from None
