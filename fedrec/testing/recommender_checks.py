"""What a recommender promises, one check a promise: `check_recommender` runs them all.

A check raises ModelError with what broke and how to mend it, and returns nothing otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pydantic
import safetensors.torch
import torch
from torch import Tensor

from fedrec.components import Config, check_spaces
from fedrec.data.interactions import Vocabulary
from fedrec.errors import ModelError
from fedrec.recommenders import FoldIn, Histories, Scorer, folds_in
from fedrec.testing.canary import check_no_leak
from fedrec.testing.recommender_trial import Kept, KilledError, Log, RecommenderTrial, bytes_of, close, planted

_CANARIES = 30  # users trained alone: a leak that ranks held-out items first is 9 deviations from chance
_LEARNS = 4.0  # deviations above chance: chance gets there once in 30,000 data sets


def settings_are_a_frozen_config(trial: RecommenderTrial) -> None:
    """`config_class` is a frozen `Config` that its own TOML gives back, and that allows its whole search space."""
    model = trial.build().config_class
    if not (isinstance(model, type) and issubclass(model, Config)):
        raise ModelError(f"config_class is {model!r}; make it a subclass of fedrec.components.Config")
    if not model.model_config.get("frozen") or model.model_config.get("extra") != "forbid":
        raise ModelError(f"{model.__name__} may change or takes any key; keep the model_config of Config")
    if trial.settings is None:
        return
    dumped = trial.settings.model_dump(mode="json")
    try:
        again = model.model_validate(dumped)
    except pydantic.ValidationError as error:
        raise ModelError(f"{model.__name__} does not take its own dump back: {error.errors()[0]['msg']}") from error
    if again != trial.settings:
        raise ModelError(f"{model.__name__} changes when it is written to a file and read back; use plain fields")
    check_spaces(trial.settings, model.space, "space")


def scores_every_item(trial: RecommenderTrial) -> None:
    """`score` is [users, items] floating point and finite, for users and items without interactions too."""
    n_users, n_items = len(trial.users), trial.data[0].n_items
    if trial.scores.shape != (n_users, n_items):
        raise ModelError(
            f"scores have shape {tuple(trial.scores.shape)}; score all {n_items} items for {n_users} users"
        )
    if not trial.scores.is_floating_point():
        raise ModelError(f"scores are {trial.scores.dtype}; make them floating point")
    finite = torch.isfinite(trial.scores)
    if not finite.all():
        user, item = (~finite).nonzero()[0].tolist()
        known = " without interactions" * (
            trial.data[0].user_degrees[user] == 0 or trial.data[0].item_degrees[item] == 0
        )
        raise ModelError(f"the score of user {user} and item {item}{known} is not finite; it could not be ranked")
    if trial.scores.requires_grad or trial.fitted.score(trial.users[:1]).requires_grad:
        raise ModelError("scores carry a gradient; compute them under torch.no_grad, or detach them")


def refuses_to_score_before_fitting(trial: RecommenderTrial) -> None:
    """`score` and `tensors` raise a ModelError before `fit`."""
    unfitted = trial.build()
    for name, ask in (("score", lambda: unfitted.score(trial.users)), ("tensors", unfitted.tensors)):
        try:
            ask()
        except ModelError:
            continue
        raise ModelError(f"{name} answers before fit; raise a ModelError that says to call fit first")


def scores_alike_in_any_batch(trial: RecommenderTrial) -> None:
    """A user's scores do not depend on who else is asked about, in which order, or how often."""
    mixed = torch.tensor([5, 0, 5, len(trial.users) - 1])
    if trial.fitted.score(torch.zeros(0, dtype=torch.int64)).shape != (0, trial.data[0].n_items):
        raise ModelError("no users should have no rows of scores; let score take an empty batch")
    for users in (mixed, mixed[:1], trial.users.flip(0)):
        found = trial.fitted.score(users).detach().cpu()
        if found.shape != (len(users), trial.data[0].n_items) or not close(found, trial.scores[users]):
            raise ModelError(f"users {users[:4].tolist()} get other scores in another batch; score each user alone")


