"""What an arm comes to with a seed: fitted, tested once, and written down."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fedrec.data import Interactions, Split
from fedrec.evaluation import Evaluation, evaluate, make_validator
from fedrec.experiment.arms import ArmConfig
from fedrec.experiment.config import ExperimentConfig
from fedrec.experiment.fitting import Told, fit_arm
from fedrec.experiment.store import ArmDirectory, Chosen, History, Result
from fedrec.experiment.summary import GROUP
from fedrec.experiment.tracking import Logged, nobody
from fedrec.federated import FederatedRecommender


def fit_and_test(
    arm: ArmConfig,
    seed: int,
    config: ExperimentConfig,
    split: Split,
    folder: ArmDirectory,
    told: Told,
    logged: Logged = nobody,
) -> None:
    """Fit an arm with a seed, test it once, and keep what it came to.

    Args:
        arm, seed: what is fitted.
        config: of the whole experiment.
        split: what it is fitted and tested on.
        folder: to write.
        told: of each epoch or round.
        logged: of each value of the fit that is tested, and in the end of the test's.
    """
    chosen, tested = None, split
    if split.refitted is not None:
        tested = split.refitted
        if arm.privacy is None:  # nothing is chosen for a private arm, and two fits would be two releases
            chosen = folder.chosen() or _choose(arm, seed, config, split, folder, told)
    fit = fit_arm(
        arm,
        seed,
        config.engine,
        tested.train,
        validator=make_validator(tested, config.evaluation, seed),
        checkpoints=folder.checkpoints(),
        told=told,
        steps=chosen.steps if chosen else None,
        logged=logged,
    )
    rates = bool(getattr(fit.recommender, "rates", False))
    found = evaluate(fit.recommender.score, tested, config.evaluation, seed, rates=rates)
    metrics = [("test", row.metric, row.group, row.value) for row in found.rows]
    value = chosen.value if chosen else fit.value
    if value is not None:
        metrics.insert(0, ("valid", config.evaluation.metric, "", value))
    guarantee = fit.recommender.guarantee if isinstance(fit.recommender, FederatedRecommender) else None
    result = Result(
        metrics=metrics,
        history=[*chosen.history, *_of_refit(fit.history)] if chosen else fit.history,
        guarantee=None if guarantee is None else guarantee.as_dict(),
        communication=_together(chosen.communication if chosen else None, fit.communication),
        seconds=fit.seconds + (chosen.seconds if chosen else 0.0),
    )
    tell_test(logged, result)
    folder.write(
        result, model=fit.recommender.tensors(), topk=_topk(found, split.test), per_user=_per_user(found, split.test)
    )


def tell_test(logged: Logged, result: Result) -> None:
    """Tell the test's overall values, at the last step of the fit."""
    last = max((step for step, *_ in result.history), default=0)
    for part, metric, group, value in result.metrics:
        if part == "test" and not group:
            logged(last, f"test/{metric}", value)


def _choose(
    arm: ArmConfig, seed: int, config: ExperimentConfig, split: Split, folder: ArmDirectory, told: Told
) -> Chosen:
    """Fit on train alone, to learn from validation how many epochs the fit on the whole is to have."""
    validator = make_validator(split, config.evaluation, seed)
    checkpoints = folder.checkpoints("choosing")
    fit = fit_arm(arm, seed, config.engine, split.train, validator=validator, checkpoints=checkpoints, told=told)
    chosen = Chosen(fit.value, fit.best_step, fit.history, fit.communication, fit.seconds)
    folder.write_chosen(chosen)
    return chosen


def _of_refit(history: History) -> History:
    """Rows of the second fit, under names of their own."""
    return [(step, f"refit-{name}", value, disclosure) for step, name, value, disclosure in history]


def _together(first: Mapping[str, float] | None, second: Mapping[str, float] | None) -> dict[str, float] | None:
    """What two fits cost, if there were two."""
    if second is None:
        return None
    return {name: cost + (first[name] if first else 0) for name, cost in second.items()}


def _topk(found: Evaluation, part: Interactions) -> pd.DataFrame:
    """The lists with original ids: columns user, rank (from 1), item, score."""
    lists = found.lists
    k = lists.items.shape[1]
    table = pd.DataFrame(
        {
            "user": part.users.decode(lists.users.repeat_interleave(k).numpy()),
            "rank": np.tile(np.arange(1, k + 1), len(lists.users)),
            "item": part.items.decode(lists.items.flatten().numpy()),
            "score": lists.scores.flatten().numpy(),
        }
    )
    return table[(lists.items.flatten() >= 0).numpy()]  # some users have fewer than k candidates


def _per_user(found: Evaluation, part: Interactions) -> pd.DataFrame:
    """Each tested user's metrics and groups, with original ids; an unknown group is missing.

    A column of groups is categorical: its labels, in the order that they are shown in.
    """
    values = {name: value.numpy() for name, value in found.per_user.items()}
    groups = {
        f"{GROUP}{grouping.name}": pd.Categorical.from_codes(grouping.codes.numpy(), pd.Index(grouping.labels))
        for grouping in found.groups
    }
    return pd.DataFrame({"user": part.users.decode(found.users.numpy()), **values, **groups})
