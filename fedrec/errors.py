"""What can go wrong, said so that the reader knows what to do next.

Every message gives the value, the place and the remedy. The command line shows it as one line and leaves with exit
code 2. Assertions are for our own mistakes and never check input.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedrecError(Exception):
    """A mistake in what fedrec was given; the parent of every error that it raises on purpose."""


class ConfigError(FedrecError):
    """A configuration, an argument or a component's setting is wrong."""


class DataError(FedrecError):
    """A file or an array does not hold what it should."""


class ModelError(FedrecError):
    """A model broke its contract: non-finite scores, a wrong shape, scoring before fitting."""


class PrivacyError(FedrecError):
    """A privacy setting is unsound, or a release is not in the schedule that was accounted for."""


class RunError(FedrecError):
    """A run directory cannot be written, read or resumed."""


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """The tail of an error message: the nearest valid option, or all of them when none is near."""
    valid = sorted(options)
    near = difflib.get_close_matches(value, valid, n=1)
    return f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(valid)}"
