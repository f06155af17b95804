"""Evaluate: what devices answer adds up to what a simulation measures, and held-out items go nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from fedrec.components import build_config
from fedrec.data import Interactions, Split
from fedrec.errors import ConfigError, DataError, ModelError, PrivacyError
from fedrec.evaluation import EvaluationConfig, Validator, evaluate, make_validator, user_groups
from fedrec.federated import (
    METHODS,
    Ask,
    Cohort,
    Contribution,
    Devices,
    EngineConfig,
    FederatedRecommender,
    Federation,
    HeldOutItems,
    LocalEngine,
    ParticipationConfig,
    PrivateEngine,
    State,
    build_query,
)
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig, Popularity, PopularityConfig
from fedrec.federated.queries import Evaluate, LocalTraining
from fedrec.federated.queries.evaluate import largest_norm
from fedrec.privacy import Gaussian, PlannedRelease, PrivacyConfig, Schedule, SeededNoise
from fedrec.recommenders import Training
from fedrec.recommenders.trainer import Stopping
from fedrec.streams import Streams
from tests.federated.conftest import interactions
from tests.federated.test_recommender import Kept
from tests.testing.variants import FEDERATED

METRICS = ("ndcg@5", "recall@3", "mrr@5-sampled-99")
MEASURED = EvaluationConfig(k=(3, 5), metric="ndcg@5", candidates=("all", "sampled-99"), groups=("gender",))


@pytest.fixture
def split(train: Interactions) -> Split:
    """`train`, a validation part with one or two further items of most users, and a test part that is not looked at."""
    gender = pd.DataFrame({"gender": [("F", "M", None)[code % 3] for code in range(40)]})
    train = replace(train, user_attributes=gender)
    owned, generator = set(zip(train.user.tolist(), train.item.tolist(), strict=True)), np.random.default_rng(0)
    chosen = [
        (user, item)
        for user in range(38)
        for item in generator.permutation(25)[:3].tolist()
        if (user, item) not in owned
    ]
    user, item = (np.array(codes, dtype=np.int64) for codes in zip(*chosen, strict=True))
    valid = replace(train, user=user, item=item)
    return Split(train, valid, train.take(np.zeros(len(train), dtype=np.bool_)))


def dealt(split: Split, **settings: Any) -> Devices:
    groups = {grouping.name: grouping.codes for grouping in user_groups(split.train, ("gender", "activity"))}
    return Devices.of(split.train, held_out={"valid": HeldOutItems.of(split.valid, groups=groups)}, **settings)


def trained(split: Split) -> tuple[EgoLightGCN, dict[str, Tensor], LocalEngine]:
    """A method, a model, and an engine whose users have vectors of their own."""
    method = EgoLightGCN(EgoLightGCNConfig(dim=4))
    state = {"items": torch.randn(25, 4, generator=torch.Generator().manual_seed(0))}
    engine = LocalEngine(dealt(split), Streams(0))
    engine.sum(method.memory(state), round=1)
    return method, state, engine


def test_the_sums_are_those_that_a_simulation_measures(split: Split) -> None:
    method, state, engine = trained(split)
    query = replace(
        Evaluate.of(method, state, "valid", METRICS, seed=3, everyone=True), groups={"gender": 2, "activity": 3}
    )
    found = engine.sum(query, round=1, phase=1).sums["metrics"]

    def score(users: Tensor) -> Tensor:
        return method.score(state, *engine.look(users, method.memory(state)))

    # The same items as a test part. Its sampled candidates are another draw, so that metric is compared below.
    as_test = replace(split, test=split.valid, valid=split.test)
    expected = evaluate(score, as_test, MEASURED, seed=3)
    means = found[:, 1:] / found[:, :1]
    assert found[0, 0] == expected.value("users")
    assert found[:, 0].tolist()[1:3] == [expected.value("users", "gender=F"), expected.value("users", "gender=M")]
    for row, group in ((0, ""), (1, "gender=F"), (2, "gender=M")):
        for column, metric in enumerate(METRICS[:2]):
            assert float(means[row, column]) == pytest.approx(expected.value(metric, group), abs=1e-12)
    assert found[3:, 0].sum() == found[0, 0]  # everyone with a training item is in a tercile
    for column, metric in enumerate(METRICS):
        validator = Validator.of(split, metric, 3)
        assert float(means[0, column]) == pytest.approx(validator(score), abs=1e-12)


@pytest.mark.parametrize(("kind", "settings"), FEDERATED)
def test_every_method_is_measured_on_its_devices(split: Split, kind: str, settings: dict[str, Any]) -> None:
    """Over a message: what a node builds from it scores with the users' own state as the method itself does."""
    method = METHODS[kind](build_config(METHODS[kind].config_class, settings, kind))
    engine = LocalEngine(dealt(split), Streams(0))
    state = method.start(Federation(40, 25, Streams(0)))
    for round in (1, 2):
        state = method.round(state, Ask(engine, round))

    def score(users: Tensor) -> Tensor:
        memory = method.memory(state)
        looked = (engine.devices.cohort(users), State()) if memory is None else engine.look(users, memory)
        return method.score(state, *looked)

    asked = Evaluate.of(method, state, "valid", ["ndcg@5"], 0, everyone=True)
    query = build_query("evaluate", asked.broadcast, asked.settings)
    count, total = engine.sum(query, round=3).sums["metrics"][0]
    assert float(total / count) == pytest.approx(Validator.of(split, "ndcg@5", 0)(score), abs=1e-9)


