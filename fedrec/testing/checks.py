"""What a federated method promises, one check a promise: `check_method` runs them all.

A check raises ModelError with what broke and how to mend it, and returns nothing otherwise.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.errors import ModelError
from fedrec.federated import QUERIES, Devices, build_query
from fedrec.privacy import Clip, Schedule
from fedrec.recommenders.recommender import Scorer, Tensors
from fedrec.streams import Streams
from fedrec.testing.canary import check_no_leak
from fedrec.testing.nodes import ONE_BY_ONE, Asked, Recorder
from fedrec.testing.trial import (
    N_ITEMS,
    N_USERS,
    Outcome,
    Trial,
    WatchedStreams,
    difference,
    on_devices,
    one_round,
    population,
    remembered,
    require_same,
    scores,
)

ROUNDING = 1e-9  # double precision leaves about 1e-13 after five rounds
CANARIES = 40  # users trained alone: a leak that ranks held-out items first is 11 deviations from chance
CANARY_ROUNDS = 8


def rounds_run(trial: Trial) -> None:
    """A few rounds run, every answer is accepted, and the server's state is finite and left as it was given."""
    recorder = Recorder(trial.engine())
    method = trial.build()
    state = method.start(trial.federation())
    before = _copies(state)
    try:
        one_round(method, state, recorder, 1)
    finally:
        for asked in recorder.asked:
            _require_accepted(asked)
    _require_untouched(
        before, state, "round() changed the state that it was given; return a new mapping of new tensors"
    )
    for asked in trial.whole.asked:
        _require_accepted(asked)
    for name, tensor in trial.whole.state.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"server state '{name}' is not finite after {trial.rounds} rounds; lower a rate")


def scores_fit(trial: Trial) -> None:
    """Scores are [users, items], finite, the same twice and in any company, and change nothing."""
    method, engine = trial.build(), trial.engine()
    outcome = trial.run(engine, method=method)
    if outcome.scores.shape != (N_USERS, N_ITEMS):
        raise ModelError(f"scores have shape {tuple(outcome.scores.shape)}; score all {N_ITEMS} items for each user")
    if not torch.isfinite(outcome.scores).all():
        raise ModelError("a score is not finite; it could not be ranked")
    if outcome.scores.requires_grad:
        raise ModelError("scores carry a gradient; compute them without, or detach them")
    cohort, private = on_devices(method, outcome.state, engine)
    given = {**outcome.state, **private.dense, **{name: rows.value for name, rows in private.ragged.items()}}
    before = _copies(given)
    again = method.score(outcome.state, cohort, private)
    _require_untouched(before, given, "score() changed what it was given; compute new tensors")
    some = torch.arange(1, N_USERS, 5)
    apart = max(
        difference(outcome.scores, again), difference(outcome.scores[some], scores(method, outcome.state, engine, some))
    )
    if apart > ROUNDING:
        raise ModelError(
            f"a user's scores change by {apart:.2g} when asked again or with fewer other users; score() must treat "
            "users alone and keep nothing"
        )


def one_user_equals_batched(trial: Trial) -> None:
    """Users one at a time and all in one batch train the same model."""
    alone = trial.run(trial.engine(chunk_bytes=ONE_BY_ONE))
    why = (
        "one user at a time trains another model than one batch; contribute() must treat users alone: sum by "
        "cohort.owner, draw by cohort.keys"
    )
    require_same(trial.whole, alone, within=ROUNDING, why=why)


def any_dealing_to_nodes(trial: Trial) -> None:
    """However users are dealt to nodes, the sums are the same."""
    deal = torch.randperm(N_USERS, generator=Streams(0).generator("deal"))
    dealt = trial.run(trial.engine(parts=[deal[:1], deal[1:8], deal[8:]]))
    why = (
        "dealing users to three nodes trains another model; a user may know nothing of its node: neither positions "
        "nor the cohort's size"
    )
    require_same(trial.whole, dealt, within=ROUNDING, why=why)


def order_of_users_is_moot(trial: Trial) -> None:
    """The order of users changes nothing."""
    order = torch.randperm(N_USERS, generator=Streams(1).generator("order"))
    why = "the order of users changes the model; key every draw by cohort.keys, never by position"
    require_same(trial.whole, trial.run(trial.engine(parts=[order])), within=ROUNDING, why=why)


