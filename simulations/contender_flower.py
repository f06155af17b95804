"""The contender on Flower's Ray simulation. Actors import this module, and read the users' data once each."""

from __future__ import annotations

import logging
import sys
import time
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from torch import Tensor

from fedrec.federated import Devices, Rows, State
from fedrec.flower import query_from_record, query_to_record
from simulations.contenders import STREAMS, Problem, Rounds

clients = ClientApp()


@lru_cache
def _devices(folder: str) -> Devices:
    return Problem.load(Path(folder)).devices


@clients.train()  # type: ignore[untyped-decorator]  # flwr is not typed
def answer(message: Message, context: Context) -> Message:
    """A node's answer: the rows of the item table that its user changed. The user's vector stays in the context."""
    query, problem = query_from_record(message.content), message.content["problem"]
    round, devices = int(problem["round"]), _devices(str(problem["folder"]))
    cohort = devices.cohort(torch.tensor([context.node_config["partition-id"]]))
    if "memory" in context.state:
        state = State({"user": torch.from_numpy(context.state["memory"]["user"].numpy().copy())})
    else:
        state = query.initial(cohort, STREAMS)
    contributions, state = query.contribute(cohort, state, STREAMS.at(round))
    if round > 0:  # the warm-up is not remembered
        context.state["memory"] = ArrayRecord({"user": Array(state.dense["user"].numpy())})
    rows = contributions["items"]
    assert isinstance(rows, Rows)
    changed = ArrayRecord({"index": Array(rows.index.int().numpy()), "value": Array(rows.value.numpy())})
    return Message(RecordDict({"rows": changed}), reply_to=message)


def flower(folder: Path, rounds: int, cores: int) -> Rounds:
    """Rounds of Flower's Ray simulation, one user a node and one actor a core.

    Raises:
        RuntimeError: if a node fails.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)  # it says at length that `run_simulation` is deprecated
    problem = Problem.load(folder)
    seconds: list[float] = []
    sums: list[Tensor] = []
    server = ServerApp()

    @server.main()  # type: ignore[untyped-decorator]
    def serve(grid: Grid, _context: Context) -> None:
        nodes: list[int] = []
        while len(nodes) < len(problem.devices):  # nodes register while the server has begun
            time.sleep(0.1)
            nodes = list(grid.get_node_ids())
        for round in range(rounds + 1):
            asked = nodes if round else nodes[: 8 * cores]  # round 0 warms the actors up
            began = time.perf_counter()
            record = query_to_record(problem.query)  # once; every message refers to it
            record["problem"] = ConfigRecord({"folder": str(folder), "round": round})
            total = torch.zeros_like(problem.query.items)
            for reply in grid.send_and_receive([Message(record, node, "train") for node in asked]):
                if reply.has_error():
                    raise RuntimeError(f"a node failed: {reply.error.reason}")
                rows = reply.content["rows"]
                index, value = (torch.from_numpy(rows[name].numpy().copy()) for name in ("index", "value"))
                total.index_add_(0, index, value)
            if round:
                seconds.append(time.perf_counter() - began)
                sums.append(total)
                print(f"flower: round {round} of {rounds} took {seconds[-1]:.1f} s", file=sys.stderr, flush=True)

    run_simulation(
        server_app=server,
        client_app=clients,
        num_supernodes=len(problem.devices),
        backend_config={
            "init_args": {"num_cpus": cores, "logging_level": "ERROR", "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    if len(sums) < rounds:
        raise RuntimeError(f"flower ended after {len(sums)} of {rounds} rounds; its log above says why")
    return seconds, sums
