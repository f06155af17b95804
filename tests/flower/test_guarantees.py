"""Every guarantee over nodes is that over the same users in one process: the same model, the same noise, the same cost.

Nodes have 4, 7, 13 and 16 of the users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from scipy import stats

from fedrec.components import build_config
from fedrec.errors import DataError, PrivacyError, RunError
from fedrec.experiment.store import FileJournal
from fedrec.federated import (
    Devices,
    FederatedMethod,
    FederatedRecommender,
    Federation,
    HeldOutItems,
    LocalEngine,
    PopulationConfig,
    PrivateEngine,
)
from fedrec.federated.device_sums import DistributedNoise
from fedrec.federated.engine import Population
from fedrec.federated.methods import (
    EgoLightGCN,
    EgoLightGCNConfig,
    FedNCF,
    FedNCFConfig,
    Spectral,
    SpectralConfig,
)
from fedrec.federated.participation import ParticipationConfig
from fedrec.federated.private_sums import Asked
from fedrec.federated.protection import protect
from fedrec.federated.queries import Count, LocalTraining, NeuralTraining
from fedrec.flower.noised import NoisedNodes
from fedrec.flower.own_noise import OwnNoise
from fedrec.flower.records import arrays, tensors
from fedrec.flower.requests import request_from_record, request_to_record
from fedrec.privacy import (
    Clip,
    ContinualConfig,
    Gaussian,
    Part,
    PlannedRelease,
    PrivacyConfig,
    Schedule,
    SeededNoise,
    SystemNoise,
)
from fedrec.recommenders.recommender import Tensors, Training
from fedrec.recommenders.trainer import Stopping
from fedrec.streams import Streams
from tests.federated.test_recommender import Kept
from tests.flower.nodes import ChangedReplies, dealt, engine_on, grid_of

PARTS = [list(range(4)), list(range(4, 11)), list(range(11, 24)), list(range(24, 40))]
NO_PATIENCE = Stopping(every=1, patience=0)


def ego(rounds: int = 4) -> EgoLightGCN:
    return EgoLightGCN(EgoLightGCNConfig(dim=4, rounds=rounds, stopping=NO_PATIENCE))


def neural() -> FedNCF:
    return FedNCF(FedNCFConfig(rounds=2, stopping=NO_PATIENCE))


def spectral() -> Spectral:
    return Spectral(SpectralConfig(factors=3, weight="degree"))


def arm(
    method: FederatedMethod,
    privacy: dict[str, Any],
    participation: dict[str, Any] | None = None,
    population: dict[str, Any] | None = None,
) -> FederatedRecommender:
    section = build_config(PrivacyConfig, {"noise_multiplier": 2.0, "delta": 1e-3} | privacy, "privacy")
    assert isinstance(section, PrivacyConfig)
    return FederatedRecommender(
        method,
        privacy=section,
        participation=ParticipationConfig(**participation or {}),
        population=PopulationConfig(**population or {}),
    )


def fit(recommender: FederatedRecommender, over: Population) -> FederatedRecommender:
    federation = Federation(40, 25, Streams(3), torch.float64)
    recommender.fit_over(over, federation, Training(3, "private", "cpu"), None)
    return recommender


def both(
    devices: Devices, recommender: Callable[[], FederatedRecommender]
) -> tuple[FederatedRecommender, FederatedRecommender]:
    """The same arm in one process and over nodes."""
    sampling = recommender().participation
    local = fit(recommender(), LocalEngine(devices, Streams(3), sampling))
    return local, fit(recommender(), engine_on(grid_of(devices, PARTS), participation=sampling))


def apart(one: FederatedRecommender, other: FederatedRecommender) -> float:
    """The largest difference between two models; of a basis, between the projectors on its subspace."""
    models = [
        {name: table @ table.T if name == "basis" else table for name, table in some.model().items()}
        for some in (one, other)
    ]
    assert models[0].keys() == models[1].keys()
    return max(float((models[0][name].double() - models[1][name].double()).abs().max()) for name in models[0])


def test_clips_by_table_are_those_of_one_process(devices: Devices) -> None:
    local, remote = both(devices, lambda: arm(neural(), {"clip": {"items": 0.3, "network": 0.4}}))
    assert apart(local, remote) < 1e-9
    assert remote.guarantee is not None
    assert "clip 0.5 by table (items 0.3, network 0.4" in remote.guarantee.in_words()
    one_norm = fit(arm(neural(), {"clip": 0.5}), engine_on(grid_of(devices, PARTS)))
    assert apart(local, one_norm) > 1e-3


def test_a_message_carries_each_tables_clip_and_a_node_is_held_to_it(devices: Devices) -> None:
    """The answer of one node is longer than its clip of one table, though not than that of both together."""
    grid = grid_of(devices, PARTS)
    engine, method = engine_on(grid), neural()
    state = method.start(Federation(40, 25, Streams(3), torch.float64))
    query = method.memory(state)
    assert isinstance(query, NeuralTraining)
    clip = Clip.by_table({"network": 0.1, "items": 0.7})
    record = request_to_record(query, engine.request((1, 0), clip))
    assert request_from_record(record).bound == clip
    for tables in ('{"network": 0.1, "items": 0.8}', '{"network": -0.1}', "[1]", '{"network": null}', "{"):
        record["request"]["tables"] = tables
        with pytest.raises((DataError, PrivacyError)):
            request_from_record(record)
    engine.sum(query, round=1, clip=clip)

    def change(reply: Message) -> Message:
        sums = tensors(reply.content["sums"])
        sums["network"] *= 0.11 * 7 / sums["network"].norm()
        reply.content["sums"] = arrays(sums)
        return reply

    grid.change = change
    totals = engine.sum(query, round=2, clip=clip)
    assert totals.failed == {"an answer longer than its users' clips of table 'network'": 1}
    assert not engine.sum(query, round=3, clip=Clip(clip.norm)).failed
    grid.change = None
    with pytest.raises(RunError, match="clips for the tables itmes, network of a query of items, network"):
        engine.sum(query, round=5, clip=Clip.by_table({"network": 0.1, "itmes": 0.7}))


@pytest.mark.parametrize("trust", ["central", "secagg"])
def test_a_clip_that_adapts_follows_the_bits_of_nodes(devices: Devices, trust: str) -> None:
    privacy = {"adaptive": {"rate": 0.5, "share": 0.2}, "trust": trust, "clip": 0.3}
    local, remote = both(devices, lambda: arm(ego(), privacy, {"rate": 0.7}))
    assert apart(local, remote) < (1e-9 if trust == "central" else 1e-4)
    clips = [[r.clip for r in some.guarantee.made if r.adaptive] for some in (local, remote) if some.guarantee]
    assert clips[0] == pytest.approx(clips[1], rel=1e-9 if trust == "central" else 1e-5)
    assert len(set(clips[1])) == 4


class Dying(Kept):
    """Checkpoints of a process that dies before it writes that of a step."""

    def __init__(self, before: int | None) -> None:
        super().__init__()
        self.before = before

    def save(self, tensors: Tensors, facts: Mapping[str, Any]) -> None:
        if facts["progress"]["step"] == self.before:
            raise KeyboardInterrupt
        super().save(tensors, facts)


CYCLES = {"sampling": "cyclic", "rate": 0.5}


def test_noise_that_is_correlated_over_rounds_goes_on_from_the_journal(devices: Devices, tmp_path: Path) -> None:
    """Killed between a release and its checkpoint: it is not made again, and later ones take its noise back."""

    def recommender() -> FederatedRecommender:
        return arm(ego(6), {"continual": {"band": 3}}, CYCLES)

    local, remote = both(devices, recommender)
    assert apart(local, remote) < 1e-9
    assert remote.guarantee is not None
    assert "a user takes part once in every 2" in remote.guarantee.in_words()
    kept, journal, asked = Dying(4), FileJournal(tmp_path / "released.safetensors"), list[Message]()
    grid = grid_of(devices, PARTS, look=asked.append)

    def goes_on() -> FederatedRecommender:
        some, training = recommender(), Training(3, "private", "cpu", checkpoints=kept)
        engine = engine_on(grid, participation=ParticipationConfig(**CYCLES))
        some.fit_over(engine, Federation(40, 25, Streams(3), torch.float64), training, None, journal=journal)
        return some

    with pytest.raises(KeyboardInterrupt):
        goes_on()
    released, withheld = journal.load(4, 0, "local-training") or ({}, {})
    assert set(released) == set(withheld) == {"items"}
    assert withheld["items"].shape == (2, 25, 4)
    kept.before, first = None, len(asked)
    assert apart(goes_on(), local) < 1e-9
    rounds = [int(str(m.content["request"]["round"])) for m in asked[first:] if "request" in m.content]
    assert set(rounds) == {5, 6}


@pytest.mark.parametrize("method", [ego, spectral], ids=["training", "gram"])
def test_nodes_noise_each_of_their_users_answers_as_devices_would(
    devices: Devices, method: Callable[[], FederatedMethod]
) -> None:
    """Noise is keyed by user, so that it is the same wherever the user is; the server gets no exact sum."""
    local, remote = both(devices, lambda: arm(method(), {"trust": "local"}, {"rate": 0.7, "dropout": 0.2}))
    assert apart(local, remote) < 1e-9
    assert local.guarantee is not None
    assert remote.guarantee is not None
    assert remote.guarantee.made == local.guarantee.made
    words = remote.guarantee.in_words()
    assert "A node sees the answers of its own users, clips each user's and adds its noise, and they trust it" in words
    assert "trusts nobody" not in words
    assert "on each node, for each client there, with twice the clip" in words
    assert "the server is trusted to ask for no less noise and no more sums than are stated" in words


def test_a_clip_that_adapts_has_its_bits_noised_on_the_nodes(devices: Devices) -> None:
    privacy = {"trust": "local", "adaptive": {"rate": 0.5, "share": 0.2}, "clip": 0.3}
    local, remote = both(devices, lambda: arm(ego(), privacy))
    assert apart(local, remote) < 1e-9
    clips = [[r.clip for r in some.guarantee.made if r.adaptive] for some in (local, remote) if some.guarantee]
    assert clips[0] == pytest.approx(clips[1], rel=1e-12)


SYSTEM = SystemNoise()
COUNT = Schedule((PlannedRelease(query="count", draws=4, clip=1.2),))


def protected(over: Any, privacy: dict[str, Any], seed: int = 0) -> PrivateEngine:
    section = build_config(PrivacyConfig, {"noise_multiplier": 1.5, "delta": 1e-3} | privacy, "privacy")
    assert isinstance(section, PrivacyConfig)
    return protect(over, COUNT, section, SeededNoise(Streams(seed), "arm"), 40)


def counted(grid: ChangedReplies, privacy: dict[str, Any], seed: int = 0) -> torch.Tensor:
    """A noised count of nodes."""
    return protected(engine_on(grid, seed=seed), privacy, seed).sum(Count(25), round=1).sums["count"]


def as_stated(noise: torch.Tensor, variance: float, false_alarm: float = 1e-8) -> None:
    """The sum of squares of n independent N(0, v) is v·χ²(n)."""
    low, high = stats.chi2.interval(1 - false_alarm, noise.numel())
    assert low < float(noise.square().sum()) / variance < high


@pytest.mark.parametrize(("executed", "seeds"), [(True, 20), (False, 30)], ids=["users", "nodes"])
def test_local_noise_of_nodes_is_that_of_every_user_at_twice_the_clip(
    devices: Devices, executed: bool, seeds: int
) -> None:
    """On each of 25 entries, and on all of them together: 1 false alarm in 4 million."""
    exact = LocalEngine(devices, Streams(0)).sum(Count(25), round=1, clip=Clip(1.2)).sums["count"]
    privacy = {"trust": "local", "executed": executed}
    noise = torch.stack([counted(grid_of(devices, PARTS), privacy, seed) - exact for seed in range(seeds)])
    variance = (1.5 * 2 * 1.2) ** 2 * 40
    for entry in (noise, *noise.unbind(dim=1)):
        as_stated(entry, variance)


def test_a_node_tells_the_server_nothing_of_its_users_but_noised_sums_and_who_takes_part(devices: Devices) -> None:
    """Not how many were clipped, nor how many answers were refused, both of which depend on what they hold."""
    seen: list[Message] = []
    counted(grid_of(devices, PARTS, look=seen.append), {"trust": "local"})
    exact = [LocalEngine(devices.take(torch.tensor(part)), Streams(0)).sum(Count(25), round=1) for part in PARTS]
    answers = [m.content for m in seen if "sums" in m.content]
    assert len(answers) == 4
    for answer, part, plain in zip(answers, PARTS, exact, strict=True):
        assert dict(answer["counts"]) == {"answered": len(part), "clipped": 0, "delayed": 0, "late": 0, "refused": "{}"}
        assert (tensors(answer["sums"])["count"] - plain.sums["count"]).abs().min() > 1e-3


def test_a_node_asked_again_adds_the_same_noise_of_its_own(devices: Devices, tmp_path: Path) -> None:
    """A server that was killed before it wrote the sum down asks again: other noise would be another release."""
    grid = grid_of(devices, PARTS, state=tmp_path)

    def asked(round: int = 1, clip: float = 1.2, seed: int = 3, sigma: float = 1.5) -> torch.Tensor:
        engine = engine_on(grid, randomness="os", seed=seed)
        engine.restore({"moment": torch.tensor([0, 0]), "kept": torch.zeros(0, 2, dtype=torch.int64)})
        parts = (Part(("count",), clip, sigma),)
        sums = NoisedNodes(engine, Gaussian(), SystemNoise(), executed=True)
        return sums.sum(engine, Asked(Count(25), round, 0, Clip(clip), parts)).sums["count"]

    first = asked()
    assert torch.equal(asked(), first)
    # Two noised sums of one moment would have a mean with less noise.
    for other in (partial(asked, clip=1.3), partial(asked, seed=4), partial(asked, sigma=1.6)):
        with pytest.raises(RunError, match="round 1, phase 0 was noised for another question before"):
            other()
    assert torch.equal(asked(), first)
    others = [asked(round=2), asked(round=3)]
    assert all((other - first).abs().min() > 1e-6 for other in others)
    grid = grid_of(devices, PARTS, state=tmp_path / "other")  # other nodes have other secrets
    assert (asked() - first).abs().min() > 1e-6
    grid = grid_of(devices, PARTS)
    with pytest.raises(RunError, match=r'noise that no seed tells: start the node with state="\.\.\."'):
        asked()


def test_noise_that_is_not_in_proportion_to_the_clip_is_refused_by_a_node(devices: Devices) -> None:
    """And by the server an answer that is longer than clips and noise can be."""
    grid = grid_of(devices, PARTS)
    engine = engine_on(grid)
    sums = NoisedNodes(engine, Gaussian(), SeededNoise(Streams(3)), executed=True)
    request = engine.request((1, 0), Clip(1.2))
    for parts in ((), (Part(("count",), 0.6, 1.5),), (Part((), 1.2, 1.5),), (Part(("count",), 1.2, 0.0),)):
        record = request_to_record(Count(25), request)
        OwnNoise(parts, "", True).write(record)
        with pytest.raises(RunError, match="refused: noise"):
            engine.gather(Count(25), request, record, {}, lambda answer: None)
    record["noise"]["parts"] = '[[["count"], "a clip", 1.5]]'
    with pytest.raises(RunError, match="refused: noise that cannot be read"):
        engine.gather(Count(25), request, record, {}, lambda answer: None)
    length = [0.0]

    def change(reply: Message) -> Message:
        # 7 users of clip 1.2, and noise of deviation 2 · 1.2 · 1.5 · √7 on 25 entries.
        reply.content["sums"] = arrays({"count": torch.eye(25, 1, dtype=torch.float64) * length[0]})
        return reply

    grid.change = change
    most = 7 * 1.2 + 2 * 1.2 * 1.5 * 7**0.5 * (5 + 10)
    for length[0], refused in ((most, 0), (most * 1.001, 1)):
        totals = sums.sum(engine, Asked(Count(25), 2, 0, Clip(1.2), (Part(("count",), 1.2, 1.5),)))
        assert sum(totals.failed.values()) == refused


@pytest.mark.parametrize("method", [ego, spectral, neural], ids=["training", "gram", "clips by table"])
def test_nodes_add_their_users_noise_under_masks_as_devices_would(
    devices: Devices, method: Callable[[], FederatedMethod]
) -> None:
    """Bit by bit: each answer is rounded and noised by itself, in proportion to how many take part."""
    privacy: dict[str, Any] = {"trust": "distributed"}
    privacy |= {"clip": {"items": 0.3, "network": 0.4}} if method is neural else {}
    local, remote = both(devices, lambda: arm(method(), privacy, {"rate": 0.7, "dropout": 0.2}))
    assert apart(local, remote) < 1e-9
    assert local.guarantee is not None
    assert remote.guarantee is not None
    assert (remote.guarantee.accountant, remote.guarantee.epsilon) == ("rdp", local.guarantee.epsilon)
    words = remote.guarantee.in_words()
    assert "if nodes with a share of 0.9 of a sum's clients answer and keep their noise to themselves" in words
    # Of the noise of 36 users a node that knows 16 leaves 24 of 40 or, where 4 others are lost, 20 of 36.
    assert "the sum is not opened; where all take part, the largest of 4 nodes has 16 of 40 users, and against" in words
    assert "deviation is 0.816 of that, or 0.745 if others are lost), symmetrised" in words
    assert "a node knows that of its own users" in words
    assert "as long as it counts rightly who takes part" in words
    assert "the server is trusted to ask for no less noise and no more sums than are stated" in words


def test_a_node_that_knows_little_of_the_noise_is_not_spoken_of(devices: Devices) -> None:
    """Ten nodes of a tenth each, of which one may be lost or tell."""
    engine = engine_on(grid_of(devices, dealt(devices, 10)))
    words = protected(engine, {"trust": "distributed"}).mechanism
    assert "the largest of 10 nodes has 4 of 40 users), symmetrised" in words


def test_a_node_that_is_a_silo_has_one_part_of_the_noise_whatever_its_users(devices: Devices) -> None:
    """A fourth each: three of four that must answer leave the noise of two and of three."""
    section = PrivacyConfig(noise_multiplier=1.5, delta=1e-3, trust="distributed", answering=0.75, unit="silo")
    engine = engine_on(grid_of(devices, PARTS), silo_by="hospital")
    assert "the largest of 4 nodes has 1 of 4 silos), sym" in protect(engine, COUNT, section, SYSTEM, 4).mechanism
    section = PrivacyConfig(noise_multiplier=1.5, delta=1e-3, trust="distributed", answering=0.9, unit="silo")
    words = protect(engine, COUNT, section, SYSTEM, 4).mechanism
    assert "deviation is 0.866 of that), sym" in words


def test_bits_of_an_adaptive_clip_go_under_the_masks_of_nodes(devices: Devices) -> None:
    privacy = {"trust": "distributed", "adaptive": {"rate": 0.5, "share": 0.2}, "clip": 0.3}
    local, remote = both(devices, lambda: arm(ego(), privacy))
    assert apart(local, remote) < 1e-9


TENS = [list(range(10)), list(range(10, 17)), list(range(17, 27)), list(range(27, 40))]


def silent(grid: ChangedReplies, node: int) -> ChangedReplies:
    """A grid of which one node is lost after it has said who takes part, and shared its keys."""

    def change(reply: Message) -> Message:
        if "words" in reply.content:
            del reply.content["words"]
        return reply

    grid.node, grid.change = node, change
    return grid


@pytest.mark.parametrize("executed", [True, False], ids=["users", "nodes"])
@pytest.mark.parametrize("lost", [False, True], ids=["all", "least"])
def test_noise_under_masks_is_what_is_stated_and_the_least_share_has_it(
    devices: Devices, executed: bool, lost: bool
) -> None:
    """Of 40 users 30 must answer. A node of 10 is lost, with their noise, and what is left is just enough.

    1 false alarm in 50 million. A variance of 30 devices tells from one of 40: their χ² intervals do not meet.
    """
    privacy = {"trust": "distributed", "answering": 0.75, "executed": executed}
    wide = Devices(devices.keys, devices.indptr, devices.items, 500)
    there = wide.take(torch.arange(10, 40)) if lost else wide
    exact = LocalEngine(there, Streams(0)).sum(Count(500), round=1, clip=Clip(1.2)).sums["count"]
    noise = []
    for seed in range(8):
        grid = grid_of(wide, TENS)
        engine = engine_on(silent(grid, 1) if lost else grid, seed=seed)
        noise.append(protected(engine, privacy, seed).sum(Count(500), round=1).sums["count"] - exact)
    variance = (1.5 * 1.2) ** 2 * (1 if lost else 40 / 30)
    of_all = torch.stack(noise)
    for some in (of_all[:, :25], of_all[:, 25:]):  # items that somebody has, and those that nobody does
        as_stated(some, variance)


@pytest.mark.parametrize(("lost", "left"), [(False, 27 / 30), (True, 17 / 30)], ids=["all", "least"])
def test_a_node_that_takes_its_own_part_off_leaves_the_noise_that_the_guarantee_says(
    devices: Devices, lost: bool, left: float
) -> None:
    """The largest of four, with 13 of 40 users, of whom 30 must answer. 1 false alarm in 50 million."""
    privacy = {"trust": "distributed", "answering": 0.75}
    wide = Devices(devices.keys, devices.indptr, devices.items, 500)
    others, own = wide.take(torch.arange(10 if lost else 0, 27)), wide.take(torch.arange(27, 40))
    exact = LocalEngine(others, Streams(0)).sum(Count(500), round=1, clip=Clip(1.2)).sums["count"]
    asked = Asked(Count(500), 1, 0, Clip(1.2), (Part(("count",), 1.2, 1.5),))
    noise = []
    for seed in range(8):
        grid = grid_of(wide, TENS)
        engine = protected(engine_on(silent(grid, 1) if lost else grid, seed=seed), privacy, seed)
        source = SeededNoise(Streams(seed), "arm").for_devices()
        known = DistributedNoise(source, 40, 0.75)
        words = known.words(LocalEngine(own, Streams(seed)), asked, 40)
        opened = engine.sum(Count(500), round=1).sums["count"]
        noise.append(opened - known.noise(asked, 40).tables_of(words)["count"] - exact)
        assert f"{left**0.5:.3g}" in engine.mechanism
    of_all = torch.stack(noise)
    for some in (of_all[:, :25], of_all[:, 25:]):
        as_stated(some, (1.5 * 1.2) ** 2 * left)


def test_a_sum_is_not_opened_without_a_large_node_whose_noise_it_needs(devices: Devices) -> None:
    """Three of four nodes answer, which is enough of nodes; they speak for 27 users of 40, which is not of users."""
    grid = silent(grid_of(devices, TENS), 4)
    engine = protected(engine_on(grid), {"trust": "distributed", "answering": 0.75})
    with pytest.raises(PrivacyError, match=r"speak for 27 of 40 clients, and the sum is opened for 30 or more"):
        engine.sum(Count(25), round=1)
    assert not engine.ledger.releases
    exact = protected(engine_on(grid), {"trust": "secagg", "answering": 0.75})
    exact.sum(Count(25), round=1)  # whose noise is the server's


def test_of_a_sum_with_noise_of_nodes_no_message_holds_more_than_masks_and_who_takes_part(devices: Devices) -> None:
    seen: list[Message] = []
    half = ParticipationConfig(rate=0.5)
    engine = engine_on(grid_of(devices, PARTS, look=seen.append), participation=half)
    schedule = Schedule(COUNT.releases, 0.5, "independent")
    section = PrivacyConfig(noise_multiplier=1.5, delta=1e-3, trust="distributed")
    released = protect(engine, schedule, section, SeededNoise(Streams(3)), 40).sum(Count(25), round=1)
    assert (released.nodes, released.failed, released.answered, released.clipped) == (4, {}, 0, 0)
    answers = [m.content for m in seen if m.metadata.reply_to_message_id and "greeting" not in m.content]
    assert {name for answer in answers for name in answer} == {"answer", "drawn", "keys", "boxes", "words", "shares"}
    drawn = [int(str(answer["drawn"]["clients"])) for answer in answers if "drawn" in answer]
    expected = [LocalEngine(devices.take(torch.tensor(p)), Streams(3), half).sum(Count(25), round=1) for p in PARTS]
    assert drawn == [totals.answered for totals in expected]


def test_nodes_that_lie_about_who_takes_part_are_left_out(devices: Devices) -> None:
    grid = grid_of(devices, PARTS)

    def change(reply: Message) -> Message:
        if "drawn" in reply.content:
            reply.content["drawn"]["clients"] = 8
        return reply

    grid.change = change
    released = protected(engine_on(grid), {"trust": "distributed", "answering": 0.7}).sum(Count(25), round=1)
    assert released.failed == {"8 clients of a node of 7 users take part": 1}


def test_a_sum_that_may_have_been_opened_gets_no_other_noise(devices: Devices, tmp_path: Path) -> None:
    """Of the operating system's; a sum that was not opened is asked for again."""
    grid = silent(grid_of(devices, TENS, state=tmp_path), 4)
    privacy = {"trust": "distributed", "answering": 0.75}

    def asked() -> torch.Tensor:
        engine = engine_on(grid, randomness="os")
        engine.restore({"moment": torch.tensor([0, 0]), "kept": torch.zeros(0, 2, dtype=torch.int64)})
        return protected(engine, privacy).sum(Count(25), round=1).sums["count"]

    with pytest.raises(PrivacyError, match="speak for 27 of 40 clients"):
        asked()
    grid.change = None
    asked()
    with pytest.raises(PrivacyError, match=r"0 of 4 nodes answered .* may have been opened before"):
        asked()