def scoring_changes_nothing(trial: RecommenderTrial) -> None:
    """Scores are the same the second time, even if the caller wrote into those of the first, and tensors stay."""
    before = bytes_of(trial.fitted.tensors())
    given = trial.fitted.score(trial.users)
    if given.is_contiguous():
        given.fill_(-torch.inf)
    if not torch.equal(trial.fitted.score(trial.users).detach().cpu(), trial.scores):
        raise ModelError("the second call of score differs from the first; return new tensors and change no state")
    if bytes_of(trial.fitted.tensors()) != before:
        raise ModelError("score changed what tensors returns; compute new tensors")


def tensors_can_be_saved(trial: RecommenderTrial) -> None:
    """`tensors` is a mapping of names to finite tensors that safetensors can write."""
    tensors = trial.fitted.tensors()
    if not tensors or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ModelError("tensors must give the fitted model as tensors by name, at least one")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"tensor '{name}' is not finite; training diverged, or it holds what nobody needs")
    safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})


def same_seed_same_bytes(trial: RecommenderTrial) -> None:
    """The same data and seed give the same bytes, whatever state the global generators are in, and leave that alone."""
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = torch.random.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()
    again = trial.fit()
    scores = again.score(trial.users).detach().cpu()
    if before != (torch.random.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()):
        raise ModelError("a global generator was used; draw from fedrec.streams.Streams(training.seed)")
    if not torch.equal(scores, trial.scores) or bytes_of(again.tensors()) != bytes_of(trial.fitted.tensors()):
        raise ModelError("two fits with one seed differ; draw everything from Streams(training.seed)")


def leaves_its_data_alone(trial: RecommenderTrial) -> None:
    """`fit` changes nothing of the training interactions."""
    train, _ = planted()
    trial.fit(train)
    fresh, _ = planted()
    same = train.fingerprint == fresh.fingerprint and all(
        torch.equal(a, b) for a, b in zip(train.csr, fresh.csr, strict=True)
    )
    if not same or not train.item_attributes.equals(fresh.item_attributes):
        raise ModelError("fit changed the training interactions; work on copies")


def codes_are_only_names(trial: RecommenderTrial) -> None:
    """Another order of users and items orders the scores alike: a code is a name, not a number.

    Where another seed gives other scores there is chance in the fit, and codes may decide who gets which; those
    are passed over.
    """
    if not close(trial.fit(seed=1).score(trial.users).detach().cpu(), trial.scores):
        return
    train = trial.data[0]
    generator = torch.Generator().manual_seed(3)
    new_user = torch.randperm(train.n_users, generator=generator)  # old code -> new code
    new_item = torch.randperm(train.n_items, generator=generator)
    users, items = np.argsort(new_user.numpy()), np.argsort(new_item.numpy())
    moved = replace(
        train,
        user=new_user.numpy()[train.user],
        item=new_item.numpy()[train.item],
        users=Vocabulary(tuple(train.users.ids[code] for code in users)),
        items=Vocabulary(tuple(train.items.ids[code] for code in items)),
        user_attributes=train.user_attributes.iloc[users].reset_index(drop=True),
        item_attributes=train.item_attributes.iloc[items].reset_index(drop=True),
    )
    scores = trial.fit(moved).score(new_user).detach().cpu()[:, new_item]
    if not close(scores, trial.scores):
        raise ModelError("scores change with the order of codes; break ties by the keys of ids, not by position")


def learns_from_training_data_alone(trial: RecommenderTrial) -> None:
    """Trained alone on random items a user's held-out item ranks at chance (`check_no_leak`)."""
    check_no_leak(lambda train, _: trial.fit(train).score, users=_CANARIES)


