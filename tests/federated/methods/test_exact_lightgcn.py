"""Exact LightGCN against centralised full-batch LightGCN, and what happens when not everybody answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.errors import DataError
from fedrec.federated import Ask, Devices, Federation, LocalEngine, ParticipationConfig, Query, Totals
from fedrec.federated.method import NobodyAnswered
from fedrec.federated.methods import ExactLightGCN, ExactLightGCNConfig
from fedrec.federated.queries import LossGradient, Propagate
from fedrec.federated.queries.propagation import GraphMemory
from fedrec.privacy import Clip
from fedrec.recommenders import FullBatchLightGCNConfig, Tensors, negatives
from fedrec.recommenders.full_batch import FullBatchLearner
from fedrec.streams import Streams

DOUBLE = torch.float64
FEDERATION = Federation(n_users=40, n_items=25, streams=Streams(0), dtype=DOUBLE)
NO_ROUNDS = torch.zeros(0, dtype=torch.int64)
Loss = Literal["bpr", "sampled-softmax"]


def run(method: ExactLightGCN, engine: LocalEngine, rounds: int) -> Tensors:
    state = method.start(FEDERATION)
    for number in range(1, rounds + 1):
        state = method.round(state, Ask(engine, number))
    return state


def scores(method: ExactLightGCN, engine: LocalEngine, state: Tensors) -> Tensor:
    query = method.memory(state)
    assert query is not None
    return method.score(state, *engine.look(torch.arange(len(engine.devices)), query))


def reference(train: Interactions, config: ExactLightGCNConfig, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Full-batch LightGCN written out on dense matrices, with autograd: layer-0 users and items, and the scores."""
    indptr, items = train.csr
    owner = torch.repeat_interleave(torch.arange(40), indptr.diff())
    adjacency = torch.zeros(65, 65, dtype=DOUBLE)
    adjacency[torch.from_numpy(train.user), 40 + torch.from_numpy(train.item)] = 1
    adjacency = adjacency + adjacency.T
    root = adjacency.sum(dim=1).clamp(min=1).rsqrt()
    adjacency = root.unsqueeze(1) * adjacency * root
    users = Streams(0).normal("user-vector", train.users.keys, config.dim)
    table = torch.randn(25, config.dim, generator=Streams(0).generator("items"), dtype=DOUBLE)
    embedding = (torch.cat([users, table]) * config.initial_scale).requires_grad_()
    optimizer = torch.optim.Adam([embedding], lr=config.rate)

    def tables() -> tuple[Tensor, Tensor]:
        layers = [embedding]
        for _ in range(config.layers):
            layers.append(adjacency @ layers[-1])
        final = torch.stack(layers).mean(dim=0)
        if config.loss == "sampled-softmax":
            final = final / final.norm(dim=1, keepdim=True)
        return final[:40], final[40:]

    for step in range(1, steps + 1):
        user_table, item_table = tables()
        drawn = torch.cat([_negatives(train, user, step, config.negatives) for user in range(40)])
        positive = (user_table[owner] * item_table[items]).sum(dim=1, keepdim=True)
        against = torch.einsum("md,mnd->mn", user_table[owner], item_table[drawn])
        if config.loss == "bpr":
            loss = -torch.log(torch.sigmoid(positive - against)).mean(dim=1).sum()
        else:
            loss = -torch.log_softmax(torch.cat([positive, against], dim=1) / config.temperature, dim=1)[:, 0].sum()
        norms = embedding.square().sum(dim=1)
        regularized = norms[owner] + norms[40 + items] + norms[40 + drawn].mean(dim=1)
        loss = loss + config.l2 / 2 * regularized.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        user_table, item_table = tables()
        if config.loss == "sampled-softmax":  # which ranks alike: a user's own vector is not normalised
            user_table = torch.stack([embedding, *_layers(adjacency, embedding, config.layers)]).mean(dim=0)[:40]
        return embedding.detach()[:40], embedding.detach()[40:], user_table @ item_table.T


def _negatives(train: Interactions, user: int, step: int, count: int) -> Tensor:
    """[items of the user, count], drawn as the user's device draws them when it is alone."""
    indptr, items = train.csr
    own = items[indptr[user] : indptr[user + 1]]
    counter, bounds = torch.arange(len(own) * count), torch.tensor([0, len(own)])
    key = train.users.keys[user : user + 1]
    return negatives(Streams(0, step), key, bounds, own, torch.zeros_like(counter), counter, 25).view(-1, count)


def _layers(adjacency: Tensor, embedding: Tensor, count: int) -> list[Tensor]:
    layers = [embedding]
    for _ in range(count):
        layers.append(adjacency @ layers[-1])
    return layers[1:]