def test_ties_are_ordered_as_in_a_simulation(split: Split) -> None:
    """Equal scores for everything: only the hash decides, and the number is that of the simulation all the same."""
    method, state = Popularity(PopularityConfig()), {"count": torch.zeros(25, dtype=torch.float64)}
    engine = LocalEngine(dealt(split), Streams(9), chunk_bytes=1)
    values = []
    for seed in (0, 1):
        query = Evaluate.of(method, state, "valid", ["ndcg@5"], seed, everyone=True)
        count, total = engine.sum(query, round=1, phase=seed).sums["metrics"][0]
        values.append(float(total / count))
        validator = make_validator(split, EvaluationConfig(k=(5,), metric="ndcg@5"), seed)
        assert validator is not None
        assert values[-1] == pytest.approx(validator(lambda users: torch.zeros(len(users), 25)), abs=1e-12)
    assert values[0] != values[1]


def test_everyone_is_asked_unless_only_participants_are(split: Split) -> None:
    method, state = Popularity(PopularityConfig()), {"count": torch.arange(25, dtype=torch.float64)}
    engine = LocalEngine(dealt(split), Streams(0), ParticipationConfig(rate=0.3, dropout=0.5))
    query = Evaluate.of(method, state, "valid", ["ndcg@5"], 0, everyone=True)
    assert engine.sum(query, round=1).answered == 40
    assert 0 < engine.sum(replace(query, everyone=False), round=1, phase=1).answered < 20


def test_no_answer_exceeds_the_largest_norm(split: Split) -> None:
    """One user whom the model serves perfectly reaches it; nobody exceeds it. It is the clip of a private look."""
    method, state = Popularity(PopularityConfig()), {"count": torch.zeros(25, dtype=torch.float64)}
    state["count"][int(split.valid.item[0])] = 1.0
    query = Evaluate.of(method, state, "valid", ["hit-rate@5", "mrr@5"], 0, everyone=True)
    query = replace(query, groups={"activity": 3})
    norms = []
    for answer in LocalEngine(dealt(split), Streams(0)).answers(query, round=1):
        norms.append(float(answer.contributions["metrics"].squared_norms(1)) ** 0.5)
    assert max(norms) == pytest.approx(largest_norm(metrics=2, groupings=1))
    assert min(norms) == 0.0  # users without a held-out item answer nothing


def test_held_out_items_are_handed_to_nobody_else(split: Split) -> None:
    seen: list[Cohort] = []

    @dataclass(frozen=True, eq=False)
    class Curious(LocalTraining):
        def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
            seen.append(cohort)
            return super().contribute(cohort, state, draw)

    class CuriousMethod(EgoLightGCN):
        def memory(self, state: Any) -> LocalTraining:
            return Curious(**{**super().memory(state).broadcast, **super().memory(state).settings})  # type: ignore[arg-type]

        def score(self, state: Any, cohort: Cohort, private: State) -> Tensor:
            seen.append(cohort)
            return super().score(state, cohort, private)

    method, state = CuriousMethod(EgoLightGCNConfig(dim=4)), {"items": torch.randn(25, 4)}
    engine = LocalEngine(dealt(split), Streams(0))
    engine.sum(method.memory(state), round=1)
    engine.sum(Evaluate.of(method, state, "valid", METRICS, 0, everyone=True), round=1, phase=1)
    engine.look(torch.arange(40), method.memory(state))
    assert len(seen) >= 2
    assert all(cohort.held_out is None for cohort in seen)


