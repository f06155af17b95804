"""Flower: queries and sums as messages. Nothing outside this package imports `flwr`."""

from flwr.serverapp import Grid

from fedrec.flower.client import Values, client_app
from fedrec.flower.engine import FlowerEngine
from fedrec.flower.holdings import fingerprint, load_devices, save_devices
from fedrec.flower.in_process import InProcessGrid
from fedrec.flower.masked_engine import MaskedEngine
from fedrec.flower.node import Holding, Node
from fedrec.flower.post import Post, Roll, greet
from fedrec.flower.records import query_from_record, query_to_record
from fedrec.flower.secure_messages import Panel
from fedrec.flower.server import server_app

__all__ = [
    "FlowerEngine",
    "Grid",
    "Holding",
    "InProcessGrid",
    "MaskedEngine",
    "Node",
    "Panel",
    "Post",
    "Roll",
    "Values",
    "client_app",
    "fingerprint",
    "greet",
    "load_devices",
    "query_from_record",
    "query_to_record",
    "save_devices",
    "server_app",
]
