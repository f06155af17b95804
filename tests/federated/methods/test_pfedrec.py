"""PFedRec: the hand-written training against autograd, its batches, and what devices keep and send."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedrec.federated import Ask, Cohort, Devices, Federation, LocalEngine, Rows, State
from fedrec.federated.methods import PFedRec, PFedRecConfig
from fedrec.federated.queries import PersonalTraining
from fedrec.federated.queries.personal_training import personal_scores
from fedrec.federated.queries.samples import Samples
from fedrec.recommenders.sampling import negatives
from fedrec.streams import Streams

DOUBLE = torch.float64
EVERYONE = torch.arange(40)
FEDERATION = Federation(n_users=40, n_items=25, streams=Streams(0), dtype=DOUBLE)


def query(*, alone: bool = False) -> PersonalTraining:
    items = torch.randn(25, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    return PersonalTraining(items, epochs=2, batch_size=7, score_rate=0.4, item_rate=1.5, negatives=3, alone=alone)


def samples_of(query: PersonalTraining, cohort: Cohort, draw: Streams) -> Samples:
    """One user's samples: own items first, then the negatives of each."""
    own, size = cohort.items, len(cohort.items)
    counter = torch.arange(size * query.negatives)
    zero = torch.zeros_like(counter)
    drawn = negatives(draw, cohort.keys, cohort.indptr, own, zero, counter, cohort.n_items)
    item = torch.cat([own, drawn])
    target = torch.cat([torch.ones(size), torch.zeros(len(drawn))]).to(DOUBLE)
    return Samples(torch.zeros_like(item), item, target, torch.arange(len(item)), torch.tensor([len(item)]))


def reference(query: PersonalTraining, cohort: Cohort, score: Tensor, draw: Streams) -> tuple[Tensor, Tensor]:
    """One user's training with a whole item table and autograd: slow and obvious."""
    table, samples = query.items.clone(), samples_of(query, cohort, draw)
    for batch in samples.batches(draw, cohort.keys, query.epochs, query.batch_size):

        def loss(table: Tensor, score: Tensor, batch: Tensor = batch) -> Tensor:
            logits = table[samples.item[batch]] @ score[:-1] + score[-1]
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, samples.target[batch])

        table, score = table.requires_grad_(), score.requires_grad_()
        score = (score - query.score_rate * torch.autograd.grad(loss(table, score), score)[0]).detach()
        table = (table - query.item_rate * torch.autograd.grad(loss(table, score), table)[0]).detach()
    return table, score


def test_training_a_cohort_is_autograd_of_each_user(devices: Devices) -> None:
    asked, draw, cohort = query(), Streams(3, round=2), devices.cohort(EVERYONE)
    start = asked.initial(cohort, Streams(3))
    contributions, state = asked.contribute(cohort, start, draw)
    sent, kept = contributions["items"], state.ragged["items"]
    assert isinstance(sent, Rows)
    assert sent.faults(40, (25, 4)) == {}
    for user in (0, 5, 23, 39):
        table, score = reference(asked, devices.cohort(torch.tensor([user])), start.dense["score"][user], draw)
        mine = asked.items.clone()
        mine[kept.index[kept.owner == user]] = kept.value[kept.owner == user]
        torch.testing.assert_close(mine, table, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.dense["score"][user], score, rtol=0, atol=1e-12)
    torch.testing.assert_close(sent.value, kept.value - asked.items[kept.index])
    assert not (sent.owner == 11).any()  # a user without items sends nothing


def test_one_step_by_hand() -> None:
    """d = 1, T = (1, -1), w = b = 0, item 0 owned, item 1 the one negative, rates 1.

    All slopes are ±½ of a mean of two: ∂ℓ/∂w = ½(−½ · 1 + ½ · −1) = −½ and ∂ℓ/∂b = 0. With w = ½ the scores are ±½, the
    slopes −σ(−½)/2 and σ(−½)/2, and both rows move by σ(−½)/4 away from each other.
    """
    asked = PersonalTraining(torch.tensor([[1.0], [-1.0]], dtype=DOUBLE), 1, 9, 1.0, 1.0, 1, alone=False)
    cohort = Devices(torch.tensor([5]), torch.tensor([0, 1]), torch.tensor([0]), 2).cohort(torch.tensor([0]))
    nothing = Rows(cohort.owner[:0], cohort.items[:0], asked.items[:0])
    before = State({"score": torch.zeros(1, 2, dtype=DOUBLE)}, {"items": nothing})
    contributions, after = asked.contribute(cohort, before, Streams(0, round=1))
    assert after.dense["score"].tolist() == [[0.5, 0.0]]
    step = torch.sigmoid(torch.tensor(-0.5, dtype=DOUBLE)) / 4
    torch.testing.assert_close(contributions["items"].value, torch.stack([step, -step]).unsqueeze(1))