def clip_bounds_influence(trial: Trial) -> None:
    """Adding or removing one user moves the clipped sums of a query by at most the clip, repeated rows included."""
    asked = [one for one in trial.whole.asked if one.round <= 2]
    users = [2, 4, 6, 15, 22]  # large and small histories; 6 has most
    everyone = torch.arange(N_USERS)
    largest = torch.zeros(len(asked))
    for user in users:
        alone = trial.replay(asked, trial.engine(trial.devices.take(everyone[user : user + 1])))
        largest = torch.maximum(largest, torch.tensor([_norm(totals.sums) for totals in alone]))
    clips = [Clip(norm / 2 if norm > 0 else 1.0) for norm in largest.tolist()]
    whole = trial.replay(asked, trial.engine(), clips)
    for user in users:
        without = trial.replay(asked, trial.engine(trial.devices.take(everyone[everyone != user])), clips)
        for one, clip, mine, theirs in zip(asked, clips, whole, without, strict=True):
            influence = _norm({name: total - theirs.sums[name] for name, total in mine.sums.items()})
            if influence > clip.norm * (1 + ROUNDING):
                raise ModelError(
                    f"one user moves the sum of '{one.query.kind}' by {influence / clip.norm:.2f} times its clip; a "
                    "user's answer must not depend on others, and rows that may repeat go through Rows.coalesce"
                )


def users_do_not_mix(trial: Trial) -> None:
    """A user's data reaches no other user's private state or scores, but through what the server sends."""
    changed = 6
    histories = [_history(trial.devices, user) for user in range(N_USERS)]
    histories[changed] = [item for item in range(N_ITEMS) if item not in histories[changed]][:9]
    method, outcome, engine = trial.build(), trial.whole, trial.engine(population(histories))
    trial.replay(outcome.asked, engine)
    others = torch.arange(N_USERS) != changed
    found: dict[str, tuple[Tensor, Tensor]] = {}
    private = remembered(engine, [one.query for one in outcome.asked])
    for name in set(private) & set(outcome.private):
        mine, theirs = outcome.private[name], private[name]
        if name + "/place" in private:
            mine = mine[outcome.private[name + "/place"][:, 0] != changed]
            theirs = theirs[private[name + "/place"][:, 0] != changed]
        elif name.endswith("/place"):
            mine, theirs = mine[mine[:, 0] != changed], theirs[theirs[:, 0] != changed]
        else:
            mine, theirs = mine[others], theirs[others]
        found[f"private state '{name}'"] = (mine, theirs)
    found["scores"] = outcome.scores[others], scores(method, outcome.state, engine)[others]
    for what, (mine, theirs) in found.items():
        apart = difference(mine, theirs)
        if apart > ROUNDING:
            raise ModelError(
                f"changing one user's history changed others' {what} by {apart:.2g}, given the same broadcasts; "
                "reduce by cohort.owner, never over the whole cohort"
            )


def seed_determines_everything(trial: Trial) -> None:
    """The same seed gives the same bytes, whatever else drew random numbers; another seed gives others."""
    watched = WatchedStreams(0)
    before = _global_generators()
    method = trial.build()
    first = trial.run(method=method, streams=watched)
    if _global_generators() != before:
        raise ModelError("a global generator of random numbers was used; draw from the streams that are handed in")
    for what, again in (("a second run", trial.run()), ("the same object again", trial.run(method=method))):
        why = f"{what} with the same seed differs; draw from the streams only, and keep nothing in the object"
        require_same(first, again, within=0.0, why=why)
    other = trial.run(streams=Streams(1))
    begun = [method.start(trial.federation(streams=Streams(seed))) for seed in (0, 1)]
    pairs = [(begun[0], begun[1]), (first.state, other.state), (first.private, other.private)]
    if watched.drawn and all(difference(one[name], two[name]) == 0 for one, two in pairs for name in one):
        raise ModelError(
            f"another seed changes nothing although '{sorted(watched.drawn)[0]}' is drawn; use what is drawn, and take "
            "the streams from the federation and from `draw`"
        )


