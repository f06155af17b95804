"""The small population of the federated tests."""

from tests.federated.conftest import devices, train

__all__ = ["devices", "train"]
