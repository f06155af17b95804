"""`server`: the ServerApp that runs an experiment over the nodes of a SuperLink, or of Flower's own simulation.

The run's configuration holds the experiment as `fedrec.flower.node_app` says, and `out`, the folder that is written.
"""

from __future__ import annotations

import logging
from pathlib import Path

from fedrec.errors import FedrecError
from fedrec.experiment.config import parse_config
from fedrec.experiment.deployed import run_deployed
from fedrec.experiment.runner import default_folder
from fedrec.flower import Grid, Values, server_app
from fedrec.flower.internals import keep_to_a_line
from fedrec.flower.node_app import experiment_text

log = logging.getLogger("fedrec")


def serve(grid: Grid, run_config: Values) -> None:
    """Run the experiment of a run over a grid, and write its folder.

    Progress, warnings and the line that says why a run ended go to standard error, which Flower streams to whoever
    submitted the run.
    """
    _speak()
    keep_to_a_line(FedrecError)
    try:
        text, overrides = experiment_text(run_config)
        config = parse_config(text, "experiment", overrides)
        out = str(run_config.get("out") or "")
        run_deployed(config, grid, Path(out) if out else default_folder(config))
    except FedrecError as error:
        log.error("%s", error)
        raise  # for Flower, which calls the run failed


def _speak() -> None:
    if not log.handlers:
        speaker = logging.StreamHandler()
        speaker.setFormatter(logging.Formatter("fedrec: %(message)s"))
        log.addHandler(speaker)
        log.setLevel(logging.INFO)


server = server_app(serve)