TWICE = {"kind": "silos", "silos": 8}


@pytest.mark.parametrize("trust", ["central", "secagg", "distributed", "local"])
def test_silos_that_are_dealt_whole_are_clipped_and_noised_as_one(devices: Devices, trust: str) -> None:
    """8 silos of 5 users on 3 nodes, as a simulation on Ray has them; their outer products are no outer product."""
    silo = torch.arange(40) % 8
    silos = Devices(devices.keys, devices.indptr, devices.items, 25, silo)
    parts = [[user for user in range(40) if user % 8 in some] for some in ({0}, {1, 2, 3}, {4, 5, 6, 7})]
    grid, federation = grid_of(silos, parts), Federation(40, 25, Streams(3), torch.float64)
    privacy = {"unit": "silo", "delta": 0.01, "trust": trust}
    found = [arm(spectral(), privacy, population=TWICE) for _ in range(2)]
    overs: list[Population] = [LocalEngine(silos, Streams(3)), engine_on(grid, silos=True)]
    for one, over in zip(found, overs, strict=True):
        one.fit_over(over, federation, Training(3, "private", "cpu"), None, silos=8)
    assert apart(*found) < (1e-4 if trust == "secagg" else 1e-9)
    assert found[1].guarantee is not None
    assert "of 8, a number taken to be public" in found[1].guarantee.in_words()


