"""`fedrec data`: what data sets there are, fetching them, describing any data as a graph, dealing it to nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fedrec.cli.console import say, show_table
from fedrec.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from fedrec.data import DataConfig
    from fedrec.graph import GraphSummary

app = typer.Typer(help="Data sets: what there is, fetching, describing, dealing to nodes.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """List the data sets that can be named."""
    from fedrec.data import DATASETS

    for name, dataset in DATASETS.items():
        typer.echo(f"{name}  {dataset.description}")


@app.command("get")
def get(name: Annotated[str, typer.Argument(metavar="NAME", help="A data set's name.")]) -> None:
    """Fetch a data set, unless it is there already, and say where it is."""
    from fedrec.data import fetch

    typer.echo(fetch(name))


@app.command("describe")
def describe(
    sources: Annotated[
        list[str], typer.Argument(metavar="NAME|PATH...", help="Data sets' names; files or folders of one's own.")
    ],
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="user=NAME", help="What files call user, item, rating or time. Repeatable."),
    ] = None,
) -> None:
    """Describe data sets as graphs: size, degrees, concentration, components, communities."""
    from fedrec.data import load_interactions
    from fedrec.graph import describe as summary_of

    found: dict[str, GraphSummary] = {}
    for source in sources:
        interactions, cleaning = load_interactions(_data_config(source, column or []))
        found[source] = summary_of(interactions)
        for note in (*cleaning.steps, *found[source].notes):
            say(str(note))
    show_table(_description(found))


@app.command("shard")
def shard_(
    source: Annotated[
        str, typer.Argument(metavar="NAME|PATH", help="A data set's name; a file or folder of one's own.")
    ],
    nodes: Annotated[int, typer.Option("--nodes", help="How many nodes the users are dealt to.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write; it must not exist.")],
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="user=NAME", help="What files call user, item, rating or time. Repeatable."),
    ] = None,
) -> None:
    """Write what each node of a federation is given: its own users' data, and the public catalogue of items."""
    from fedrec.data import load_interactions, shard

    interactions, cleaning = load_interactions(_data_config(source, column or []))
    for note in cleaning.steps:
        say(str(note))
    for node in shard(interactions, nodes, out):
        typer.echo(node)


def _data_config(source: str, columns: list[str]) -> DataConfig:
    """A data set's name, or a path and its columns, as a [data] section."""
    from fedrec.components import build_config
    from fedrec.data import DATASETS, DataConfig

    named = source in DATASETS or source == "synthetic"
    if not named and not Path(source).exists():
        raise DataError(f"{source}: neither a file, a folder nor a data set; {did_you_mean(source, DATASETS)}")
    section: dict[str, Any] = {"name": source} if named else {"path": source}
    if columns:
        section["columns"] = dict(column.partition("=")[::2] for column in columns)
    return build_config(DataConfig, section, "data")


def _description(found: dict[str, GraphSummary]) -> Table:
    """One column a data set."""
    rows: dict[str, Callable[[GraphSummary], str]] = {
        "users": lambda graph: f"{graph.users:,}",
        "items": lambda graph: f"{graph.items:,}",
        "interactions": lambda graph: f"{graph.interactions:,}",
        "density": lambda graph: f"{graph.density:.3%}",
        "interactions of a user": lambda graph: _quantiles(graph.user_degrees),
        "interactions of an item": lambda graph: _quantiles(graph.item_degrees),
        "share of the most popular tenth": lambda graph: f"{graph.top_share:.1%}",
        "components": lambda graph: f"{graph.components:,}, the largest {graph.largest_component:.1%}",
        "communities": lambda graph: f"{len(graph.communities):,}, modularity {graph.modularity:.2f}",
    }
    table = Table("", *found)
    for label, said in rows.items():
        table.add_row(label, *map(said, found.values()))
    return table


def _quantiles(degrees: tuple[tuple[float, float], ...]) -> str:
    values = dict(degrees)
    return f"{values[0.0]:,.0f} to {values[1.0]:,.0f}, median {values[0.5]:,.0f}"
