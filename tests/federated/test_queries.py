"""Each query's contribution against a computation by hand or by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated import QUERIES, Cohort, Devices, LocalEngine, Query, State, build_query
from fedrec.federated.queries import Count, Gram, LocalTraining, Subspace
from fedrec.recommenders.sampling import negatives
from fedrec.streams import Streams


def local_training(items: Tensor, loss: str = "bce", steps: int = 1, **changes: float) -> LocalTraining:
    settings: dict[str, float] = {"item_rate": 0.3, "user_rate": 0.7, "activity_power": 0.5, "initial_scale": 0.5}
    settings |= changes
    return LocalTraining(items=items, loss=loss, steps=steps, negatives=3, **settings)


def reference_local_training(
    query: LocalTraining, cohort: Cohort, user: Tensor, draw: Streams
) -> tuple[Tensor, Tensor]:
    """One user's local training, with a whole item table and autograd: slow and obvious."""
    table, vector = query.items.clone(), user.clone()
    own, size = cohort.items, len(cohort.items)
    for step in range(query.steps):
        counter = torch.arange(size * query.negatives) + step * size * query.negatives
        zero = torch.zeros(len(counter), dtype=torch.int64)
        drawn = negatives(draw, cohort.keys, cohort.indptr, own, zero, counter, cohort.n_items)
        table.requires_grad_()
        vector.requires_grad_()
        embedding = 0.5 * (vector + table[own].sum(dim=0) / size**0.5)
        scores = table @ embedding
        if query.loss == "bce":
            loss = -torch.nn.functional.logsigmoid(scores[own]).sum()
            loss = loss - torch.nn.functional.logsigmoid(-scores[drawn]).sum()
        else:
            margin = scores[own].unsqueeze(1) - scores[drawn.view(size, -1)]
            loss = -torch.nn.functional.logsigmoid(margin).mean(dim=1).sum()
        loss = loss / size**query.activity_power
        by_table, by_vector = torch.autograd.grad(loss, (table, vector))
        table = (table - query.item_rate * by_table).detach()
        vector = (vector - query.user_rate * by_vector).detach()
    return table - query.items, vector


@pytest.mark.parametrize("loss", ["bce", "bpr"])
@pytest.mark.parametrize("steps", [1, 3])
def test_local_training_of_a_cohort_is_autograd_of_each_user(devices: Devices, loss: str, steps: int) -> None:
    items = torch.randn(25, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    query, draw = local_training(items, loss, steps), Streams(3, round=2)
    cohort = devices.cohort(torch.arange(40))
    start = query.initial(cohort, Streams(3))
    contributions, state = query.contribute(cohort, start, draw)
    rows = contributions["items"]
    assert rows.faults(40, (25, 4)) == {}
    for user in (0, 5, 23, 39):
        alone = devices.cohort(torch.tensor([user]))
        change, vector = reference_local_training(query, alone, start.dense["user"][user], draw)
        mine = torch.zeros(25, 4, dtype=torch.float64)
        mine[rows.index[rows.owner == user]] = rows.value[rows.owner == user]
        torch.testing.assert_close(mine, change, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.dense["user"][user], vector, rtol=0, atol=1e-12)
    assert not (rows.owner == 11).any()  # a user without items sends nothing


def test_count_is_the_degree(devices: Devices) -> None:
    totals = LocalEngine(devices, Streams(0)).sum(Count(25), round=1)
    expected = torch.bincount(devices.items, minlength=25).double()
    assert torch.equal(totals.sums["count"].squeeze(1), expected)
    contributions, _ = Count(25).contribute(devices.cohort(torch.tensor([7])), State(), Streams(0))
    assert contributions["count"].squared_norms(1).item() == 8  # √d_u squared


def test_gram_and_subspace_are_the_matrix_and_its_product(devices: Devices) -> None:
    weight = torch.linspace(0.2, 1.0, 25, dtype=torch.float64)
    dense = torch.zeros(40, 25, dtype=torch.float64)
    owner = torch.repeat_interleave(torch.arange(40), devices.indptr.diff())
    dense[owner, devices.items] = weight[devices.items]
    dense /= devices.indptr.diff().clamp(min=1).sqrt().unsqueeze(1)
    matrix = dense.T @ dense
    engine = LocalEngine(devices, Streams(0))
    torch.testing.assert_close(engine.sum(Gram(weight), round=1).sums["gram"], matrix)
    basis = torch.randn(25, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product = engine.sum(Subspace(weight, basis), round=2).sums["product"]
    torch.testing.assert_close(product, matrix @ basis)


def test_weights_of_one_make_every_gram_contribution_of_norm_one(devices: Devices) -> None:
    cohort = devices.cohort(torch.arange(40))
    contributions, _ = Gram(torch.ones(25, dtype=torch.float64)).contribute(cohort, State(), Streams(0))
    expected = (cohort.degrees > 0).double()
    torch.testing.assert_close(contributions["gram"].squared_norms(40), expected)


def test_a_query_survives_its_message() -> None:
    query = local_training(torch.randn(25, 4))
    again = build_query(query.kind, query.broadcast, query.settings)
    assert isinstance(again, LocalTraining)
    assert again.settings == query.settings
    assert torch.equal(again.items, query.items)


def test_what_is_not_on_the_allow_list_is_refused() -> None:
    with pytest.raises(DataError, match=r"'os\.system' is not on this node's allow-list"):
        build_query("os.system", {}, {})
    with pytest.raises(DataError, match="'count' does not fit"):
        build_query("count", {}, {"n_itmes": 5})
    with pytest.raises(DataError, match="loss 'hinge' is unknown"):
        local_training(torch.ones(2, 2), loss="hinge")


def test_every_kind_on_the_list_is_a_query() -> None:
    assert {"count", "gram", "subspace", "local-training"} <= set(QUERIES)
    assert all(issubclass(query, Query) and query.kind == kind for kind, query in QUERIES.items())