def test_an_epochs_batches_hold_each_sample_once_and_do_not_depend_on_company(devices: Devices) -> None:
    asked, draw = query(), Streams(0, round=1)
    several, alone = (devices.cohort(torch.tensor(users)) for users in ([3, 23, 7], [23]))
    together, single = asked.samples(several, draw), asked.samples(alone, draw)
    batches = list(together.batches(draw, several.keys, 1, 7))
    assert torch.cat(batches).sort().values.tolist() == list(range(len(together.owner)))
    for batch in batches:
        assert int(torch.bincount(together.owner[batch]).max()) <= 7
    own = [together.item[batch[together.owner[batch] == 1]].tolist() for batch in batches]
    assert [items for items in own if items] == [
        single.item[batch].tolist() for batch in single.batches(draw, alone.keys, 1, 7)
    ]
    assert len({tuple(batch.tolist()) for batch in together.batches(draw, several.keys, 2, 99)}) == 2  # reshuffled


def test_the_servers_table_is_the_mean_of_the_users_tables(devices: Devices) -> None:
    method = PFedRec(PFedRecConfig(dim=4, item_rate=50.0))
    engine, state = LocalEngine(devices, Streams(0)), method.start(FEDERATION)
    after = method.round(state, Ask(engine, 1))
    _, private = engine.look(EVERYONE, method.memory(after))
    tables = state["items"].repeat(40, 1, 1)
    rows = private.ragged["items"]
    tables[rows.owner, rows.index] = rows.value
    torch.testing.assert_close(after["items"], tables.mean(dim=0))
    assert torch.equal(after["sent"], state["items"])
    scores = method.score(after, devices.cohort(EVERYONE), private)
    score = private.dense["score"]
    torch.testing.assert_close(scores, (tables @ score[:, :-1].unsqueeze(2)).squeeze(2) + score[:, -1:])


def test_alone_a_device_sends_nothing_and_goes_on_from_its_own_rows(devices: Devices) -> None:
    method = PFedRec(PFedRecConfig(dim=4, item_rate=5.0, aggregate=False))
    engine, state = LocalEngine(devices, Streams(0)), method.start(FEDERATION)
    touched = torch.zeros(40, 25, dtype=torch.bool)
    for number in (1, 2, 3):
        ask = Ask(engine, number)
        assert torch.equal(method.round(state, ask)["items"], state["items"])
        assert ask.totals[0].bytes_up == 0
        shared = replace(method.memory(state), alone=False)
        drawn = shared.samples(devices.cohort(EVERYONE), Streams(0, round=number))
        touched[drawn.owner, drawn.item] = True
    _, private = engine.look(EVERYONE, method.memory(state))
    rows = private.ragged["items"]
    assert rows.faults(40, (25, 4)) == {}
    assert torch.equal(torch.stack([rows.owner, rows.index], dim=1), touched.nonzero())
    # Three rounds of one user are the autograd of three rounds, each from where the last one ended.
    alone, asked = devices.cohort(torch.tensor([23])), method.memory(state)
    table, score = asked.items, asked.initial(alone, Streams(0)).dense["score"][0]
    for number in (1, 2, 3):
        table, score = reference(replace(asked, items=table), alone, score, Streams(0, round=number))
    torch.testing.assert_close(rows.value[rows.owner == 23], table[touched[23]], rtol=0, atol=1e-12)


def test_everybody_begins_with_the_same_score_function_and_no_row(devices: Devices) -> None:
    start = query().initial(devices.cohort(EVERYONE), Streams(0))
    assert (start.dense["score"] == start.dense["score"][0]).all()
    assert start.dense["score"].abs().max() <= 0.5
    assert not len(start.ragged["items"].owner)
    assert not torch.equal(
        start.dense["score"][0], query().initial(devices.cohort(EVERYONE), Streams(1)).dense["score"][0]
    )


@pytest.mark.parametrize("alone", [False, True])
def test_users_without_negatives_or_items_learn_nothing(alone: bool) -> None:
    full = Devices(torch.tensor([5, 6]), torch.tensor([0, 25, 25]), torch.arange(25), 25).cohort(torch.tensor([0, 1]))
    asked = query(alone=alone)
    start = asked.initial(full, Streams(0))
    contributions, state = asked.contribute(full, start, Streams(0, round=1))
    assert not len(contributions["items"].owner)
    assert torch.equal(state.dense["score"], start.dense["score"])
    torch.testing.assert_close(personal_scores(state, asked.items)[0], personal_scores(start, asked.items)[1])