def replay_steps_nothing_twice(trial: Trial) -> None:
    """A query that is asked twice under one (round, phase) returns the same sums and steps private state once."""
    engine = trial.engine()
    recorder = Recorder(engine, twice=True)
    outcome = trial.run(engine, recorder=recorder)
    if recorder.changed:
        raise ModelError(
            f"asked again, {recorder.changed[0]} changed; contribute() must be a function of its arguments that "
            "changes none of them"
        )
    why = "asking every query twice steps something twice; return new private state instead of changing the old"
    require_same(trial.whole, outcome, within=0.0, why=why)


def held_out_items_stay_at_chance(trial: Trial) -> None:
    """Trained alone on random items, where nothing can be learnt, a user's held-out item ranks at chance."""

    def fit(train: Interactions, _: Interactions) -> Scorer:
        method, engine = trial.build(), trial.engine(Devices.of(train))
        state = method.start(trial.federation(1))
        for number in range(1, min(CANARY_ROUNDS, method.rounds) + 1):
            state = one_round(method, state, engine, number)
        return lambda users: scores(method, state, engine, users)

    check_no_leak(fit, users=CANARIES, n_items=N_ITEMS)


def empty_rounds_are_survived(trial: Trial) -> None:
    """A round in which nobody answers leaves the state as it was, and sums of noise alone leave it finite."""
    method, nobody = trial.build(), trial.engine(rate=1e-12)
    state = method.start(trial.federation())
    before = _copies(state)
    after = one_round(method, state, nobody, 1)
    why = "a round that nobody answered changed the server's state; let NobodyAnswered pass"
    _require_untouched(before, after, why)
    if not torch.isfinite(scores(method, after, nobody)).all():
        raise ModelError("scores after an empty first round are not finite; give start() all that score() needs")
    again = one_round(method, after, trial.engine(), 2)
    noise = one_round(method, method.start(trial.federation()), Recorder(nobody, noised=True), 1)
    for what, found in (("after an empty round", again), ("from an empty sum under a guarantee", noise)):
        for name, tensor in found.items():
            if not torch.isfinite(tensor).all():
                raise ModelError(f"server state '{name}' is not finite {what}; divide by ask.expected, guard inverses")


def odd_users_are_survived(trial: Trial) -> None:
    """A user without items and one with the whole catalogue neither stop a round nor spoil it."""
    histories = [_history(trial.devices, user) for user in range(N_USERS)]
    histories[3], histories[17] = [], list(range(N_ITEMS))
    outcome = trial.run(trial.engine(population(histories)))
    refused: Counter[str] = Counter()
    for asked in outcome.asked:
        refused.update(asked.totals.refused)
    bad = [name for name, tensor in outcome.state.items() if not torch.isfinite(tensor).all()]
    if refused or bad or not torch.isfinite(outcome.scores).all():
        what = f"answers refused ({', '.join(refused)})" if refused else f"{', '.join(bad) or 'scores'} not finite"
        raise ModelError(f"users with no item or with all of them: {what}; clamp degrees, and add nothing for them")


def releases_are_complete(trial: Trial) -> None:
    """`releases()` lists every query that is asked, in the rounds in which it is asked, and no other."""
    method, engine = trial.build(), trial.engine()
    last = method.rounds
    rounds = sorted({*range(1, trial.rounds + 1), max(1, last - 1), last})
    asked = trial.run(engine, method=method, rounds=rounds).asked
    made = Counter((one.query.kind, one.round) for one in asked)
    ledger = Schedule(method.releases()).ledger(Schedule(method.releases()).noise_multipliers(1.0))
    planned = Counter((release.query, release.draw) for release in ledger.releases)
    for (kind, number), times in planned.items():
        if number > last or (number in rounds and made[kind, number] != times):
            raise ModelError(
                f"releases() plans '{kind}' {times} times in round {number} of {last}, where it is asked "
                f"{made[kind, number]} times; correct draws, first, every or per_draw"
            )
    for kind, number in made:
        if (kind, number) not in planned:
            raise ModelError(f"'{kind}' is asked in round {number} and releases() does not plan it; list it")


