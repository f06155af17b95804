"""Find whatever can be wrong with an experiment before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from fedrec.data import Interactions, LoadedData, Split, load_split
from fedrec.errors import ConfigError, FedrecError
from fedrec.evaluation import evaluate, make_validator
from fedrec.experiment.arms import ArmConfig
from fedrec.experiment.attacking import target_of
from fedrec.experiment.attacks import plan
from fedrec.experiment.config import ExperimentConfig
from fedrec.experiment.fitting import build_arm
from fedrec.experiment.tracking import require_tracking
from fedrec.federated import FederatedRecommender
from fedrec.federated.method import NO_STOPPING
from fedrec.recommenders import Training


def prepare(config: ExperimentConfig) -> LoadedData:
    """Load the data, and find what is wrong with any arm or with the evaluation before anything is written.

    A random split is drawn from the first seed and serves all seeds, so that arms and seeds are compared on the very
    same users and items.
    """
    _try_device(config.engine.device)
    require_tracking(config.tracking)
    data = load_split(config.data, config.seeds[0])
    make_validator(data.split, config.evaluation, config.seeds[0])
    _try_evaluation(data.split, config)
    if config.tune is not None and not len(data.split.valid):
        raise ConfigError(
            "tune: the split has no validation part to choose by; give it one, as data.split.valid or valid_share, "
            "or remove [tune]"
        )
    for arm in config.arms:
        with naming(f"arms.{arm.name}"):
            _check(arm, config, data.split.train)
            if data.split.refitted is not None:
                _check_refit(arm)
    for attack, arm in plan(config.attacks, config.arms):
        with naming(f"attacks.{attack.name} on {arm.name}"):
            attack.build().check(target_of(arm, config.engine, data.split, config.seeds[0]))
    for name, search in config.searches().items():
        (arm,) = (arm for arm in config.arms if arm.name == name)
        for key, space in search.spaces.items():
            for end in space.ends():
                with naming(f"arms.{name}.tune.space.{key}, at {end}"):
                    _check(arm.with_settings({key: end}), config, data.split.train)
    return data


def _check(arm: ArmConfig, config: ExperimentConfig, train: Interactions) -> None:
    """Whether an arm can be trained, as far as can be said beforehand."""
    recommender = build_arm(arm, config.engine)
    if isinstance(recommender, FederatedRecommender):
        recommender.check(train)


def _check_refit(arm: ArmConfig) -> None:
    """A refit is told one number of steps, and the members of a hybrid would each need their own."""
    members = getattr(arm.method.settings, "members", ())
    stops = [m.kind for m in members if getattr(m.settings, "stopping", NO_STOPPING).patience > 0]
    if stops:
        raise ConfigError(
            f"the members {', '.join(stops)} stop early, and the fit on all of train would not know when; set their "
            "stopping.patience = 0, or data.split.refit = false"
        )


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Errors say where they come from."""
    try:
        yield
    except FedrecError as error:
        raise type(error)(f"{place}: {error}") from error


def _try_device(device: str) -> None:
    """Put a number on the device."""
    try:
        torch.zeros((), device=Training(device=device).torch_device)
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a device that this machine has not
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"engine.device = '{device}': {reason}; use 'auto' or 'cpu'") from error


def _try_evaluation(split: Split, config: ExperimentConfig) -> None:
    """Test a model that knows nothing on one user: a wrong column or length of list shows now, not after training."""
    warm = np.flatnonzero(split.train.user_degrees[split.test.user])
    one_user = replace(split, test=split.test.take(warm[:1]))
    in_order = torch.arange(split.train.n_items, dtype=torch.float64)
    evaluate(lambda users: in_order.expand(len(users), -1), one_user, config.evaluation, config.seeds[0])
