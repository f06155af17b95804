"""Each query's contribution against a computation by hand or by autograd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedrec.errors import DataError
from fedrec.federated import QUERIES, Cohort, Devices, LocalEngine, Query, Rows, State, build_query
from fedrec.federated.methods.ego_lightgcn import EgoLightGCN, EgoLightGCNConfig
from fedrec.federated.queries import Count, Gram, LocalTraining, Subspace
from fedrec.privacy import Clip
from fedrec.recommenders.sampling import negatives
from fedrec.streams import Streams


def local_training(items: Tensor, loss: str = "bce", steps: int = 1, **changes: Any) -> LocalTraining:
    settings: dict[str, Any] = {"item_rate": 0.3, "user_rate": 0.7, "activity_power": 0.5, "initial_scale": 0.5}
    settings |= changes
    return LocalTraining(items=items, loss=loss, steps=steps, negatives=3, **settings)


def reference_local_training(
    query: LocalTraining, cohort: Cohort, user: Tensor, draw: Streams
) -> tuple[Tensor, Tensor]:
    """One client's local training, [n, d] user vectors on one whole item table, and autograd: slow and obvious."""
    table, vectors = query.items.clone(), user.clone()
    fewest = query.fewest_steps or query.steps
    taken = fewest + draw.integers("local-steps", cohort.keys, query.steps - fewest + 1)
    for step in range(query.steps):
        table.requires_grad_()
        vectors.requires_grad_()
        loss = table.sum() * 0 + vectors.sum() * 0
        for place in torch.nonzero(taken > step).flatten().tolist():
            own = cohort.items[cohort.indptr[place] : cohort.indptr[place + 1]]
            size = len(own)
            counter = torch.arange(size * query.negatives) + step * size * query.negatives
            slot_owner = torch.full_like(counter, place)
            drawn = negatives(draw, cohort.keys, cohort.indptr, cohort.items, slot_owner, counter, cohort.n_items)
            embedding = 0.5 * (vectors[place] + table[own].sum(dim=0) / size**0.5)
            scores = table @ embedding
            if query.loss == "bce":
                mine = -torch.nn.functional.logsigmoid(scores[own]).sum()
                mine = mine - torch.nn.functional.logsigmoid(-scores[drawn]).sum()
            else:
                margin = scores[own].unsqueeze(1) - scores[drawn.view(size, -1)]
                mine = -torch.nn.functional.logsigmoid(margin).mean(dim=1).sum()
            loss = loss + mine / size**query.activity_power
        by_table, by_vectors = torch.autograd.grad(loss, (table, vectors))
        table = (table - query.item_rate * by_table).detach()
        vectors = (vectors - query.user_rate * by_vectors).detach()
    return table - query.items, vectors


PLAIN = pytest.mark.parametrize("compiled", ["0", "1"], ids=["plain", "compiled"])


