"""The contracts as executable checks, for our methods and for a researcher's own."""

from fedrec.testing.canary import Canary, check_no_leak

__all__ = ["Canary", "check_no_leak"]
