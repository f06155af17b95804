"""Do what was asked: fit every arm with every seed, test it once, and put the results together.

Whatever can be wrong is found before the run directory is made. From then on each arm and seed is a piece of work that
is either finished or done again from its checkpoint, so that a run killed at any moment is finished by `resume` with
the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fedrec.data import Interactions, LoadedData, Split, load_split
from fedrec.errors import ConfigError, FedrecError
from fedrec.evaluation import Evaluation, Validator, evaluate, make_validator
from fedrec.experiment import manifest
from fedrec.experiment.arms import ArmConfig
from fedrec.experiment.config import ExperimentConfig
from fedrec.experiment.fitting import Told, build_arm, fit_arm
from fedrec.experiment.search import Search
from fedrec.experiment.store import ArmDirectory, Chosen, History, Result, RunDirectory, write_atomically, write_json
from fedrec.experiment.summary import GROUP, write_tables
from fedrec.experiment.trials import TrialLog
from fedrec.experiment.tuning import Tuned, tune
from fedrec.federated import FederatedRecommender
from fedrec.recommenders import Training


@dataclass(frozen=True)
class Step:
    """How far a run is.

    Attributes:
        arm, seed: what is being fitted.
        job, jobs: its number, from 1, among all trials, and arms and seeds.
        done, planned: epochs or rounds; early stopping may end before all are done.
        best: the best value of the validation metric so far, if there is one.
        metric: its name.
        trial: its number, from 0, if settings are tried; None when they are settled.
    """

    arm: str
    seed: int
    job: int
    jobs: int
    done: int
    planned: int
    best: float | None
    metric: str
    trial: int | None = None


Progress = Callable[[Step], None]


def _silent(step: Step) -> None:
    """Shows nothing."""


def default_folder(config: ExperimentConfig) -> Path:
    """Where a run is written if nothing else is said: `runs/<name>-<utc time>`."""
    return Path("runs") / f"{config.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def run(config: ExperimentConfig, out: Path | None = None, progress: Progress = _silent) -> Path:
    """Run an experiment.

    Args:
        config: what was asked.
        out: the folder to write, new or empty; `default_folder` if None.
        progress: is told of every epoch or round.

    Returns:
        The folder.

    Raises:
        FedrecError: if the configuration, the data or the folder is unfit; nothing is written then.
        ModelError: if an arm diverged; what was finished before stays, and the run can be resumed.
    """
    directory = RunDirectory(out or default_folder(config))
    directory.require_free()
    data = _prepare(config)
    facts = manifest.first_manifest(config, data)
    with directory.locked():
        directory.begin(config, facts, data.split)
        _finish(directory, config, data.split, progress)
    return directory.path


def resume(run: Path, progress: Progress = _silent) -> Path:
    """Finish a run that was interrupted; one that is finished already is left as it is.

    Raises:
        RunError: if the folder holds no run, or its data or configuration changed since it began.
    """
    directory = RunDirectory(run)
    config = directory.config
    if directory.finished:
        return run
    data = _prepare(config)
    with directory.locked():
        facts = directory.manifest
        manifest.require_unchanged(facts, run, (run / "config.toml").read_text(), data)
        facts["resumed_at"].append(manifest.now())
        write_json(run / "manifest.json", facts)
        _finish(directory, config, data.split, progress)
    return run


def _prepare(config: ExperimentConfig) -> LoadedData:
    """Load the data, and find what is wrong with any arm or with the evaluation before anything is written.

    A random split is drawn from the first seed and serves all seeds, so that arms and seeds are compared on the very
    same users and items.
    """
    _try_device(config.engine.device)
    data = load_split(config.data, config.seeds[0])
    make_validator(data.split, config.evaluation, config.seeds[0])
    _try_evaluation(data.split, config)
    if config.tune is not None and not len(data.split.valid):
        raise ConfigError(
            "tune: the split has no validation part to choose by; give it one, as data.split.valid or valid_share, "
            "or remove [tune]"
        )
    for arm in config.arms:
        with _naming(f"arms.{arm.name}"):
            _check(arm, config, data.split.train)
    for name, search in config.searches().items():
        (arm,) = (arm for arm in config.arms if arm.name == name)
        for key, space in search.spaces.items():
            for end in space.ends():
                with _naming(f"arms.{name}.tune.space.{key}, at {end}"):
                    _check(arm.with_settings({key: end}), config, data.split.train)
    return data


def _check(arm: ArmConfig, config: ExperimentConfig, train: Interactions) -> None:
    """Whether an arm can be trained, as far as can be said beforehand."""
    recommender = build_arm(arm, config.engine)
    if isinstance(recommender, FederatedRecommender):
        recommender.check(train)


@contextmanager
def _naming(place: str) -> Iterator[None]:
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


def _finish(directory: RunDirectory, config: ExperimentConfig, split: Split, progress: Progress) -> None:
    """Do what is not done yet; call it with the folder locked.

    Every choice is made before the first arm is tested.
    """
    searches = config.searches()
    trials = sum(search.length for search in searches.values())
    jobs = trials + len(config.arms) * len(config.seeds)
    first = Step("", config.tuning_seeds[0], 0, jobs, 0, 0, None, config.evaluation.metric)
    found = _tune(directory, config, searches, split, first, progress)
    tuned = config.tuned({arm: of_arm.chosen.settings for arm, of_arm in found.items()})
    if found:
        write_atomically(directory.path / "tuned.toml", tuned.to_toml())
    for number, (arm, seed) in enumerate(itertools.product(tuned.arms, tuned.seeds), start=trials + 1):
        folder = directory.arm(arm.name, seed)
        if not folder.finished:
            told = replace(first, arm=arm.name, seed=seed, job=number)
            with _naming(f"arms.{arm.name}, seed {seed}"):
                _fit_and_test(arm, seed, tuned, split, folder, told, progress)
    write_tables(directory, tuned, {arm: of_arm.as_dict(config.evaluation.metric) for arm, of_arm in found.items()})
    facts = directory.manifest
    facts |= {"finished": True, "finished_at": manifest.now(), "peak_memory_mb": manifest.peak_memory_mb()}
    write_json(directory.path / "manifest.json", facts)


def _tune(
    directory: RunDirectory,
    config: ExperimentConfig,
    searches: Mapping[str, Search],
    split: Split,
    first: Step,
    progress: Progress,
) -> dict[str, Tuned]:
    """Search the settings of each arm that is tuned. Trials are handed train and validators, and never the split."""
    validators: dict[int, Validator] = {}
    for seed in config.tuning_seeds:
        validator = make_validator(split, config.evaluation, seed)
        if validator is not None:
            validators[seed] = validator
    found: dict[str, Tuned] = {}
    before = 0
    for arm in config.arms:
        if arm.name not in searches:
            continue
        log = TrialLog(directory.trials(arm.name))
        told = replace(first, arm=arm.name, job=before + 1)
        with _naming(f"arms.{arm.name}, tuning"):
            found[arm.name] = tune(
                arm, searches[arm.name], split.train, validators, config.engine, log, _telling(progress, told)
            )
        before += searches[arm.name].length
    return found


def _telling(progress: Progress, first: Step) -> Callable[[int], Told]:
    """What tells of each trial, by its number; `first` is the step of the first one."""

    def begin(number: int) -> Told:
        step = replace(first, job=first.job + number, trial=number)
        progress(step)
        return lambda done, planned, best: progress(replace(step, done=done, planned=planned, best=best))

    return begin


def _fit_and_test(
    arm: ArmConfig,
    seed: int,
    config: ExperimentConfig,
    split: Split,
    folder: ArmDirectory,
    told: Step,
    progress: Progress,
) -> None:
    """Fit an arm with a seed, test it once, and keep what it came to."""
    progress(told)

    def tell(done: int, planned: int, best: float | None) -> None:
        progress(replace(told, done=done, planned=planned, best=best))

    chosen, tested = None, split
    if split.refitted is not None:
        tested = split.refitted
        if arm.privacy is None:  # nothing is chosen for a private arm, and two fits would be two releases
            chosen = folder.chosen() or _choose(arm, seed, config, split, folder, tell)
    fit = fit_arm(
        arm,
        seed,
        config.engine,
        tested.train,
        validator=make_validator(tested, config.evaluation, seed),
        checkpoints=folder.checkpoints(),
        told=tell,
        steps=chosen.steps if chosen else None,
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
    folder.write(
        result, model=fit.recommender.tensors(), topk=_topk(found, split.test), per_user=_per_user(found, split.test)
    )


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
