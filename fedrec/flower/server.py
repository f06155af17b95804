"""`server_app`: the server of a federation as Flower's ServerApp."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrec.flower.client import Values

Serve = Callable[[Grid, Values], None]
"""(the grid, the run's configuration) -> what the run does."""


def server_app(serve: Serve) -> ServerApp:
    """The ServerApp that runs a function."""
    app = ServerApp()

    def main(grid: Grid, context: Context) -> None:
        serve(grid, context.run_config)

    app.main()(main)
    return app