def with_hospitals(devices: Devices, hospital: torch.Tensor) -> Devices:
    """Users who hold nothing out and know which hospital is theirs."""
    nothing = HeldOutItems(torch.zeros(41, dtype=torch.int64), devices.items[:0], (), torch.arange(25))
    return replace(devices, held_out={"test": replace(nothing, groups={"hospital": hospital})})


def test_a_node_is_one_silo_if_its_users_share_the_column(devices: Devices) -> None:
    hospital = torch.zeros(40, dtype=torch.int64)
    for number, part in enumerate(PARTS):
        hospital[part] = number
    grid = grid_of(with_hospitals(devices, hospital), PARTS)
    silos = Devices(devices.keys, devices.indptr, devices.items, 25, hospital)
    clip, half = Clip(0.2), ParticipationConfig(rate=0.6)
    local = LocalEngine(silos, Streams(3), half)
    engine = engine_on(grid, participation=half, silo_by="hospital")
    for round in range(1, 5):
        one, other = (over.sum(METHOD_QUERY, round=round, clip=clip) for over in (local, engine))
        assert (one.sums["items"] - other.sums["items"]).abs().max() < 1e-12
        assert one.answered == other.answered
    grid.change = lambda reply: longer(reply, 0.2)
    everyone = engine_on(grid, silo_by="hospital")
    assert not everyone.sum(METHOD_QUERY, round=5, clip=clip).failed
    grid.change = lambda reply: longer(reply, 0.21)
    assert "longer than its users' clips" in next(iter(everyone.sum(METHOD_QUERY, round=6, clip=clip).failed))
    mixed = engine_on(grid_of(with_hospitals(devices, torch.arange(40) % 4), PARTS), silo_by="hospital")
    with pytest.raises(RunError, match=r"population\.by = 'hospital': the node's users differ in it"):
        mixed.sum(METHOD_QUERY, round=1, clip=clip)
    with pytest.raises(RunError, match=r"population\.by = 'ward': no column"):
        engine_on(grid, silo_by="ward").sum(METHOD_QUERY, round=1, clip=clip)


