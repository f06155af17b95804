"""`check_recommender`: what a recommender promises as executable checks, in the spirit of scikit-learn's.

    from fedrec.testing import check_recommender
    check_recommender(MyRecommender, MyConfig(dim=8))

Each check is a function whose name and first line say what is promised; its message says what broke and how to mend it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal

from fedrec.components import Config
from fedrec.errors import ConfigError, ModelError, did_you_mean
from fedrec.recommenders import Recommender
from fedrec.testing.recommender_checks import RECOMMENDER_CHECKS
from fedrec.testing.recommender_trial import RecommenderTrial
from fedrec.testing.report import CheckReport, Finding


def check_recommender(
    recommender: type[Any] | Callable[[], Recommender],
    config: Config | None = None,
    *,
    skip: Collection[str] = (),
    on_fail: Literal["raise", "report"] = "raise",
) -> CheckReport:
    """Run every check on a recommender.

    Args:
        recommender: its class, which is built with `config` or its defaults; or a function that makes one. It is fitted
            some fifty times, on 60 users and 40 items at most, so take small settings: a second or two is usual.
        config: settings for a class.
        skip: names of checks that do not apply: "beats_chance" to a model that is there to be beaten,
            "validates_the_model_itself" to one whose parts are validated each for itself.
        on_fail: "raise", or "report" to get a report with failures in it.

    Returns:
        Every check and what it found.

    Raises:
        ModelError: that names every check which failed, and why.
        ConfigError: if the recommender cannot be built, or `skip` names no check.
    """
    for name in skip:
        if name not in RECOMMENDER_CHECKS:
            known = did_you_mean(name, RECOMMENDER_CHECKS)
            raise ConfigError(f"check_recommender: skip = '{name}' is no check; {known}")
    trial = _trial(recommender, config)
    trial.build()  # settings that do not fit are the caller's mistake, and no finding
    checks = {name: check for name, check in RECOMMENDER_CHECKS.items() if name not in skip}
    findings = tuple(Finding(name, _problem(check, trial)) for name, check in checks.items())
    report = CheckReport(findings)
    if on_fail == "raise":
        report.raise_if_failed()
    return report


def _trial(recommender: type[Any] | Callable[[], Recommender], config: Config | None) -> RecommenderTrial:
    if isinstance(recommender, type):
        model: Any = recommender
        settings = config or model.config_class()
        return RecommenderTrial(lambda: model(settings), settings)
    if config is not None:
        raise ConfigError("check_recommender: config goes with a class; build with it, or give the class")
    return RecommenderTrial(recommender, None)


def _problem(check: Callable[[RecommenderTrial], None], trial: RecommenderTrial) -> str:
    try:
        check(trial)
    except Exception as error:  # whatever somebody's recommender raises is a finding
        return str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
    return ""
