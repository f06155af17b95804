"""The contracts as executable checks, for our methods and for a researcher's own."""

from fedrec.testing.canary import Canary, check_no_leak
from fedrec.testing.checks import CHECKS
from fedrec.testing.method import Finding, MethodReport, check_method

__all__ = ["CHECKS", "Canary", "Finding", "MethodReport", "check_method", "check_no_leak"]