METHOD_QUERY = LocalTraining(torch.randn(25, 4, dtype=torch.float64), "bce", 2, 0.3, 0.7, 3, 0.5, 0.5)


def longer(reply: Message, norm: float) -> Message:
    reply.content["sums"] = arrays({"items": torch.eye(25, 4, dtype=torch.float64) * norm / 2})
    return reply


def test_a_node_that_is_lost_in_a_round_changes_no_correlated_noise(devices: Devices) -> None:
    """Its users miss their turn, which nobody is charged for; what later rounds take back is what was added."""
    cycles = ParticipationConfig(sampling="cyclic", rate=0.5)
    schedule = Schedule((PlannedRelease(query="count", draws=5, clip=1.2),), 0.5, "cyclic")
    section = PrivacyConfig(noise_multiplier=1.5, delta=1e-3, continual=ContinualConfig(band=3))
    released = []
    for away in (set[int](), {4}):
        grid = grid_of(devices, PARTS)
        private = protect(engine_on(grid, participation=cycles), schedule, section, SeededNoise(Streams(3)), 40)
        for round in range(1, 6):
            grid.away = away if round == 2 else set()
            released.append(private.sum(Count(25), round=round).sums["count"])
    lost = LocalEngine(devices.take(torch.tensor(PARTS[3])), Streams(3), cycles)
    missing = lost.sum(Count(25), round=2, clip=Clip(1.2)).sums["count"]
    assert missing.abs().max() > 0.1
    for round, (whole, without) in enumerate(zip(released[:5], released[5:], strict=True), start=1):
        torch.testing.assert_close(whole - without, missing if round == 2 else torch.zeros_like(missing))
