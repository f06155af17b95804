"""Do what was asked: fit every arm with every seed, test it once, and put the results together.

Whatever can be wrong is found before the run directory is made. From then on each arm and seed is a piece of work that
is either finished or done again from its checkpoint, so that a run killed at any moment is finished by `resume` with
the same bytes as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fedrec.data import Interactions, LoadedData, Split, load_split
from fedrec.errors import ConfigError, FedrecError
from fedrec.evaluation import Evaluation, evaluate, make_validator
from fedrec.experiment import manifest
from fedrec.experiment.config import ArmConfig, ExperimentConfig, method_class
from fedrec.experiment.store import ArmDirectory, Result, RunDirectory, write_json
from fedrec.experiment.summary import GROUP, write_tables
from fedrec.federated import FederatedRecommender
from fedrec.recommenders import Disclosure, Recommender, Training


@dataclass(frozen=True)
class Step:
    """How far a run is.

    Attributes:
        arm, seed: what is being fitted.
        job, jobs: its number, from 1, among all arms and seeds.
        done, planned: epochs or rounds; early stopping may end before all are done.
        best: the best value of the validation metric so far, if there is one.
        metric: its name.
    """

    arm: str
    seed: int
    job: int
    jobs: int
    done: int
    planned: int
    best: float | None
    metric: str


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


def build_arm(arm: ArmConfig, config: ExperimentConfig) -> Recommender:
    """The recommender of an arm, not yet fitted."""
    method = method_class(arm.method.kind)(arm.method.settings)
    if not arm.method.federated:
        central: Recommender = method
        return central
    return FederatedRecommender(
        method,
        population=arm.population,
        participation=arm.participation,
        privacy=arm.privacy,
        engine=config.engine,
    )


def _prepare(config: ExperimentConfig) -> LoadedData:
    """Load the data, and find what is wrong with any arm or with the evaluation before anything is written.

    A random split is drawn from the first seed and serves all seeds, so that arms and seeds are compared on the very
    same users and items.
    """
    _try_device(config.engine.device)
    data = load_split(config.data, config.seeds[0])
    make_validator(data.split, config.evaluation, config.seeds[0])
    _try_evaluation(data.split, config)
    for arm in config.arms:
        with _naming(f"arms.{arm.name}"):
            recommender = build_arm(arm, config)
            if isinstance(recommender, FederatedRecommender):
                recommender.check(data.split.train)
    return data


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
    """Do what is not done yet; call it with the folder locked."""
    jobs = [(arm, seed) for arm in config.arms for seed in config.seeds]
    for number, (arm, seed) in enumerate(jobs, start=1):
        folder = directory.arm(arm.name, seed)
        if not folder.finished:
            told = Step(arm.name, seed, number, len(jobs), 0, 0, None, config.evaluation.metric)
            with _naming(f"arms.{arm.name}, seed {seed}"):
                _fit_and_test(arm, seed, config, split, folder, told, progress)
    write_tables(directory, config)
    facts = directory.manifest
    facts |= {"finished": True, "finished_at": manifest.now(), "peak_memory_mb": manifest.peak_memory_mb()}
    write_json(directory.path / "manifest.json", facts)


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
    history: list[tuple[int, str, float, Disclosure]] = []
    checkpoints = folder.checkpoints()
    validator = make_validator(split, config.evaluation, seed)
    progress(told)
    recommender = build_arm(arm, config)
    recommender.fit(
        split.train,
        Training(
            seed=seed,
            arm=arm.name,
            device=config.engine.device,
            validator=validator,
            log=lambda step, name, value, disclosure: history.append((step, name, float(value), disclosure)),
            progress=lambda done, planned, best: progress(replace(told, done=done, planned=planned, best=best)),
            checkpoints=checkpoints,
        ),
    )
    seconds = checkpoints.seconds
    found = evaluate(recommender.score, split, config.evaluation, seed)
    metrics = [("test", row.metric, row.group, row.value) for row in found.rows]
    if validator is not None:
        metrics.insert(0, ("valid", config.evaluation.metric, "", validator(recommender.score)))
    federated = recommender if isinstance(recommender, FederatedRecommender) else None
    guarantee = federated.guarantee if federated else None
    result = Result(
        metrics=metrics,
        history=history,
        guarantee=None if guarantee is None else guarantee.as_dict(),
        communication=asdict(federated.communication) if federated else None,
        seconds=seconds,
    )
    folder.write(
        result, model=recommender.tensors(), topk=_topk(found, split.test), per_user=_per_user(found, split.test)
    )


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
