"""fedrec: research on private, federated, graph-based recommendation, with numbers that can be believed."""

__version__ = "0.1.0"
