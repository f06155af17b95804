"""Clients of every kind: silos, fixed samples, stragglers, and those that answer nonsense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from fedrec.components import build_config
from fedrec.data.interactions import Interactions
from fedrec.errors import ConfigError, PrivacyError
from fedrec.federated import (
    Ask,
    Cohort,
    Contribution,
    Devices,
    FederatedRecommender,
    LocalEngine,
    ParticipationConfig,
    PopulationConfig,
    PrivateEngine,
    Query,
    ReferenceEngine,
    Rows,
    State,
)
from fedrec.federated.methods import EgoLightGCN, EgoLightGCNConfig, Popularity, PopularityConfig
from fedrec.federated.participation import participants
from fedrec.federated.population import _favourite, silos_of
from fedrec.federated.queries import Count, Gram, LocalTraining
from fedrec.privacy import Clip, Gaussian, PlannedRelease, PrivacyConfig, Schedule, SeededNoise
from fedrec.recommenders import Training
from fedrec.recommenders.trainer import Stopping
from fedrec.streams import Streams
from tests.federated.conftest import interactions
from tests.federated.test_engine import run, training_query

EVERYONE = torch.arange(40)


@dataclass(frozen=True, eq=False)
class Misbehaved(Query):
    """Count, but the user of one key breaks the contract, in whatever company."""

    fault: str
    culprit: int
    kind = "misbehaved"
    private = ("memory",)

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        return {"count": (25, 1)}

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        return State({"memory": torch.zeros(len(cohort), 1)})

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        counts, _ = Count(25).contribute(cohort, State(), draw)
        rows = counts["count"]
        assert isinstance(rows, Rows)
        state = State({"memory": state.dense["memory"] + 1})
        mine = torch.nonzero(cohort.keys[rows.owner] == self.culprit).flatten()
        if not len(mine):
            return {"count": rows}, state
        owner, index, value = rows.owner.clone(), rows.index.clone(), rows.value.clone()
        if self.fault == "not a number":
            value[mine[0]] = torch.nan
        elif self.fault == "infinity":
            value[mine[0]] = -torch.inf
        elif self.fault == "unknown row":
            index[mine[-1]] = 25
        elif self.fault == "duplicate":
            index[mine[1]] = index[mine[0]]
        elif self.fault == "unsorted":
            index[mine] = index[mine].flip(0)
        elif self.fault == "width":
            value = value.repeat(1, 2)
        elif self.fault == "type":
            value = value.half()
        elif self.fault == "owner":
            owner[mine] = len(cohort)
        elif self.fault == "table":
            return {"counts": rows}, state
        return {"count": Rows(owner, index, value)}, state


FAULTS = {
    "not a number": "a value that is not finite",
    "infinity": "a value that is not finite",
    "unknown row": "an unknown row",
    "duplicate": "rows repeated or out of order",
    "unsorted": "rows repeated or out of order",
    "width": "a shape or type that does not fit",
    "type": "a shape or type that does not fit",
    "owner": "a shape or type that does not fit",
    "table": "tables ['counts'] instead of ['count']",
}


@pytest.mark.parametrize("kind", [LocalEngine, ReferenceEngine])
@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("clip", [None, Clip(1e9)])
def test_whatever_one_client_answers_the_others_are_added_up(
    devices: Devices, kind: type[LocalEngine] | type[ReferenceEngine], fault: str, clip: Clip | None
) -> None:
    culprit = 13  # has six items
    query = Misbehaved(fault, int(devices.keys[culprit]))
    engine = kind(devices, Streams(0))
    totals = engine.sum(query, round=1, clip=clip)
    assert totals.refused == {FAULTS[fault]: 1}
    assert totals.answered == 39
    honest = LocalEngine(devices.take(EVERYONE[culprit != EVERYONE]), Streams(0)).sum(Count(25), round=1)
    assert torch.equal(totals.sums["count"], honest.sums["count"])
    _, state = engine.look(EVERYONE, query)
    assert torch.nonzero(state.dense["memory"][:, 0] == 0).flatten().tolist() == [culprit]
    answers = list(engine.answers(query, round=2, clip=clip))
    assert [(answer.user, answer.refused) for answer in answers if answer.refused] == [(culprit, FAULTS[fault])]
    assert not answers[culprit].contributions
    assert len(answers) == 40


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_silo_is_refused_as_one(devices: Devices, fault: str) -> None:
    pairs = replace(devices, silo=EVERYONE // 4)
    query = Misbehaved(fault, int(devices.keys[13]))
    totals = LocalEngine(pairs, Streams(0)).sum(query, round=1, clip=Clip(1e9))
    assert totals.refused == {FAULTS[fault]: 4}
    honest = LocalEngine(devices.take(EVERYONE[EVERYONE // 4 != 3]), Streams(0)).sum(Count(25), round=1)
    assert torch.equal(totals.sums["count"], honest.sums["count"])


def test_one_user_a_silo_is_one_user_a_client(devices: Devices) -> None:
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    alone = replace(devices, silo=shuffled)
    for config in (ParticipationConfig(), ParticipationConfig(rate=0.6, dropout=0.2, straggler=0.2)):
        plain, silo = (LocalEngine(one, Streams(0), config, chunk_bytes=1 << 30) for one in (devices, alone))
        for one, other in zip(run(plain), run(silo), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)  # the order in which users are added up differs
        clipped = [engine.sum(training_query(), round=6, clip=Clip(0.1)) for engine in (plain, silo)]
        assert clipped[0].clipped == clipped[1].clipped > 0
        assert clipped[0].bytes_up == clipped[1].bytes_up
        assert clipped[0].bytes_down == clipped[1].bytes_down
        torch.testing.assert_close(clipped[0].sums["items"], clipped[1].sums["items"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("query", [Count(25), Gram(torch.ones(25, dtype=torch.float64))])
def test_a_silo_is_clipped_by_the_norm_of_its_users_sum(devices: Devices, query: Query) -> None:
    silo, clip = EVERYONE // 10, Clip(0.7)
    table = next(iter(query.tables))
    totals = LocalEngine(replace(devices, silo=silo), Streams(0)).sum(query, round=1, clip=clip)
    by_hand = torch.zeros(query.tables[table], dtype=torch.float64)
    for number in range(4):
        own = LocalEngine(devices.take(EVERYONE[silo == number]), Streams(0)).sum(query, round=1).sums[table]
        by_hand += own * min(1.0, 0.7 / float(own.norm()))
    torch.testing.assert_close(totals.sums[table], by_hand, rtol=0, atol=1e-12)
    assert totals.clipped == 40


def test_a_silo_takes_part_as_one_and_downloads_once(devices: Devices) -> None:
    silo = EVERYONE % 8
    engine = LocalEngine(replace(devices, silo=silo), Streams(0), ParticipationConfig(rate=0.5))
    totals = engine.sum(training_query(), round=2)
    users = {answer.user for answer in engine.answers(training_query(), round=3)}
    assert totals.answered % 5 == 0
    assert 0 < totals.answered < 40
    assert totals.bytes_down == totals.answered // 5 * 25 * 4 * 8
    assert users <= set(range(8))  # a silo is named by its first user


def test_a_fixed_sample_has_its_size_and_depends_on_keys_alone() -> None:
    keys, config = torch.arange(1000) * 7919, ParticipationConfig(sampling="fixed", rate=0.123)
    drawn = participants(config, keys, Streams(0, round=4))
    assert drawn.drawn == len(drawn.on_time) == 123
    backwards = participants(config, keys.flip(0), Streams(0, round=4)).on_time
    assert torch.equal((999 - backwards).sort().values, drawn.on_time)
    times = torch.zeros(1000)
    for round in range(200):
        times[participants(config, keys, Streams(1, round=round)).on_time] += 1
    # Each is drawn 24.6 times of 200 with deviation 4.64; six deviations of 1,000 clients: wrong once in 500,000 seeds.
    assert (times - 24.6).abs().max() < 6 * 4.64
    assert config.expected_share(1000) == 0.123
    assert ParticipationConfig(sampling="fixed", rate=1e-9).expected_share(8) == 1 / 8


@pytest.mark.parametrize(
    ("participation", "message"),
    [
        ({"sampling": "fixed", "rate": 0.5}, "sampling 'fixed' cannot be accounted for"),
        ({"straggler": 0.1, "late": "fold"}, "one user moves it by two clips; set late = 'discard'"),
    ],
)
def test_what_no_guarantee_covers_is_refused(
    devices: Devices, train: Interactions, participation: dict[str, Any], message: str
) -> None:
    config = ParticipationConfig.model_validate(participation)
    method = Popularity(PopularityConfig())
    recommender = FederatedRecommender(
        method, participation=config, privacy=PrivacyConfig(noise_multiplier=1.0, delta=1e-3)
    )
    with pytest.raises(PrivacyError, match=message):
        recommender.check(train)


def test_silos_have_no_guarantee(devices: Devices, train: Interactions) -> None:
    population = PopulationConfig(kind="silos", silos=4)
    privacy = PrivacyConfig(noise_multiplier=1.0, delta=1e-3)
    with pytest.raises(PrivacyError, match=r"population\.kind = 'silos': a silo's answer is clipped as one"):
        FederatedRecommender(Popularity(PopularityConfig()), population=population, privacy=privacy).check(train)
    schedule = Schedule((PlannedRelease(query="count", draws=1, clip=1.0),))
    engine = LocalEngine(replace(devices, silo=EVERYONE // 10), Streams(0))
    with pytest.raises(PrivacyError, match="clipped as one"):
        PrivateEngine(engine, schedule, {"count": 1.0}, SeededNoise(Streams(0)), Gaussian())


def test_late_answers_are_missed_and_folded_in_as_they_were(devices: Devices) -> None:
    """Two rounds later the sum holds what the stragglers computed on the table of then; their devices stepped then."""
    query, other = training_query(1), training_query(2)
    prompt = LocalEngine(devices, Streams(0))
    discard = ParticipationConfig(straggler=0.4, delay=2)
    fold = discard.model_copy(update={"late": "fold"})
    whole = prompt.sum(query, round=1).sums["items"]
    dropping, folding = LocalEngine(devices, Streams(0), discard), LocalEngine(devices, Streams(0), fold)
    first = dropping.sum(query, round=1)
    assert 0 < first.delayed < 40
    assert first.answered + first.delayed == 40
    assert first.late == 0
    states = [engine.look(EVERYONE, query)[1].dense["user"] for engine in (prompt, dropping)]
    assert torch.equal(*states)  # a device that is late has trained all the same
    missing = whole - first.sums["items"]
    for engine in (dropping, folding):
        engine.sum(query, round=1)
        assert engine.sum(other, round=2).late == 0
    without, held = (engine.sum(other, round=3) for engine in (dropping, folding))
    assert (without.late, held.late) == (0, first.delayed)
    torch.testing.assert_close(held.sums["items"] - without.sums["items"], missing, rtol=0, atol=1e-12)
    again = folding.sum(other, round=3)
    assert torch.equal(again.sums["items"], held.sums["items"])
    assert again.late == held.late


def test_late_answers_go_with_a_checkpoint_and_are_lost_without_their_query(devices: Devices) -> None:
    config = ParticipationConfig(straggler=0.4, late="fold")
    engine, query = LocalEngine(devices, Streams(0), config), training_query()
    engine.sum(query, round=1)
    saved = {name: tensor.clone() for name, tensor in engine.tensors().items()}
    second = engine.sum(query, round=2)
    assert second.late > 0
    other = LocalEngine(devices, Streams(0), config)
    other.restore(saved)
    assert torch.equal(other.sum(query, round=2).sums["items"], second.sums["items"])
    other.restore(saved)
    assert other.sum(Count(25), round=2).late == 0  # another question
    assert other.sum(query, round=2, phase=1).late == 0  # another phase
    other.restore(saved)
    assert other.sum(query, round=3).late == 0  # too late
    with pytest.raises(ConfigError, match=r"'local-training' asks for single answers.*set late = 'discard'"):
        next(other.answers(query, round=4))


def test_what_a_round_has_sent_is_not_sent_again(devices: Devices) -> None:
    engine, query = LocalEngine(devices, Streams(0), ParticipationConfig(dropout=0.5)), training_query()
    table = 40 * 25 * 4 * 8  # those who drop out have downloaded it too
    assert engine.sum(query, round=1).bytes_down == table
    assert engine.sum(replace(query, items=query.items.clone()), round=1, phase=1).bytes_down == 0
    assert engine.sum(replace(query, items=query.items + 1), round=1, phase=2).bytes_down == table
    assert engine.sum(query, round=2).bytes_down == table


def test_whoever_took_no_part_in_a_round_downloads_it_all_when_everyone_is_asked(devices: Devices) -> None:
    @dataclass(frozen=True, eq=False)
    class ToAll(LocalTraining):
        everyone = True

    for kind in (LocalEngine, ReferenceEngine):
        engine, query = kind(devices, Streams(0), ParticipationConfig(rate=0.5)), training_query()
        table = 25 * 4 * 8
        some = engine.sum(query, round=1).bytes_down
        assert 0 < some < 40 * table
        everyone = ToAll(**query.broadcast, **query.settings)  # type: ignore[arg-type]
        assert engine.sum(everyone, round=1, phase=1).bytes_down == 40 * table - some
        assert engine.sum(everyone, round=1, phase=2).bytes_down == 0
        assert engine.sum(query, round=1, phase=3).bytes_down == 0


def test_a_method_may_ask_for_single_answers(devices: Devices) -> None:
    ask = Ask(LocalEngine(devices, Streams(0)), round=1)
    answers = ask.answers(Misbehaved("width", int(devices.keys[13])), Clip(1.0))
    assert [answer.user for answer in answers] == [user for user in range(40) if user != 13]
    assert all(float(answer.contributions["count"].squared_norms(1)) <= 1 + 1e-12 for answer in answers)
    assert (ask.totals[0].answered, dict(ask.totals[0].refused)) == (39, {FAULTS["width"]: 1})
    assert ask.totals[0].bytes_up == (len(devices.items) - 6) * 12
    ask(Count(25))  # the next phase
    assert len(ask.totals) == 2


def users_with(histories: list[list[int]], **columns: list[Any]) -> Interactions:
    return replace(interactions(histories, n_items=6), user_attributes=pd.DataFrame(columns))


def populate(train: Interactions, seed: int = 0, **settings: Any) -> Tensor:
    config = build_config(PopulationConfig, {"kind": "silos", **settings}, "population")
    assert isinstance(config, PopulationConfig)
    silo = silos_of(config, train, seed)
    assert silo is not None
    return silo


def test_random_silos_are_of_equal_size_and_follow_the_seed(train: Interactions) -> None:
    silo = populate(train, silos=7)
    assert torch.bincount(silo).tolist() == [6, 6, 6, 6, 6, 5, 5]
    assert torch.equal(silo, populate(train, silos=7))
    assert not torch.equal(silo, populate(train, seed=1, silos=7))
    assert silos_of(PopulationConfig(), train, 0) is None


def test_an_attribute_makes_a_silo_of_each_value() -> None:
    train = users_with([[0], [1], [2], [3]], job=["b", None, "a", "b"])
    assert populate(train, rule="attribute", by="job").tolist() == [1, 2, 0, 1]
    with pytest.raises(ConfigError, match=r"population\.by: no user column 'jobs'; did you mean 'job'"):
        populate(train, rule="attribute", by="jobs")


def test_dirichlet_skews_silos_by_label_the_more_the_smaller_alpha() -> None:
    """Mean over silos of the largest share of one label among four: 1/4 if all are alike, 1 if silos are pure."""
    labels = [str(user % 4) for user in range(2000)]
    train = users_with([[user % 6] for user in range(2000)], label=labels)
    purity = {}
    for alpha in (0.05, 100.0):
        silo = populate(train, rule="dirichlet", by="label", silos=10, alpha=alpha)
        counts = torch.zeros(int(silo.max()) + 1, 4)
        counts.index_put_((silo, torch.arange(2000) % 4), torch.ones(2000), accumulate=True)
        purity[alpha] = float((counts.amax(dim=1) / counts.sum(dim=1)).mean())
    assert purity[0.05] > 0.6
    assert purity[100.0] < 0.35


def test_dirichlet_by_an_item_column_labels_users_by_what_they_have_more_of_than_others() -> None:
    train = interactions([[0, 1, 4], [0, 4, 5], [0, 2, 3], [0, 2, 3]], n_items=6)
    genres = ["drama", "comedy", "war", "war", "drama|comedy", "comedy"]
    train = replace(train, item_attributes=pd.DataFrame({"genres": genres}))
    # Of all histories 6/14 are drama, 4/14 comedy, 4/14 war: users 0 and 1 have half comedies, 2 and 3 two thirds wars.
    assert _favourite(train, train.item_attributes["genres"]).tolist() == [0, 0, 2, 2]
    silo = populate(train, rule="dirichlet", by="genres", silos=2, alpha=0.001)
    assert silo[0] == silo[1]
    assert silo[2] == silo[3]


def test_louvain_finds_planted_communities(train: Interactions) -> None:
    histories = [[0, 1, 2] if user < 6 else [3, 4, 5] for user in range(12)] + [[]]
    train = interactions(histories, n_items=6)
    silo = populate(train, rule="louvain", silos=2)
    assert len(set(silo[:6].tolist())) == len(set(silo[6:12].tolist())) == 1
    assert silo[0] != silo[6]
    with pytest.raises(ConfigError, match="Louvain finds 2 communities at resolution 1; raise the resolution"):
        populate(train, rule="louvain", silos=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "random"}, "rule 'random' needs a number of silos"),
        ({"rule": "attribute", "by": "job", "silos": 3}, "makes one silo a value; leave silos out"),
        ({"rule": "attribute"}, "rule 'attribute' needs by, a column"),
        ({"rule": "louvain", "silos": 3, "by": "job"}, "takes no column; leave by out"),
        ({"rule": "random", "silos": 41}, "there are 40 users"),
        ({"kind": "users", "silos": 3}, "belong to kind = 'silos'"),
    ],
)
def test_populations_that_make_no_sense_are_refused(
    train: Interactions, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        populate(train, **settings)


def test_a_method_runs_on_silos_and_says_who_was_late(train: Interactions) -> None:
    seen: dict[str, float] = {}

    def log(step: int, name: str, value: float, disclosure: str) -> None:
        seen[name] = seen.get(name, 0.0) + value

    recommender = FederatedRecommender(
        EgoLightGCN(EgoLightGCNConfig(dim=4, rounds=4, local_steps=2, stopping=Stopping(every=1, patience=0))),
        population=PopulationConfig(kind="silos", silos=8),
        participation=ParticipationConfig(straggler=0.4, late="fold"),
    )
    recommender.fit(train, Training(device="cpu", log=log))
    assert torch.isfinite(recommender.score(EVERYONE)).all()
    assert seen["answered"] + seen["delayed"] == 160
    assert 0 < seen["late"] <= seen["delayed"]