def test_evaluating_steps_no_private_state_and_needs_the_part(split: Split) -> None:
    method, state, engine = trained(split)
    before = engine.look(torch.arange(40), method.memory(state))[1].dense["user"]
    engine.sum(Evaluate.of(method, state, "valid", METRICS, 0, everyone=True), round=1, phase=1)
    assert torch.equal(engine.look(torch.arange(40), method.memory(state))[1].dense["user"], before)
    with pytest.raises(DataError, match=r"hold out \['valid'\] and the query asks for 'test'; deal them that part"):
        engine.sum(Evaluate.of(method, state, "test", METRICS, 0, everyone=True), round=1, phase=2)
    query = replace(Evaluate.of(method, state, "valid", METRICS, 0, everyone=True), groups={"wealth": 2})
    with pytest.raises(DataError, match="know no attribute 'wealth'"):
        engine.sum(query, round=1, phase=2)
    broken = {"items": torch.full((25, 4), torch.nan)}
    with pytest.raises(ModelError, match="NaN or infinite"):
        engine.sum(Evaluate.of(method, broken, "valid", METRICS, 0, everyone=True), round=1, phase=2)


def test_a_message_rebuilds_the_query_and_imports_nothing(split: Split) -> None:
    method, state, engine = trained(split)
    moments = {"items.exp_avg": torch.ones(25, 4), "items.step": torch.ones(())}
    query = replace(Evaluate.of(method, state | moments, "valid", METRICS, 4, everyone=True), groups={"gender": 2})
    assert set(query.broadcast) == {"items"}  # the optimiser's moments stay at the server
    again = build_query("evaluate", query.broadcast, query.settings)
    assert isinstance(again, Evaluate)
    first, second = (engine.sum(one, round=1, phase=1).sums["metrics"] for one in (query, again))
    assert torch.equal(first, second)
    for name, value, message in (
        ("method", "tests.federated.own:Method", "not known to this node"),
        ("config", '{"dims": 4}', "unknown key 'dims'"),
        ("config", "{", "does not fit its definition"),
        ("groups", "[]", "does not fit its definition"),
        ("seed", "x", "does not fit its definition"),
    ):
        with pytest.raises(DataError, match=message):
            build_query("evaluate", query.broadcast, {**query.settings, name: value})

    class Own(Popularity):
        """Not registered."""

    with pytest.raises(ConfigError, match="Own has no method kind, by which another process could know it"):
        _ = replace(query, method=Own(PopularityConfig())).settings


def test_early_stopping_asks_the_devices_and_stops_where_a_simulation_would(split: Split) -> None:
    validator = make_validator(split, EvaluationConfig(k=(5,), metric="ndcg@5"), 0)
    assert validator is not None
    histories: list[list[float]] = []
    fits = []
    for asked in (validator, lambda score: validator(score)):
        seen: list[float] = []
        recommender = FederatedRecommender(
            EgoLightGCN(EgoLightGCNConfig(dim=4, rounds=12, stopping=Stopping(every=2, patience=2))),
            participation=ParticipationConfig(rate=0.6),
        )

        def log(step: int, name: str, value: float, disclosure: str, seen: list[float] = seen) -> None:
            seen += [value] if name == "validation" else []

        recommender.fit(split.train, Training(device="cpu", validator=asked, log=log))
        histories.append(seen)
        fits.append(recommender)
    assert len(histories[0]) > 2
    assert histories[0] == pytest.approx(histories[1], abs=1e-12)
    assert torch.equal(fits[0].tensors()["server/items"], fits[1].tensors()["server/items"])
    looks, rounds = len(histories[0]), fits[0].communication.rounds
    asked_of_all = (fits[0].communication.mb_down_per_user - fits[1].communication.mb_down_per_user) * 40 * 1e6
    assert asked_of_all == pytest.approx(looks * 40 * 25 * 4 * 4)  # the model, to everyone, at each look
    assert rounds == fits[1].communication.rounds


def test_without_early_stopping_no_device_is_dealt_a_held_out_item(split: Split) -> None:
    validator = make_validator(split, EvaluationConfig(k=(5,), metric="ndcg@5"), 0)
    method = EgoLightGCN(EgoLightGCNConfig(dim=4, rounds=2, stopping=Stopping(every=1, patience=0)))
    recommender = FederatedRecommender(method)
    recommender.fit(split.train, Training(device="cpu", validator=validator))
    population = recommender._fitted().population
    assert isinstance(population, LocalEngine)
    assert not population.devices.held_out


def test_interactions_of_a_part_are_those_of_its_users(train: Interactions) -> None:
    part = HeldOutItems.of(interactions([[3], [], [1, 4]], n_items=5), interactions([[0], [2], []], n_items=5))
    some = part.take(torch.tensor([2, 0]))
    assert (some.indptr.tolist(), some.items.tolist()) == ([0, 2, 3], [1, 4, 3])
    assert [csr[1].tolist() for csr in some.known] == [[0]]


