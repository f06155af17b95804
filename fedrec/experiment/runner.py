"""Do what was asked: fit every arm with every seed, test it once, and put the results together.

Whatever can be wrong is found before the run directory is made. From then on each arm and seed, and each attack on it,
is a piece of work that is either finished or done again, an arm from its checkpoint, so that a run killed at any moment
is finished by `resume` with the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from fedrec.data import Split
from fedrec.evaluation import Validator, make_validator
from fedrec.experiment import manifest
from fedrec.experiment.attacking import findings_text, target_of
from fedrec.experiment.attacks import plan
from fedrec.experiment.config import ExperimentConfig
from fedrec.experiment.fitting import Told
from fedrec.experiment.outcome import fit_and_test
from fedrec.experiment.preparation import naming, prepare
from fedrec.experiment.search import Search
from fedrec.experiment.store import RunDirectory, write_atomically, write_json
from fedrec.experiment.summary import write_tables
from fedrec.experiment.tracking import tracking
from fedrec.experiment.trials import TrialLog
from fedrec.experiment.tuning import Tuned, tune


@dataclass(frozen=True)
class Step:
    """How far a run is.

    Attributes:
        arm, seed: what is being fitted, or attacked.
        job, jobs: its number, from 1, among all trials, and arms and seeds, and attacks.
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


def silent(step: Step) -> None:
    """Shows nothing."""


def default_folder(config: ExperimentConfig) -> Path:
    """Where a run is written if nothing else is said: `runs/<name>-<utc time>`."""
    return Path("runs") / f"{config.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def run(config: ExperimentConfig, out: Path | None = None, progress: Progress = silent) -> Path:
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
    data = prepare(config)
    facts = manifest.first_manifest(config, data)
    with directory.locked():
        directory.begin(config, facts, data.split)
        _finish(directory, config, data.split, progress)
    return directory.path


def resume(run: Path, progress: Progress = silent) -> Path:
    """Finish a run that was interrupted; one that is finished already is left as it is.

    Raises:
        RunError: if the folder holds no run, or its data or configuration changed since it began.
    """
    directory = RunDirectory(run)
    config = directory.config
    if directory.finished:
        return run
    data = prepare(config)
    with directory.locked():
        facts = directory.manifest
        manifest.require_unchanged(facts, run, (run / "config.toml").read_text(), data)
        facts["resumed_at"].append(manifest.now())
        write_json(run / "manifest.json", facts)
        _finish(directory, config, data.split, progress)
    return run


def _finish(directory: RunDirectory, config: ExperimentConfig, split: Split, progress: Progress) -> None:
    """Do what is not done yet; call it with the folder locked.

    Every choice is made before the first arm is tested.
    """
    searches = config.searches()
    trials = sum(search.length for search in searches.values())
    fits = len(config.arms) * len(config.seeds)
    jobs = trials + fits + sum(len(attack.on) for attack in config.attacks) * len(config.seeds)
    first = Step("", config.seeds[0], 0, jobs, 0, 0, None, config.evaluation.metric)
    found = _tune(directory, config, searches, split, first, progress)
    tuned = config.tuned({arm: of_arm.chosen.settings for arm, of_arm in found.items()})
    if found:
        write_atomically(directory.path / "tuned.toml", tuned.to_toml())
    for number, (arm, seed) in enumerate(itertools.product(tuned.arms, tuned.seeds), start=trials + 1):
        folder = directory.arm(arm.name, seed)
        if not folder.finished:
            told = telling(progress, replace(first, arm=arm.name, seed=seed, job=number))
            with (
                naming(f"arms.{arm.name}, seed {seed}"),
                tracking(tuned.tracking, directory.path, tuned.name, arm.name, seed) as logged,
            ):
                fit_and_test(arm, seed, tuned, split, folder, told, logged)
    _attack(directory, tuned, split, replace(first, job=trials + fits), progress)
    write_tables(directory, tuned, {arm: of_arm.as_dict(config.evaluation.metric) for arm, of_arm in found.items()})
    write_json(directory.path / "manifest.json", manifest.end(directory.manifest))


def _attack(directory: RunDirectory, config: ExperimentConfig, split: Split, last: Step, progress: Progress) -> None:
    """Attack the arms, with their settings as they were fitted; `last` is the step before the first attack."""
    attacked = itertools.product(plan(config.attacks, config.arms), config.seeds)
    for number, ((attack, arm), seed) in enumerate(attacked, start=last.job + 1):
        path = directory.attack(attack.name, arm.name, seed)
        if not path.exists():
            telling(progress, replace(last, arm=f"{attack.name} on {arm.name}", seed=seed, job=number))
            with naming(f"attacks.{attack.name} on {arm.name}, seed {seed}"):
                findings = attack.build().run(target_of(arm, config.engine, split, seed))
                write_atomically(path, findings_text(findings))


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
    for seed in sorted({seed for search in searches.values() for seed in search.seeds}):
        validator = make_validator(split, config.evaluation, seed)
        if validator is not None:
            validators[seed] = validator
    found: dict[str, Tuned] = {}
    for arm in config.arms:
        if arm.name not in searches:
            continue
        search, before = searches[arm.name], sum(of_arm.search.length for of_arm in found.values())
        log = TrialLog(directory.trials(arm.name))
        told = partial(_telling_trial, progress, replace(first, arm=arm.name, job=before + 1))
        with naming(f"arms.{arm.name}, tuning"):
            found[arm.name] = tune(arm, search, split.train, validators, config.engine, log, told)
    return found


def _telling_trial(progress: Progress, first: Step, number: int) -> Told:
    return telling(progress, replace(first, job=first.job + number, trial=number))


def telling(progress: Progress, step: Step) -> Told:
    """Say that a piece of work begins; what is returned says how far it is."""
    progress(step)
    return lambda done, planned, best: progress(replace(step, done=done, planned=planned, best=best))