@PLAIN
@pytest.mark.parametrize("loss", ["bce", "bpr"])
@pytest.mark.parametrize(("steps", "fewest"), [(1, 0), (3, 0), (4, 1)])
def test_local_training_of_a_cohort_is_autograd_of_each_user(
    devices: Devices, loss: str, steps: int, fewest: int, compiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDREC_COMPILED", compiled)
    items = torch.randn(25, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    query, draw = local_training(items, loss, steps, fewest_steps=fewest), Streams(3, round=2)
    cohort = devices.cohort(torch.arange(40))
    start = query.initial(cohort, Streams(3))
    contributions, state = query.contribute(cohort, start, draw)
    rows = contributions["items"]
    assert isinstance(rows, Rows)
    assert rows.faults(40, (25, 4)) == {}
    for user in (0, 5, 23, 39):
        alone = devices.cohort(torch.tensor([user]))
        change, vector = reference_local_training(query, alone, start.dense["user"][[user]], draw)
        mine = torch.zeros(25, 4, dtype=torch.float64)
        mine[rows.index[rows.owner == user]] = rows.value[rows.owner == user]
        torch.testing.assert_close(mine, change, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.dense["user"][[user]], vector, rtol=0, atol=1e-12)
    assert not (rows.owner == 11).any()  # a user without items sends nothing


@PLAIN
def test_the_users_of_a_silo_train_one_local_copy(
    devices: Devices, compiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDREC_COMPILED", compiled)
    items = torch.randn(25, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    query, draw = local_training(items, "bce", 3, fewest_steps=2), Streams(3, round=2)
    dealt = replace(devices, silo=torch.arange(40) // 5)
    cohort = dealt.cohort(torch.arange(3 * 5, 7 * 5))
    start = query.initial(cohort, Streams(3))
    contributions, state = query.contribute(cohort, start, draw)
    answers = contributions["items"].by_client(cohort.client, 25)
    assert answers.faults(4, (25, 4)) == {}
    for silo in range(4):
        users = torch.arange(5 * silo, 5 * silo + 5)
        change, vectors = reference_local_training(query, cohort.take(users), start.dense["user"][users], draw)
        mine = torch.zeros(25, 4, dtype=torch.float64)
        mine[answers.index[answers.owner == silo]] = answers.value[answers.owner == silo]
        torch.testing.assert_close(mine, change, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.dense["user"][users], vectors, rtol=0, atol=1e-12)


def uneven(n_items: int) -> Devices:
    """Users with no item, one, every item, all but one, and some; the catalogue may be much larger than they know."""
    generator = torch.Generator().manual_seed(5)
    sizes = [0, 1, n_items, n_items - 1, 7, 60, 0, 2] if n_items < 100 else [0, 1, 7, 60, 700]
    histories = [torch.randperm(n_items, generator=generator)[: min(size, n_items)].sort().values for size in sizes]
    indptr = torch.tensor([0, *(len(history) for history in histories)]).cumsum(0)
    return Devices(torch.arange(len(sizes)) * 7919 - 3, indptr, torch.cat(histories), n_items)


@pytest.mark.parametrize("n_items", [2, 64, 65, 12_345])
@pytest.mark.parametrize(("loss", "steps", "fewest"), [("bce", 1, 0), ("bpr", 3, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_local_training_equals_the_plain_version(
    n_items: int, loss: str, steps: int, fewest: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices, generator = uneven(n_items), torch.Generator().manual_seed(2)
    query = local_training(torch.randn(n_items, 5, dtype=dtype, generator=generator), loss, steps, fewest_steps=fewest)
    cohort, draw = devices.cohort(torch.arange(len(devices))), Streams(4, round=3)
    start = query.initial(cohort, Streams(4))
    answers = {}
    for compiled in ("0", "1"):
        monkeypatch.setenv("FEDREC_COMPILED", compiled)
        contributions, state = query.contribute(cohort, start, draw)
        answers[compiled] = contributions["items"], state.dense["user"]
    (plain, plain_user), (compiled_rows, compiled_user) = answers["0"], answers["1"]
    assert isinstance(plain, Rows)
    assert isinstance(compiled_rows, Rows)
    assert torch.equal(plain.owner, compiled_rows.owner)  # the very same negatives
    assert torch.equal(plain.index, compiled_rows.index)
    close = 1e-12 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(compiled_rows.value, plain.value, rtol=close, atol=close)
    torch.testing.assert_close(compiled_user, plain_user, rtol=close, atol=close)


def test_numbers_of_local_steps_are_uniform_and_their_bounds_are_checked() -> None:
    users = 4000
    everyone = Devices(
        torch.arange(users) * 7919, torch.arange(users + 1), torch.zeros(users, dtype=torch.int64), 10**6
    )
    query = local_training(torch.zeros(10**6, 1), "bce", 3, fewest_steps=2)
    rows = query.contribute(everyone.cohort(torch.arange(users)), State({"user": torch.zeros(users, 1)}), Streams(0))[0]
    touched = torch.bincount(rows["items"].owner, minlength=users)
    # Three negatives a step of a million items hardly ever meet: 7 rows after two steps, 10 after three, each with
    # probability ½. The deviation of the count is 32; five are exceeded once in 1.7 million seeds.
    assert abs(int((touched > 8).sum()) - users // 2) < 5 * 32
    assert set(touched.tolist()) == {7, 10}
    with pytest.raises(DataError, match="fewest_steps = 4 of 3 steps"):
        local_training(torch.zeros(2, 2), "bce", 3, fewest_steps=4)
    with pytest.raises(ValueError, match="fewest_local_steps = 3 is more than local_steps = 2"):
        EgoLightGCNConfig(local_steps=2, fewest_local_steps=3)
    assert (
        EgoLightGCN(EgoLightGCNConfig(local_steps=3, fewest_local_steps=2)).memory({"items": query.items}).fewest_steps
        == 2
    )


def test_values_that_are_not_finite_survive_compilation(devices: Devices) -> None:
    items = torch.zeros(25, 4)
    items[3, 2] = float("nan")
    engine = LocalEngine(devices, Streams(0))
    totals = engine.sum(local_training(items), round=1)
    has_it = sum(3 in devices.cohort(torch.tensor([user])).items for user in range(40))
    assert totals.refused["a value that is not finite"] >= has_it > 0
    assert torch.isfinite(totals.sums["items"]).all()


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


def test_gram_asks_nothing_of_items_of_weight_zero(devices: Devices) -> None:
    """The matrix of the others, and histories as if there were no more items: clipped to 1, x_u x_uᵀ over their sum."""
    weight = torch.zeros(25, dtype=torch.float64)
    head = torch.tensor([2, 3, 7, 11, 24])
    weight[head] = 1.0
    matrix = torch.zeros(40, 25, dtype=torch.float64)
    matrix[torch.repeat_interleave(torch.arange(40), devices.indptr.diff()), devices.items] = 1.0
    own = matrix[:, head]
    assert Gram(weight, 0.0).tables == {"gram": (5, 5)}
    engine = LocalEngine(devices, Streams(0))
    torch.testing.assert_close(engine.sum(Gram(weight, 0.0), round=1).sums["gram"], own.T @ own)
    clipped = engine.sum(Gram(weight, 0.0), round=1, clip=Clip(1.0)).sums["gram"]
    own = own / own.sum(dim=1, keepdim=True).clamp(min=1.0).sqrt()
    torch.testing.assert_close(clipped, own.T @ own)
    torch.testing.assert_close(engine.sum(Gram(weight), round=1).sums["gram"], own.T @ own)


def test_one_user_moves_a_clipped_gram_of_the_head_by_at_most_the_clip(devices: Devices) -> None:
    """Adjacent populations: everyone, and everyone but one, for each of the forty."""
    weight = (torch.arange(25) % 3 == 0).double()
    clip, everyone = Clip(0.7), torch.arange(40)
    whole = LocalEngine(devices, Streams(0)).sum(Gram(weight, 0.0), round=1, clip=clip).sums["gram"]
    moved = []
    for user in range(40):
        others = devices.take(everyone[everyone != user])
        without = LocalEngine(others, Streams(0)).sum(Gram(weight, 0.0), round=1, clip=clip).sums["gram"]
        moved.append(float((whole - without).norm()))
    assert 0.7 - 1e-9 < max(moved) <= 0.7 + 1e-12
    assert min(moved) == 0  # who has nothing


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