def resumes_from_a_checkpoint(trial: Trial) -> None:
    """A run that continues from a checkpoint in the middle ends in the same bytes as an uninterrupted one."""
    half, engine = trial.rounds // 2, trial.engine()
    begun = trial.run(engine, rounds=range(1, half + 1))
    saved = [_through_a_file(tensors) for tensors in (begun.state, engine.tensors())]
    fresh = trial.engine()
    fresh.restore(saved[1])
    ended = trial.run(fresh, state=saved[0], rounds=range(half + 1, trial.rounds + 1))
    kept = {name: values for name, values in trial.whole.private.items() if name in ended.private}
    whole = Outcome(trial.whole.state, kept, trial.whole.scores, ())
    why = "a run resumed in the middle ends elsewhere; keep everything in the state and in private state, none in self"
    require_same(whole, ended, within=0.0, why=why)


def queries_survive_their_message(trial: Trial) -> None:
    """Every query is on the allow-list and, rebuilt from its broadcast and settings, gets the same answer."""
    first = [one for one in trial.whole.asked if one.round == 1]
    rebuilt = []
    for one in first:
        query = one.query
        if QUERIES.get(query.kind) is not type(query):
            raise ModelError(f"query '{query.kind}' is not on the allow-list, so no node would answer it; see `allow`")
        plain = {name: value for name, value in query.settings.items() if type(value) in (bool, int, float, str)}
        if plain.keys() != query.settings.keys():
            odd = sorted(query.settings.keys() - plain.keys())[0]
            raise ModelError(f"query '{query.kind}': setting '{odd}' cannot be sent; use numbers, words and tensors")
        rebuilt.append(Asked(build_query(query.kind, query.broadcast, plain), one.round, one.phase, one.totals))
    for one, totals in zip(first, trial.replay(rebuilt, trial.engine()), strict=True):
        if any(not torch.equal(total, totals.sums[name]) for name, total in one.totals.sums.items()):
            raise ModelError(f"query '{one.query.kind}', rebuilt from its message, gets another answer")


def _norm(sums: Mapping[str, Tensor]) -> float:
    """Euclidean norm of all tables together."""
    return float(torch.stack([total.double().square().sum() for total in sums.values()]).sum().sqrt())


def _history(devices: Devices, user: int) -> list[int]:
    items: list[int] = devices.items[devices.indptr[user] : devices.indptr[user + 1]].tolist()
    return items


def _require_accepted(asked: Asked) -> None:
    for reason, count in asked.totals.refused.items():
        raise ModelError(
            f"{count} of {N_USERS} answers to '{asked.query.kind}' were refused ({reason}); build rows from raw "
            "gradients with Rows.coalesce, and answer every table of the query"
        )


def _copies(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _require_untouched(before: Tensors, after: Tensors, why: str) -> None:
    for name, tensor in before.items():
        if name not in after or not torch.equal(tensor, after[name]):
            raise ModelError(f"'{name}': {why}")


def _global_generators() -> tuple[bytes, bytes, int]:
    """The state of every generator that is not handed in."""
    legacy = np.random.get_state(legacy=False)
    return torch.get_rng_state().numpy().tobytes(), repr(legacy).encode(), hash(random.getstate())


def _through_a_file(tensors: Tensors) -> dict[str, Tensor]:
    """As a checkpoint writes and reads them."""
    own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    loaded: dict[str, Tensor] = safetensors.torch.load(safetensors.torch.save(own))
    return loaded


CHECKS: dict[str, Callable[[Trial], None]] = {
    check.__name__: check
    for check in (
        rounds_run,
        scores_fit,
        one_user_equals_batched,
        any_dealing_to_nodes,
        order_of_users_is_moot,
        clip_bounds_influence,
        users_do_not_mix,
        seed_determines_everything,
        replay_steps_nothing_twice,
        held_out_items_stay_at_chance,
        empty_rounds_are_survived,
        odd_users_are_survived,
        releases_are_complete,
        resumes_from_a_checkpoint,
        queries_survive_their_message,
    )
}
"""Every check, by name, in the order in which they run."""