@pytest.mark.parametrize("randomness", ["seeded", "os"])
def test_early_stopping_under_a_guarantee_is_released_and_paid_for(split: Split, randomness: str) -> None:
    """Every look is in the ledger, at the share set aside; the history calls it released; epsilon is that of it all."""
    validator = make_validator(split, EvaluationConfig(k=(5,), metric="ndcg@5"), 0)
    logged: list[tuple[str, float, str]] = []
    recommender = FederatedRecommender(
        EgoLightGCN(EgoLightGCNConfig(dim=4, rounds=6, stopping=Stopping(every=2, patience=3))),
        participation=ParticipationConfig(rate=0.5),
        privacy=PrivacyConfig(noise_multiplier=2.0, delta=1e-3, validation=0.2),
        engine=EngineConfig.model_validate({"randomness": randomness}),
    )
    training = Training(
        seed=2, device="cpu", validator=validator, log=lambda step, name, value, how: logged.append((name, value, how))
    )
    recommender.fit(split.train, training)
    looks = [(value, how) for name, value, how in logged if name == "validation"]
    assert len(looks) == 3
    assert {how for _, how in looks} == {"released"}
    guarantee = recommender.guarantee
    assert guarantee is not None
    assert [release.query for release in guarantee.made].count("evaluate") == 3
    assert {release.draw for release in guarantee.made if release.query == "evaluate"} == {2, 4, 6}
    assert guarantee.noise_multipliers["evaluate"] == pytest.approx(2.0 / 0.2**0.5)
    assert guarantee.noise_multipliers["local-training"] == pytest.approx(2.0 / 0.8**0.5)
    # Noise of deviation √2 · 2/√.2 = 6.3 on sums over some fifteen users: the exact means would lie in [0, 1]. Half of
    # the noised ones do as well, so that one seed in eight shows nothing; this one does.
    assert any(not 0 <= value <= 1 for value, _ in looks) or randomness == "os"


def test_early_stopping_that_is_not_planned_is_refused(split: Split) -> None:
    def check(validation: float | None, rounds: int = 6, patience: int = 3) -> None:
        stopping = Stopping(every=2, patience=patience)
        privacy = PrivacyConfig(noise_multiplier=2.0, delta=1e-3, validation=validation)
        method = EgoLightGCN(EgoLightGCNConfig(dim=4, rounds=rounds, stopping=stopping))
        FederatedRecommender(method, privacy=privacy).check(split.train)

    check(0.1)
    with pytest.raises(ConfigError, match=r"set patience = 0, or privacy\.validation = 0\.1"):
        check(None)
    with pytest.raises(ConfigError, match="does not stop early"):
        check(0.1, patience=0)
    with pytest.raises(ConfigError, match=r"rounds = 7 is no multiple of stopping\.every = 2"):
        check(0.1, rounds=7)
    for wrong in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            check(wrong)
    schedule = Schedule((PlannedRelease(query="evaluate", draws=1, clip=2.0),))
    engine = PrivateEngine(
        LocalEngine(dealt(split), Streams(0)), schedule, {"evaluate": 1.0}, SeededNoise(Streams(0)), Gaussian()
    )
    query = Evaluate.of(
        Popularity(PopularityConfig()), {"count": torch.zeros(25)}, "valid", ["ndcg@5"], 0, everyone=True
    )
    with pytest.raises(PrivacyError, match="asks everyone"):
        engine.sum(query, round=1)


def test_a_run_killed_between_looks_stops_early_like_an_uninterrupted_one(split: Split) -> None:
    validator = make_validator(split, EvaluationConfig(k=(5,), metric="ndcg@5"), 0)
    config = EgoLightGCNConfig(dim=4, rounds=12, stopping=Stopping(every=2, patience=2))
    arm: dict[str, Any] = {"participation": ParticipationConfig(rate=0.6, straggler=0.3, late="fold")}
    whole = FederatedRecommender(EgoLightGCN(config), **arm)
    whole.fit(split.train, Training(device="cpu", validator=validator))
    kept = Kept(until=4)
    with pytest.raises(KeyboardInterrupt):
        FederatedRecommender(EgoLightGCN(config), **arm).fit(
            split.train, Training(device="cpu", validator=validator, checkpoints=kept)
        )
    kept.until = None
    resumed = FederatedRecommender(EgoLightGCN(config), **arm)
    resumed.fit(split.train, Training(device="cpu", validator=validator, checkpoints=kept))
    assert torch.equal(whole.score(torch.arange(40)), resumed.score(torch.arange(40)))
    assert whole.communication == resumed.communication
