"""Measure: what devices count adds up to everything that a simulation finds, and its intervals are a bootstrap's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from fedrec.components import build_config
from fedrec.data import Split
from fedrec.errors import ConfigError, DataError, PrivacyError
from fedrec.evaluation import (
    OMITTED,
    EvaluationConfig,
    MetricRow,
    bootstrap_intervals,
    evaluate,
    percentile_interval,
    poisson_weights,
    resampled_means,
    user_groups,
)
from fedrec.evaluation.fairness import tercile_bounds, terciles
from fedrec.federated import (
    METHODS,
    Ask,
    Devices,
    Engine,
    FederatedMethod,
    Federation,
    HeldOutItems,
    LocalEngine,
    Measured,
    ParticipationConfig,
    PrivateEngine,
    State,
    build_query,
    measure,
    small_groups,
)
from fedrec.federated.queries import Membership
from fedrec.privacy import Gaussian, PlannedRelease, Schedule, SeededNoise
from fedrec.recommenders.recommender import Tensors
from fedrec.streams import Streams
from fedrec.testing.nodes import ALL_AT_ONCE, ONE_BY_ONE, Nodes, Recorder
from tests.evaluation.small import random_split

CONFIG = EvaluationConfig(
    k=(3, 8), metric="ndcg@8", candidates=("all", "sampled-99"), groups=("gender", "activity"), bootstrap=200
)
LABELS = {"gender": ("F", "M")}


def small(seed: int = 0, users: int = 90) -> Split:
    """Users of two genders and some of unknown one, a few without a training item, and items that nobody trained on."""
    split = random_split(users, 60, seed)
    gender = pd.DataFrame({"gender": [("F", "M", "M", None)[code % 4] for code in range(users)]})
    genres = pd.DataFrame(
        {
            "genres": [("a|b", "b", "c", None)[code % 4] for code in range(60)],
            "author": [
                None if code == 50 else "xyz|x"[code % 4 :: 2] if code < 40 else str(code) for code in range(60)
            ],
        }
    )
    user, item = split.train.user, split.train.item
    train = split.train.take(np.flatnonzero((user >= 3) & (item >= 4) & ((user % 4 == 0) | (item % 2 > 0))))
    train, valid, test = (
        replace(part, user_attributes=gender, item_attributes=genres) for part in (train, split.valid, split.test)
    )
    return Split(train, valid, test)


def dealt(split: Split) -> Devices:
    """The devices know their gender, and their own activity; the bounds of its terciles are not theirs to know."""
    (gender,) = user_groups(split.train, ("gender",))
    held_out = HeldOutItems.of(split.test, split.valid, groups={"gender": gender.codes})
    return Devices.of(split.train, held_out={"test": held_out})


def trained(kind: str, split: Split, parts: Sequence[Tensor]) -> tuple[Nodes, FederatedMethod, Tensors]:
    settings = {"dim": 4, "rounds": 2} if kind == "ego-lightgcn" else {}
    method = METHODS[kind](build_config(METHODS[kind].config_class, settings, kind))
    engine = Nodes(
        dealt(split), parts, Streams(0), ParticipationConfig(), ONE_BY_ONE if len(parts) > 1 else ALL_AT_ONCE
    )
    start = method.start(Federation(split.train.n_users, 60, Streams(0)))
    return engine, method, method.round(start, Ask(engine, 1))


def measured(
    engine: Engine, method: FederatedMethod, state: Tensors, split: Split, config: EvaluationConfig
) -> Measured:
    items = split.train.item_attributes
    return measure(engine, method, state, 60, items, LABELS, config, seed=3, resampling=0, round=2)


def by_name(rows: tuple[MetricRow, ...]) -> dict[tuple[str, str], float]:
    return {(row.metric, row.group): row.value for row in rows}


@pytest.mark.parametrize("kind", ["popularity", "ego-lightgcn"])
def test_every_row_is_that_of_a_simulation(kind: str) -> None:
    split = small()
    engine, method, state = trained(kind, split, [torch.arange(90)])

    def score(users: Tensor) -> Tensor:
        memory = method.memory(state)
        private = State() if memory is None else engine.remember(memory).take(users)
        return method.score(state, engine.devices.cohort(users), private)

    there = by_name(measured(engine, method, state, split, CONFIG).rows)
    wanted = by_name(evaluate(score, split, CONFIG, seed=3).rows)
    assert list(there) == [key for key in wanted if key in there]  # in the same order, and none beside them
    assert len(there) > 300
    for key, value in there.items():
        assert value == pytest.approx(wanted[key], abs=1e-9, rel=1e-9), key
    missing = {metric for metric, _ in wanted.keys() - there.keys()}
    assert {name for name in OMITTED for metric in missing if name in metric} == {"worst-decile", "embedding-diversity"}
    assert all(any(name in metric for name in OMITTED) for metric in missing)
    assert {group for _, group in there} >= {
        "cold-users",
        "cold-items",
        "gender=F",
        "gender",
        "activity=high",
        "popularity",
        "author-size=small",
        "author-size=middle",
        "author-size=large",
    }


def test_groups_without_an_item_count_as_little_as_in_a_simulation() -> None:
    """One author has all items but the most popular one: nobody is in the middle."""
    split = small()
    favourite = int(split.train.item_degrees.argmax())
    items = split.train.item_attributes.assign(author=["y" if code == favourite else "x" for code in range(60)])
    split = replace(split, train=replace(split.train, item_attributes=items))
    config = CONFIG.model_copy(update={"item_groups": ("author-size",)})
    engine, method, state = trained("popularity", split, [torch.arange(90)])
    there = by_name(measured(engine, method, state, split, config).rows)
    assert there["catalogue-share", "author-size=middle"] == 0.0
    small_ones, large = (there["exposure-share@8", f"author-size={size}"] for size in ("small", "large"))
    assert 0 < small_ones < large
    assert there["provider-gini@8", "author-size"] == pytest.approx((large - small_ones) / 2)  # of two, not of three


def test_how_users_are_dealt_to_nodes_changes_nothing() -> None:
    """Resamples are drawn by user, and add up as all else does."""
    split = small()
    everyone = torch.arange(90)
    whole = measured(*trained("ego-lightgcn", split, [everyone]), split, CONFIG)
    shuffled = everyone[torch.randperm(90, generator=torch.Generator().manual_seed(0))]
    dealt_out = measured(*trained("ego-lightgcn", split, shuffled.tensor_split([1, 8, 50])), split, CONFIG)
    assert by_name(dealt_out.rows) == pytest.approx(by_name(whole.rows), abs=1e-9)
    assert torch.allclose(dealt_out.resamples, whole.resamples, rtol=0, atol=1e-9)


def test_resamples_give_single_users_away() -> None:
    """The privacy model says so: 200 resamples of 86 users are 200 equations with known weights."""
    split = small()
    engine, method, state = trained("popularity", split, [torch.arange(90)])
    found = measured(engine, method, state, split, CONFIG)
    tested = evaluate(lambda users: method.score(state, engine.devices.cohort(users), State()), split, CONFIG, seed=3)
    weights = poisson_weights(Streams(0), engine.devices.keys[tested.users], 200)
    column = 1 + found.layout.per_user.index("ndcg@8")
    solved = torch.linalg.lstsq(weights.T, found.resamples[:, column : column + 1]).solution[:, 0]
    assert torch.allclose(solved, tested.per_user["ndcg@8"], atol=1e-6)


def test_intervals_are_those_of_a_bootstrap() -> None:
    """A replicate is the mean of users who count as often as their weights say; its spread is that of a bootstrap."""
    split = small(users=300)
    engine, method, state = trained("popularity", split, [torch.arange(300)])
    found = measured(engine, method, state, split, CONFIG.model_copy(update={"bootstrap": 4000}))
    means = resampled_means(found.resamples, found.layout)
    tested = evaluate(lambda users: method.score(state, engine.devices.cohort(users), State()), split, CONFIG, seed=3)
    weights = poisson_weights(Streams(0), engine.devices.keys[tested.users], 4000)
    values = tested.per_user["ndcg@8"]
    assert torch.allclose(means["ndcg@8"], values @ weights / weights.sum(dim=0), atol=1e-9)
    women = tested.groups[0].codes == 0
    by_hand = values[women] @ weights[women] / weights[women].sum(dim=0)
    assert torch.allclose(means["ndcg@8/gender=F"], by_hand, atol=1e-9)
    interval = percentile_interval(float(values.mean()), means["ndcg@8"])
    expected = bootstrap_intervals({"": values}, Streams(1).generator("bootstrap"), samples=4000)[""]
    # The 2.5% point of 4,000 resamples deviates by .042 of their deviation, and the width by .059 of it at most: with
    # both sides drawn, five deviations of a difference are .42 of a deviation, a tenth of the width (1 in 1.7 million).
    assert interval.mean == expected.mean
    width = expected.high - expected.low
    assert interval.low == pytest.approx(expected.low, abs=0.11 * width)
    assert interval.high == pytest.approx(expected.high, abs=0.11 * width)


def test_weights_are_poisson_and_belong_to_the_user() -> None:
    keys = torch.arange(50)
    weights = poisson_weights(Streams(7), keys, 2000)
    assert torch.equal(weights[3:4], poisson_weights(Streams(7), keys[3:4], 2000))
    assert not torch.equal(weights[3], weights[4])
    # 100,000 draws: the shares of 0, 1 and 2 deviate by .0016 at most; five of them are wrong once in 1.7 million.
    for count, share in ((0, math.exp(-1)), (1, math.exp(-1)), (2, math.exp(-1) / 2)):
        assert float((weights == count).double().mean()) == pytest.approx(share, abs=0.008)
    assert float(weights.mean()) == pytest.approx(1.0, abs=0.016)


def test_terciles_of_activity_need_only_how_often_each_number_occurs() -> None:
    degrees = torch.tensor([0, 5, 1, 1, 2, 9, 9, 3, 0, 2])
    first, second = tercile_bounds(torch.bincount(degrees, minlength=12))
    assert (first, second) == (2, 5)  # 1 1 2 | 2 3 5 | 9 9, and equal values share the lower third
    codes = ((degrees > first).long() + (degrees > second).long()).where(degrees > 0, -1)
    assert codes.tolist() == terciles(degrees, degrees > 0).tolist()
    assert tercile_bounds(torch.tensor([4, 0, 0])) == (0, 0)


def test_a_message_rebuilds_the_query_and_is_refused_if_it_is_not_its_own() -> None:
    split = small()
    engine, method, state = trained("ego-lightgcn", split, [torch.arange(90)])
    recorder = Recorder(engine)
    measured(recorder, method, state, split, CONFIG)
    asked = recorder.asked[-1]
    again = build_query("measure", asked.query.broadcast, asked.query.settings)
    repeated = engine.sum(again, round=3).sums
    assert all(torch.equal(repeated[name], total) for name, total in asked.totals.sums.items())
    assert not any(name.startswith("state/items.") for name in asked.query.broadcast)  # the optimiser's own
    for name, value in (("method", "os:system"), ("k", "x"), ("groups", "[]"), ("activity", "[1]"), ("seed", "x")):
        with pytest.raises(DataError, match="query 'measure' does not fit its definition"):
            build_query("measure", asked.query.broadcast, {**asked.query.settings, name: value})
    sizes = Membership("test", LABELS, (1, 2)).settings
    for name, value in (("groups", "[]"), ("groups", '{"gender": 1}'), ("activity", "[1]"), ("activity", "x")):
        with pytest.raises(DataError, match="query 'membership' does not fit its definition"):
            build_query("membership", {}, {**sizes, name: value})


def test_groups_that_are_not_asked_of_change_nothing_of_the_others() -> None:
    """Few are of middle activity, and if the smaller of the other thirds were asked of, they would be the rest."""
    split = small()
    engine, method, state = trained("popularity", split, [torch.arange(90)])
    all_asked = measured(engine, method, state, split, CONFIG)
    items = split.train.item_attributes
    asked = measure(engine, method, state, 60, items, LABELS, CONFIG, seed=3, resampling=0, round=3, small=False)
    sizes = {row.group: row.value for row in all_asked.rows if row.metric == "users"}
    hidden = small_groups(sizes, asked.layout.groups)
    assert hidden == {"activity=middle", "activity=high"}
    assert sizes["activity=middle"] < 20 <= sizes["activity=high"] < sizes["activity=low"]
    found, expected = by_name(asked.rows), by_name(all_asked.rows)
    assert found == {key: expected[key] for key in found}
    assert {group for _, group in expected.keys() - found.keys()} == hidden | {"activity"}
    assert torch.equal(asked.resamples[:, 0], all_asked.resamples[:, 0])


def test_what_cannot_be_measured_is_refused() -> None:
    split = small()
    engine, method, state = trained("popularity", split, [torch.arange(90)])
    with pytest.raises(ConfigError, match="no user column 'age'"):
        measured(engine, method, state, split, CONFIG.model_copy(update={"groups": ("age",)}))
    with pytest.raises(DataError, match="know no attribute 'zip'"):
        measure(engine, method, state, 60, split.train.item_attributes, {"zip": ("a",)},
                CONFIG.model_copy(update={"groups": ("zip",)}), seed=0, resampling=0, round=2)  # fmt: skip
    nobody = Split(split.train, split.valid, split.test.take(split.test.user < 3))
    with pytest.raises(DataError, match="no user has both a training item and a held-out item"):
        measured(
            Nodes(dealt(nobody), [torch.arange(90)], Streams(0), ParticipationConfig()), method, state, split, CONFIG
        )
    schedule = Schedule((PlannedRelease(query="count", draws=1, clip=2.0),))
    noise = SeededNoise(Streams(0))
    private = PrivateEngine(LocalEngine(dealt(split), Streams(0)), schedule, {"count": 1.0}, noise, Gaussian())
    with pytest.raises(PrivacyError, match="census"):  # exact sums are no part of a guarantee
        measured(private, method, state, split, CONFIG)
