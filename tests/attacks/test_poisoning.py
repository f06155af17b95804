"""Fake clients promote an item where sums are plain; a defence takes something else, and a guarantee allows none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedrec.attacks import Poisoning, PoisoningConfig
from fedrec.attacks.defences import Robust, aggregate_of, krum, median, norm_bound, stacked, trimmed_mean
from fedrec.attacks.poisoning import exposure
from fedrec.errors import ConfigError, PrivacyError
from fedrec.federated import Devices, LocalEngine, Outer, PrivateEngine, Rows
from fedrec.federated.queries import Count
from fedrec.privacy import Gaussian, PlannedRelease, PrivacyConfig, Schedule, SeededNoise
from fedrec.streams import Streams
from tests.attacks.planted import interactions, target

TRAIN = interactions(30, 50, 6)
EGO = {"dim": 4, "rounds": 10, "initial_scale": 0.1, "server": {"rate": 0.1}}
CONFIG = PoisoningConfig(fakes=0.1, targets=1, popular=5, boost=20.0, k=5)


def answers(values: list[list[list[float]]]) -> Rows:
    """Dense answers, [number][rows][width], as the rows that they touch."""
    table = torch.tensor(values, dtype=torch.float64)
    owner, index = torch.nonzero(table.abs().sum(dim=2) > 0, as_tuple=True)
    return Rows(owner, index, table[owner, index])


def test_aggregates_by_hand() -> None:
    # Row 0 is touched by all four, one of whom lies; row 1 by one.
    rows = answers([[[1.0], [0.0]], [[2.0], [0.0]], [[3.0], [4.0]], [[100.0], [0.0]]])
    assert median(rows, 2).flatten().tolist() == [4 * 2.5, 4.0]
    assert trimmed_mean(rows, 2, 0.25).flatten().tolist() == [4 * 2.5, 4.0]
    assert trimmed_mean(rows, 2, 0.0).flatten().tolist() == [106.0, 4.0]
    # Norms 1, 2, 5, 100; torch's median of four is the lower of the middle ones.
    assert norm_bound(rows, 4, 2).flatten().tolist() == pytest.approx([1 + 2 + 3 * 2 / 5 + 2, 4 * 2 / 5])
    # Squared distances: a-b 1, b-c 1 + 16, a-c 4 + 16; with one liar, 4 - 1 - 2 = 1 neighbour counts: a, the first.
    assert krum(rows, 4, 2).flatten().tolist() == [4.0, 0.0]
    # The three nearest: a, b and c.
    assert krum(rows, 4, 2, 1, 3).flatten().tolist() == pytest.approx([4 * 2.0, 4 * 4 / 3])


@pytest.mark.parametrize("defence", ["median", "trimmed-mean", "krum", "multi-krum", "norm-bound"])
def test_equal_answers_are_their_sum(defence: str) -> None:
    rows = answers([[[1.0, -2.0], [0.5, 0.0]]] * 5)
    aggregate = aggregate_of(defence, 1)  # type: ignore[arg-type]
    assert aggregate is not None
    assert torch.allclose(aggregate(rows, 5, 2), 5 * torch.tensor([[1.0, -2.0], [0.5, 0.0]], dtype=torch.float64))


def test_fakes_promote_an_item_and_krum_leaves_them_out() -> None:
    train = interactions(30, 50, 6, skew=1.0)
    config = CONFIG.model_copy(update={"defences": ("none", "krum")})
    found = Poisoning(config).run(target("ego-lightgcn", EGO, train))
    exposed = {finding.case: finding for finding in found if finding.measure == "exposure@5"}
    assert exposed["no defence"].value > 0.8
    assert exposed["krum"].value < 0.2
    assert all(finding.chance is not None and finding.chance < 0.2 for finding in exposed.values())
    assert len(found) == 2  # nothing is held out that hits could be counted on


def test_an_arm_with_a_guarantee_has_its_clip_and_its_noise() -> None:
    privacy = PrivacyConfig(noise_multiplier=1.0, delta=1e-3)
    found = Poisoning(CONFIG).run(target("ego-lightgcn", EGO | {"rounds": 2}, TRAIN, privacy))
    assert {finding.case for finding in found} == {"clipped and noised"}


def test_a_guarantee_of_sums_refuses_a_defence() -> None:
    schedule = Schedule((PlannedRelease(query="count", draws=1, clip=1.0),))
    private = PrivateEngine(
        LocalEngine(Devices.of(TRAIN), Streams(0)), schedule, {"count": 1.0}, SeededNoise(Streams(0)), Gaussian()
    )
    aggregate = aggregate_of("norm-bound", 1)
    assert aggregate is not None
    with pytest.raises(PrivacyError, match="asks for single answers"):
        Robust(private, aggregate).sum(Count(50), round=1)


def test_a_defence_needs_rows() -> None:
    outer = Outer(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), torch.ones(1))
    with pytest.raises(ConfigError, match="outer products"):
        stacked([outer], 2, torch.float64)


def test_exposure_by_hand() -> None:
    train = interactions(4, 6, 3)
    item = int(train.item[0])
    having = set(train.user[train.item == item].tolist())
    lists: Tensor = torch.full((4, 1), item)
    arm = target("popularity", {}, train)
    assert exposure(lists, item, arm) == 1.0
    lists[next(user for user in range(4) if user not in having)] = (item + 1) % 6
    assert exposure(lists, item, arm) == pytest.approx(1 - 1 / (4 - len(having)))


def test_only_changes_of_an_item_table_are_poisoned() -> None:
    with pytest.raises(ConfigError, match="a row of an item table"):
        Poisoning(CONFIG).run(target("popularity", {}, TRAIN))