@pytest.mark.parametrize(("loss", "layers"), [("bpr", 3), ("sampled-softmax", 2)])
def test_twenty_adam_steps_are_those_of_dense_full_batch_lightgcn(
    train: Interactions, devices: Devices, loss: Loss, layers: int
) -> None:
    config = ExactLightGCNConfig(dim=4, layers=layers, loss=loss, negatives=2, l2=0.01, initial_scale=0.5)
    method, engine = ExactLightGCN(config), LocalEngine(devices, Streams(0))
    state = run(method, engine, 21)  # the last round propagates the model of 20 steps and takes one more
    users, items, ranking = reference(train, config, 20)
    query = method.memory(state)
    assert query is not None
    memory = GraphMemory.of(engine.look(torch.arange(40), query)[1])
    torch.testing.assert_close(memory.embedding, users, rtol=0, atol=1e-9)
    torch.testing.assert_close(scores(method, engine, state), ranking, rtol=0, atol=1e-9)
    before = run(method, LocalEngine(devices, Streams(0)), 20)["items.layer0"]
    torch.testing.assert_close(before, items, rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", ["bpr", "sampled-softmax"])
def test_the_centralised_recommender_computes_the_same(train: Interactions, devices: Devices, loss: Loss) -> None:
    federated = ExactLightGCNConfig(dim=4, loss=loss, negatives=2, l2=0.01)
    central = FullBatchLightGCNConfig(dim=4, loss=loss, negatives=2, l2=0.01, precision="float64")
    learner = FullBatchLearner(central, train, 0, torch.device("cpu"))
    for number in range(1, 21):
        learner.step(number)
    method, engine = ExactLightGCN(federated), LocalEngine(devices, Streams(0))
    state = run(method, engine, 21)
    found = scores(method, engine, state)
    expected = learner.score(torch.arange(40))
    if loss == "sampled-softmax":  # cosines there, and here cosines times the norm of the user's vector
        found, expected = (matrix / matrix.norm(dim=1, keepdim=True).clamp(min=1e-300) for matrix in (found, expected))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_one_user_and_one_item_propagate_by_hand() -> None:
    """A user of two items adds e_u/√2 to both and keeps (X_0 + X_1)/√2."""
    devices = Devices(torch.tensor([5]), torch.tensor([0, 2]), torch.tensor([0, 1]), 3)
    layer = torch.tensor([[1.0], [3.0], [7.0]], dtype=DOUBLE)
    query = Propagate(layer, NO_ROUNDS, phase=0, layers=1, rate=0.1, initial_scale=1.0)
    engine = LocalEngine(devices, Streams(0))
    vector = query.initial(devices.cohort(torch.tensor([0])), Streams(0)).dense["embedding"].item()
    totals = engine.sum(query, round=1)
    assert totals.sums["layer"].flatten().tolist() == pytest.approx([vector / 2**0.5, vector / 2**0.5, 0.0])
    memory = GraphMemory.of(engine.look(torch.tensor([0]), query)[1])
    assert memory.layer.item() == pytest.approx(4 / 2**0.5)


def test_a_contributions_norm_is_that_of_the_users_vector(devices: Devices) -> None:
    query = Propagate(torch.ones(25, 4, dtype=DOUBLE), NO_ROUNDS, phase=0, layers=1, rate=0.1, initial_scale=1.0)
    cohort = devices.cohort(torch.arange(40))
    state = query.initial(cohort, Streams(0))
    rows, _ = query.contribute(cohort, state, Streams(0, 1))
    expected = state.dense["embedding"].square().sum(dim=1) * (cohort.degrees > 0)
    torch.testing.assert_close(rows["layer"].squared_norms(40), expected)


def test_the_sum_at_an_item_with_one_user_is_that_users_vector(devices: Devices) -> None:
    """What masking cannot hide."""
    lonely = int(torch.argmin(torch.bincount(devices.items, minlength=25) + 100 * (devices.items.bincount() == 0)))
    holders = torch.unique(torch.repeat_interleave(torch.arange(40), devices.indptr.diff())[devices.items == lonely])
    alone = devices.take(torch.cat([torch.arange(40)[~torch.isin(torch.arange(40), holders)], holders[:1]]))
    query = Propagate(torch.ones(25, 4, dtype=DOUBLE), NO_ROUNDS, phase=0, layers=1, rate=0.1, initial_scale=1.0)
    row = LocalEngine(alone, Streams(0)).sum(query, round=1).sums["layer"][lonely]
    victim = alone.cohort(torch.tensor([len(alone) - 1]))
    secret = query.initial(victim, Streams(0)).dense["embedding"][0]
    torch.testing.assert_close(row * victim.degrees.sqrt(), secret)


class Losing(LocalEngine):
    """An engine in which one user cannot be reached in some (round, phase), whatever was drawn."""

    def __init__(self, devices: Devices, user: int, moments: set[tuple[int, int]]) -> None:
        super().__init__(devices, Streams(0))
        self.user, self.moments = user, moments

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        if (round, phase) in self.moments:
            everyone = torch.arange(len(self.devices))
            drawn = replace(self._participants(query, round), on_time=everyone[everyone != self.user])
            self._drawn = (round, drawn)
            totals = super().sum(query, round=round, phase=phase, clip=clip)
            self._drawn = None
            return totals
        return super().sum(query, round=round, phase=phase, clip=clip)


@pytest.mark.parametrize("phase", range(5))
def test_a_step_in_which_the_answering_users_change_is_dropped_and_repeated(devices: Devices, phase: int) -> None:
    """User 3 is lost in one of the five sums of round 3, which leaves the model as rounds 1, 2, 4, 5 alone make it."""
    method = ExactLightGCN(ExactLightGCNConfig(dim=4, layers=2))
    engine = Losing(devices, 3, {(3, phase)})
    ended = run(method, engine, 5)
    assert ended["items.dropped"].tolist() == [3]
    whole, state = LocalEngine(devices, Streams(0)), method.start(FEDERATION)
    for number in (1, 2, 4, 5):
        state = method.round(state, Ask(whole, number))
    torch.testing.assert_close(ended["items.layer0"], state["items.layer0"], rtol=0, atol=1e-12)
    torch.testing.assert_close(scores(method, engine, ended), scores(method, whole, state), rtol=0, atol=1e-12)


def test_a_user_lost_for_a_whole_round_neither_steps_nor_counts(devices: Devices) -> None:
    """The step is one on the graph of the others: five sums in which the user has no part are dropped by nobody."""
    method = ExactLightGCN(ExactLightGCNConfig(dim=4, layers=2))
    engine = Losing(devices, 3, {(2, phase) for phase in range(5)})
    state = run(method, engine, 3)
    assert not len(state["items.dropped"])
    query = method.memory(state)
    assert query is not None
    steps = GraphMemory.of(engine.look(torch.arange(40), query)[1]).progress[:, 3]
    assert steps[3] == 1  # of round 1; the second step was the others', the third waits
    assert (steps[torch.arange(40) != 3] == 2).all()


def test_late_answers_are_of_another_step(devices: Devices) -> None:
    method = ExactLightGCN(ExactLightGCNConfig(dim=4, layers=1))
    engine = LocalEngine(devices, Streams(0), ParticipationConfig(straggler=0.3, late="fold"))
    # Those of round 1, which counts degrees first, find other questions in round 2 and are lost.
    assert run(method, engine, 4)["items.dropped"].tolist() == [3, 4]


def test_nobody_answering_leaves_everything_as_it_was(devices: Devices) -> None:
    method = ExactLightGCN(ExactLightGCNConfig(dim=4))
    with pytest.raises(NobodyAnswered):
        method.round(
            method.start(FEDERATION), Ask(LocalEngine(devices, Streams(0), ParticipationConfig(rate=1e-12)), 1)
        )


def test_a_dropped_refresh_is_repeated_in_the_next_round(devices: Devices) -> None:
    method = ExactLightGCN(ExactLightGCNConfig(dim=4, layers=2, refresh_every=3))
    engine, state, asked = Losing(devices, 3, {(4, 3)}), method.start(FEDERATION), []
    for number in range(1, 8):
        ask = Ask(engine, number)
        state = method.round(state, ask)
        asked.append(len(ask.totals))
    assert asked == [6, 1, 1, 4, 5, 1, 5]
    assert state["items.dropped"].tolist() == [4]


def test_refreshing_every_third_round_asks_for_a_third_of_the_passes(devices: Devices) -> None:
    method = ExactLightGCN(ExactLightGCNConfig(dim=4, layers=2, refresh_every=3))
    engine, state = LocalEngine(devices, Streams(0)), method.start(FEDERATION)
    asked = []
    for number in range(1, 7):
        ask = Ask(engine, number)
        before, state = state, method.round(state, ask)
        asked.append(len(ask.totals))
        assert torch.equal(before["items.forward"], state["items.forward"]) == (number not in (1, 4))
        assert (before["items.layer0"] != state["items.layer0"]).any()
    assert asked == [6, 1, 1, 5, 1, 1]  # the first round counts degrees too


def test_a_loss_that_is_not_known_is_refused() -> None:
    table = torch.ones(2, 2)
    with pytest.raises(DataError, match="loss 'hinge' is unknown"):
        LossGradient(table, NO_ROUNDS, 1, 1, "hinge", 0.1, 1, 0.0, 0.1, 0.1)