def validates_the_model_itself(trial: RecommenderTrial) -> None:
    """The validator is asked about scores as they would be ranked, and the best model that it saw is the one kept."""
    seen: list[Tensor] = []

    def validator(scorer: Scorer) -> float:
        seen.append(scorer(trial.users).detach().cpu().clone())
        return -abs(len(seen) - 2.0)  # the second look is the best

    kept = trial.fit(validator=validator).score(trial.users).detach().cpu()
    for scores in seen:
        if scores.shape != trial.scores.shape or not torch.isfinite(scores).all():
            raise ModelError("the validator was asked about something that is no scorer of all items")
    if len(seen) > 1 and not close(kept, seen[1]):
        raise ModelError("the model that validated best is not the one kept; train with fedrec.recommenders.train")


def resumes_with_the_same_bytes(trial: RecommenderTrial) -> None:
    """Killed after a step and fitted again, with what it had saved, it ends as if it had not been."""
    steps: list[int] = []
    trial.fit(progress=lambda done, planned, best: steps.append(done))
    for killed in sorted({steps[0], steps[len(steps) // 2]}) if steps else ():
        kept, log = Kept(), Log()

        def die(done: int, _: int, __: float | None, at: int = killed) -> None:
            if done == at:
                raise KilledError

        try:
            trial.fit(progress=die, checkpoints=kept)
        except KilledError:
            pass
        else:
            raise ModelError("progress was not told of the same steps twice; tell it of each step")
        resumed = trial.fit(checkpoints=kept, log=log)
        whole = Log()
        trial.fit(log=whole)
        if bytes_of(resumed.tensors()) != bytes_of(trial.fitted.tensors()):
            raise ModelError(
                f"killed after step {killed} and resumed it differs; checkpoint all that a step depends on"
            )
        if log.rows != whole.rows:
            raise ModelError(f"killed after step {killed} and resumed it logs something else; log what was saved again")


def folds_in_as_it_scores(trial: RecommenderTrial) -> None:
    """Where it says that it folds in: a history scores as its user does, and one without items can be ranked."""
    if not folds_in(trial.fitted):
        return
    model: FoldIn = trial.fitted  # type: ignore[assignment]
    histories = Histories.of(trial.data[0])
    found = model.score_histories(histories).detach().cpu()
    own = torch.zeros(found.shape, dtype=torch.bool)
    own[trial.data[0].user, trial.data[0].item] = True  # never ranked, and a model may treat them as it likes
    if not close(found.masked_fill(own, 0.0), trial.scores.masked_fill(own, 0.0)):
        raise ModelError("folding in a user's items gives other scores than the user has; compute both in one place")
    stranger = Histories(torch.tensor([0, 0, 2]), torch.tensor([1, 4]), histories.n_items)
    if not torch.isfinite(model.score_histories(stranger)).all():
        raise ModelError("a stranger's scores are not finite; without items fall back on popularity")


def beats_chance(trial: RecommenderTrial) -> None:
    """Where there is something to learn, held-out items rank above chance."""
    train, held_out = trial.data
    candidate = torch.ones(trial.scores.shape, dtype=torch.bool)
    for part in (train, held_out):
        candidate[part.user, part.item] = False
    shares = []
    for user, item in zip(held_out.user, held_out.item, strict=True):
        others, own = trial.scores[user][candidate[user]], trial.scores[user, item]
        shares.append(float(((others < own).sum() + 0.5 * (others == own).sum()) / len(others)))
    deviations = (float(np.mean(shares)) - 0.5) * (12 * len(shares)) ** 0.5
    if deviations < _LEARNS:
        raise ModelError(
            f"held-out items rank above {np.mean(shares):.1%} of the others, {deviations:.1f} deviations from chance; "
            "larger scores must mean better items"
        )


RECOMMENDER_CHECKS: Mapping[str, Callable[[RecommenderTrial], None]] = {
    check.__name__: check
    for check in (
        settings_are_a_frozen_config,
        scores_every_item,
        refuses_to_score_before_fitting,
        scores_alike_in_any_batch,
        scoring_changes_nothing,
        tensors_can_be_saved,
        same_seed_same_bytes,
        leaves_its_data_alone,
        codes_are_only_names,
        learns_from_training_data_alone,
        validates_the_model_itself,
        resumes_with_the_same_bytes,
        folds_in_as_it_scores,
        beats_chance,
    )
}
