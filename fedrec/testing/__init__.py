"""The contracts as executable checks, for our methods and for a researcher's own."""

from fedrec.testing.canary import Canary, check_no_leak
from fedrec.testing.checks import CHECKS
from fedrec.testing.method import check_method
from fedrec.testing.recommender import check_recommender
from fedrec.testing.recommender_checks import RECOMMENDER_CHECKS
from fedrec.testing.report import CheckReport, Finding

__all__ = [
    "CHECKS",
    "RECOMMENDER_CHECKS",
    "Canary",
    "CheckReport",
    "Finding",
    "check_method",
    "check_no_leak",
    "check_recommender",
]
