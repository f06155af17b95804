"""`check_method`: the contract of a federated method as executable checks, in the spirit of scikit-learn's.

    from fedrec.testing import check_method
    check_method(MyMethod(MyConfig(dim=8)))

Each check is a function of its own whose name and first line say what is promised; its message says what broke and how
to mend it. A method that passes may be batched, dealt to any nodes, clipped, interrupted and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal

from fedrec.components import Config
from fedrec.errors import ConfigError, ModelError, did_you_mean
from fedrec.federated import FederatedMethod
from fedrec.testing.checks import CHECKS, rounds_run
from fedrec.testing.report import CheckReport, Finding
from fedrec.testing.trial import Trial


def check_method(
    method: FederatedMethod | type[Any] | Callable[[], FederatedMethod],
    config: Config | None = None,
    *,
    skip: Collection[str] = (),
    on_fail: Literal["raise", "report"] = "raise",
) -> CheckReport:
    """Run every check on a method.

    Args:
        method: a method; or its class, which is built with `config` or its defaults; or a function that makes one. The
            population has 24 users and 30 items, so take small settings: a second or two is usual.
        config: settings for a class.
        skip: names of checks that do not apply.
        on_fail: "raise", or "report" to get a report with failures in it.

    Returns:
        Every check and what it found.

    Raises:
        ModelError: that names every check which failed, and why.
        ConfigError: if the method cannot be built, or `skip` names no check.
    """
    for name in skip:
        if name not in CHECKS:
            raise ConfigError(f"check_method: skip = '{name}' is no check; {did_you_mean(name, CHECKS)}")
    trial = Trial(_builder(method, config))
    trial.build().start(trial.federation())  # settings that do not fit are the caller's mistake, and no finding
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        if name in skip:
            continue
        findings.append(Finding(name, _problem(check, trial)))
        if findings[-1].problem and check is rounds_run:
            break  # all others compare with this run
    report = CheckReport(tuple(findings))
    if on_fail == "raise":
        report.raise_if_failed()
    return report


def _builder(method: Any, config: Config | None) -> Callable[[], FederatedMethod]:
    if isinstance(method, type):
        settings = config or method.config_class()  # type: ignore[attr-defined]
        return lambda: method(settings)
    if config is not None:
        raise ConfigError("check_method: config goes with a class; build the method with it, or give the class")
    if hasattr(method, "round"):
        return lambda: type(method)(method.config)
    return method  # type: ignore[no-any-return]


def _problem(check: Callable[[Trial], None], trial: Trial) -> str:
    try:
        check(trial)
    except Exception as error:  # whatever somebody's method raises is a finding
        return str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
    return ""
