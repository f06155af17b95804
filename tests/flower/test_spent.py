"""What a node's operator grants: counted by user, over all runs, and held to whatever a server asks."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from flwr.app import Message
from safetensors.numpy import load_file

from fedrec.errors import DataError, PrivacyError, RunError
from fedrec.federated import Devices, PrivateEngine
from fedrec.federated.participation import ParticipationConfig
from fedrec.federated.protection import protect
from fedrec.federated.queries import Census, Count
from fedrec.flower.masked_engine import MaskedEngine
from fedrec.flower.own_noise import OwnNoise
from fedrec.flower.requests import refused
from fedrec.flower.spent import Account
from fedrec.flower.stores import FolderStore
from fedrec.privacy import (
    AdaptiveClipConfig,
    Clip,
    PlannedRelease,
    PrivacyConfig,
    Schedule,
    SystemNoise,
    Trust,
    epsilon,
)
from fedrec.privacy.accounting import Draws
from fedrec.privacy.grant import Grant, epsilon_of_gaussian, epsilon_of_renyi
from tests.flower.nodes import ChangedReplies, dealt, engine_on, grid_of
from tests.flower.test_guarantees import silent, with_hospitals

SIGMA, ROUNDS = 1.5, 4
START = {"moment": torch.tensor([0, 0]), "kept": torch.zeros(0, 2, dtype=torch.int64)}


def nodes(devices: Devices, state: Path, bound: float, number: int = 4, **more: Any) -> ChangedReplies:
    return grid_of(devices, dealt(devices, number), state=state, epsilon=bound, delta=1e-3, **more)


def private(
    grid: ChangedReplies,
    trust: Trust = "local",
    session: str = "run.arm.0",
    schedule: Schedule | None = None,
    engine: dict[str, Any] | None = None,
    **privacy: Any,
) -> PrivateEngine:
    over = engine_on(grid, session=session, **{"randomness": "os", **(engine or {})})
    over.restore(START)
    section = PrivacyConfig(noise_multiplier=SIGMA, delta=1e-3, trust=trust, **privacy)
    planned = schedule or Schedule((PlannedRelease(query="count", draws=ROUNDS, clip=1.2),))
    clients = 4 if privacy.get("unit") == "silo" else 40
    return protect(over, planned, section, SystemNoise(), clients)


def count(over: PrivateEngine, *rounds: int) -> list[torch.Tensor]:
    return [over.sum(Count(25), round=round).sums["count"] for round in rounds]


def spent(state: Path, node: int = 1) -> np.ndarray:
    """[n, 2] of a node's users."""
    return np.asarray(load_file(state / str(node) / "spent.safetensors")["spent"])


def price(trust: Trust, rounds: int = ROUNDS) -> float:
    """What a guarantee says of so many releases of everyone's."""
    return epsilon([Draws(SIGMA, 1.0, rounds)], 1e-3, "rdp" if trust == "distributed" else "prv")


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_an_experiment_runs_where_as_much_is_granted_as_it_states_and_not_a_sum_more(
    devices: Devices, tmp_path: Path, trust: Trust
) -> None:
    """A second fit is another release of the same users, and so is another run, whatever its name."""
    grid = nodes(devices, tmp_path, price(trust))
    over = private(grid, trust)
    count(over, *range(1, ROUNDS + 1))
    assert over.planned().epsilon(1e-3, "rdp" if trust == "distributed" else "prv") == price(trust)
    for node in (1, 2, 3, 4):
        column = int(trust == "distributed")
        assert spent(tmp_path, node)[:, column].tolist() == pytest.approx([ROUNDS / SIGMA**2] * 10)
        assert not spent(tmp_path, node)[:, 1 - column].any()
    of = {"local": epsilon_of_gaussian, "distributed": epsilon_of_renyi}[trust]
    would = of((ROUNDS + 1) / SIGMA**2, 1e-3)
    for session in ("run.arm.1", "another.arm.0", "spent.arm.0"):
        said = f"the operator grants epsilon = {price(trust):.4g}, and with this sum it would be {would:.4g} at"
        with pytest.raises((RunError, PrivacyError), match=said):
            count(private(grid, trust, session), 1)
    assert spent(tmp_path).sum() == pytest.approx(10 * ROUNDS / SIGMA**2)  # a refused sum is not charged for


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_a_little_less_stops_before_the_last_sum(devices: Devices, tmp_path: Path, trust: Trust) -> None:
    over = private(nodes(devices, tmp_path, price(trust) * 0.99), trust)
    count(over, *range(1, ROUNDS))
    with pytest.raises((RunError, PrivacyError), match="the operator grants"):
        count(over, ROUNDS)


def test_noise_that_is_next_to_none_is_not_added(devices: Devices, tmp_path: Path) -> None:
    grid = nodes(devices, tmp_path, 8.0)
    for sigma in (0.1, 1e-300):
        section = PrivacyConfig(noise_multiplier=sigma, delta=1e-3, trust="local")
        over = engine_on(grid, session="run.arm.0", randomness="os")
        schedule = Schedule((PlannedRelease(query="count", draws=1, clip=1.2),))
        with pytest.raises(RunError, match=r"with this sum it would be (8\d|inf)"):
            count(protect(over, schedule, section, SystemNoise(), 40), 1)
    assert not (tmp_path / "1" / "spent.safetensors").exists()


def test_what_is_asked_again_is_not_paid_again(devices: Devices, tmp_path: Path) -> None:
    """By a server that was killed: the noise is the same."""
    grid = nodes(devices, tmp_path, price("local", 1))
    first = count(private(grid), 1)
    assert torch.equal(count(private(grid), 1)[0], first[0])
    assert spent(tmp_path)[:, 0].tolist() == pytest.approx([SIGMA**-2] * 10)


def test_a_sum_that_was_not_opened_is_not_paid_again(devices: Devices, tmp_path: Path) -> None:
    grid = nodes(devices, tmp_path, price("distributed", 1))
    silent(grid, 4)
    with pytest.raises(PrivacyError, match="3 of 4 nodes answered"):
        count(private(grid, "distributed"), 1)
    grid.change = None
    count(private(grid, "distributed"), 1)
    assert spent(tmp_path)[:, 1].tolist() == pytest.approx([SIGMA**-2] * 10)


def test_an_answer_by_itself_is_paid_where_one_under_masks_was(devices: Devices, tmp_path: Path) -> None:
    """A server that asks both of one moment has both, once other nodes reveal what opens the first."""
    grid = nodes(devices, tmp_path, 20.0)
    silent(grid, 4)
    with pytest.raises(PrivacyError, match="3 of 4 nodes answered"):
        count(private(grid, "distributed"), 1)
    grid.change = None
    count(private(grid, "local"), 1)
    assert spent(tmp_path).tolist() == [pytest.approx([SIGMA**-2, SIGMA**-2])] * 10


def test_a_delta_that_publishes_a_user_is_refused_whoever_is_not_greeted(devices: Devices, tmp_path: Path) -> None:
    grid = nodes(devices, tmp_path, 8.0)
    over = private(grid)
    for context in grid._contexts.values():
        context.node_config["delta"] = 0.1
    with pytest.raises(RunError, match=r"delta = 0\.1 is not below 1/users = 1/10"):
        count(over, 1)


def test_a_node_charges_before_it_answers(devices: Devices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If its process dies in between, something was charged for that was not sent, and not the other way round."""
    grid, seen = nodes(devices, tmp_path, 8.0), list[Message]()
    grid._look, over = seen.append, private(grid)

    def full(store: FolderStore, kept: Any) -> None:
        raise DataError("no room")

    over.engine.taking_part(over.engine.request((0, 1), Clip(1.2)))  # type: ignore[attr-defined]  # secrets are drawn
    monkeypatch.setattr(FolderStore, "save", full)
    with pytest.raises(RunError, match="no room"):
        count(over, 1)
    assert not any("sums" in message.content for message in seen)
    assert spent(tmp_path)[:, 0].tolist() == pytest.approx([SIGMA**-2] * 10)


def test_every_user_pays_for_its_own_rounds(devices: Devices, tmp_path: Path) -> None:
    """In cycles of two: some of a node's ten in the first round, the others in the second."""
    cycles = ParticipationConfig(sampling="cyclic", rate=0.5)
    schedule = Schedule((PlannedRelease(query="count", draws=4, clip=1.2),), 0.5, "cyclic")
    grid = nodes(devices, tmp_path, price("local", 2))

    def asked(session: str, *rounds: int) -> None:
        count(private(grid, session=session, schedule=schedule, engine={"participation": cycles}), *rounds)

    asked("run.a.0", 1)
    first = load_file(tmp_path / "1" / "spent.safetensors")["keys"].tolist()
    assert 0 < len(first) < 10
    assert set(spent(tmp_path)[:, 0]) == {SIGMA**-2}
    asked("run.b.0", 2, 3)
    found = load_file(tmp_path / "1" / "spent.safetensors")
    assert {key: round(of[0] * SIGMA**2) for key, of in zip(found["keys"].tolist(), found["spent"], strict=True)} == {
        key: 2 if key in first else 1 for key in devices.keys[::4].tolist()
    }
    asked("run.c.0", 2)
    with pytest.raises(RunError, match="the operator grants"):
        asked("run.d.0", 1)


def test_bits_and_tables_cost_what_the_release_does(devices: Devices, tmp_path: Path) -> None:
    adaptive = AdaptiveClipConfig(share=0.2)
    section = PrivacyConfig(noise_multiplier=SIGMA, delta=1e-3, trust="local", adaptive=adaptive)
    schedule = section.schedule([PlannedRelease(query="count", draws=2, clip=1.2)], 1.0, "poisson")
    over = private(nodes(devices, tmp_path, 20.0), schedule=schedule, adaptive=adaptive)
    count(over, 1)
    assert spent(tmp_path)[:, 0].tolist() == pytest.approx([SIGMA**-2] * 10)
    for clip in (Clip(1.2), Clip.by_table({"items": 0.3, "network": 0.4, "bias": 2.0})):
        parts = clip.parts(("items", "network", "bias"), SIGMA)
        assert OwnNoise(parts, "", True).cost == pytest.approx(SIGMA**-2)
    assert (
        OwnNoise(Clip.by_table({"items": 0.3, "bias": 2.0}).parts(("items", "bias"), 7e-155), "", True).cost == math.inf
    )


def test_all_users_of_a_silo_pay(devices: Devices, tmp_path: Path) -> None:
    hospital = torch.arange(40) % 4
    grid = nodes(with_hospitals(devices, hospital), tmp_path, 8.0)
    count(private(grid, unit="silo", engine={"silo_by": "hospital"}), 1)
    assert spent(tmp_path)[:, 0].tolist() == pytest.approx([SIGMA**-2] * 10)


def test_nothing_but_tests_goes_without_noise_of_the_users(devices: Devices, tmp_path: Path) -> None:
    seen: list[Message] = []
    grid = nodes(devices, tmp_path, 1e3)
    grid._look = seen.append
    with pytest.raises(RunError, match="lets no plain sums go"):
        count(private(grid, "central"), 1)
    with pytest.raises(PrivacyError, match="this sum has no noise but the server's"):
        count(private(grid, "secagg"), 1)
    for trust in ("local", "distributed"):
        with pytest.raises((RunError, PrivacyError), match="noise that a seed tells keeps none"):
            count(private(grid, trust, engine={"randomness": "seeded"}), 1)
    assert not any({"sums", "words"} & set(message.content) for message in seen if message.metadata.reply_to_message_id)
    assert MaskedEngine(engine_on(grid, randomness="os"), 0.9).sum(Census(25), round=9).sums["items"].sum() > 0
    with pytest.raises(PrivacyError, match="noise that a seed tells"):
        MaskedEngine(engine_on(grid), 0.9).sum(Census(25), round=9)
    assert not list(tmp_path.glob("*/spent.safetensors"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"epsilon": 8.0}, 'has `epsilon` and no `state`; start it with state="..."'),
        ({"delta": 1e-5}, "has `delta` and no `epsilon`"),
        ({"epsilon": "all", "state": "x"}, "epsilon and delta are numbers"),
        ({"epsilon": 0.0, "state": "x"}, "a grant of epsilon = 0.0 at delta = 1e-05"),
        ({"epsilon": 8.0, "delta": 0.1, "state": "x"}, "delta = 0.1 is not below 1/users = 1/10"),
    ],
)
def test_what_an_operator_cannot_grant_is_said_at_once(
    devices: Devices, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    grid = grid_of(devices, dealt(devices, 4))
    for context in grid._contexts.values():
        context.node_config.update(config | ({"state": str(tmp_path)} if "state" in config else {}))
    with pytest.raises(RunError, match=re.escape(said)) as refusal:
        engine_on(grid)
    assert "node 1 cannot take part: refused" in str(refusal.value)


def test_an_account_is_in_the_same_folder_from_wherever_a_node_is_started(devices: Devices) -> None:
    grid = grid_of(devices, dealt(devices, 4), state=Path("state"), epsilon=8.0, delta=1e-3)
    with pytest.raises(RunError, match=r"state = 'state/1', which is another folder .*; give it from the root"):
        engine_on(grid)


def test_runs_at_one_time_are_charged_for_all_of_them(tmp_path: Path) -> None:
    """A node's processes share the file: a hundred charges of four at a time come to a hundred."""
    keys = torch.arange(-50, 50)

    def run() -> None:
        account = Account(tmp_path, Grant(1e3))
        for _ in range(25):
            account.charge(keys, 0.25, discrete=False)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = load_file(tmp_path / "spent.safetensors")
    assert found["keys"].tolist() == keys.tolist()
    assert (found["spent"] == [25.0, 0.0]).all()
    assert _most(tmp_path) == f"epsilon = {epsilon_of_gaussian(25.0, 1e-5):.4g} at delta = 1e-05"


def _most(folder: Path) -> str:
    with safetensors.safe_open(folder / "spent.safetensors", framework="np") as file:
        return str(file.metadata()["most"])


def test_users_who_come_and_go_keep_their_account(tmp_path: Path) -> None:
    account = Account(tmp_path, Grant(8.0, 1e-5))
    account.charge(torch.tensor([5, -3]), 1.0, discrete=False)
    account.charge(torch.tensor([7, 5]), 0.5, discrete=True)
    account.charge(torch.tensor([9]), 0.0, discrete=False)
    found = load_file(tmp_path / "spent.safetensors")
    assert dict(zip(found["keys"].tolist(), found["spent"].tolist(), strict=True)) == {
        -3: [1.0, 0.0],
        5: [1.0, 0.5],
        7: [0.0, 0.5],
    }
    with pytest.raises(PrivacyError, match="it would be inf at delta = 1e-05"):
        account.charge(torch.tensor([9]), math.inf, discrete=False)
    assert _most(tmp_path) == f"epsilon = {epsilon_of_renyi(1.5, 1e-5):.4g} at delta = 1e-05"


def test_an_account_that_was_deleted_is_missed(tmp_path: Path) -> None:
    account, user = Account(tmp_path, Grant(8.0)), torch.tensor([5])
    with pytest.raises(PrivacyError, match="the operator grants"):
        account.charge(user, 1e3, discrete=False)
    account.charge(user, 1.0, discrete=False)
    path = tmp_path / "spent.safetensors"
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=r"is gone; restore .*spent\.safetensors, or delete spent\.lock as well"):
        Account(tmp_path, Grant(8.0)).charge(user, 1.0, discrete=False)
    assert not path.exists()
    path.write_bytes(kept)
    account.charge(user, 1.0, discrete=False)
    assert load_file(path)["spent"].tolist() == [[2.0, 0.0]]
    path.unlink()
    (tmp_path / "spent.lock").unlink()
    account.charge(user, 1.0, discrete=False)
    assert load_file(path)["spent"].tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("keys", "costs"),
    [
        ([5, 5], [[1.0, 0.0], [0.0, 0.0]]),
        ([5], [[1.0, 0.0], [1.0, 0.0]]),
        ([5], [[-1.0, 0.0]]),
        ([5], [[math.nan, 0.0]]),
        ([5.0], [[1.0, 0.0]]),
    ],
    ids=["twice", "more", "below-0", "nan", "no-keys"],
)
def test_an_account_that_makes_no_sense_is_damaged(tmp_path: Path, keys: list[Any], costs: list[list[float]]) -> None:
    content = {"keys": np.array(keys), "spent": np.array(costs)}
    (tmp_path / "spent.safetensors").write_bytes(safetensors.numpy.save(content))
    with pytest.raises(
        DataError, match=r"damaged; restore .*spent\.safetensors \(not of each user two finite numbers from 0\)"
    ):
        Account(tmp_path, Grant(8.0)).charge(torch.tensor([5]), 1.0, discrete=False)


def test_a_damaged_account_lets_nothing_go(devices: Devices, tmp_path: Path) -> None:
    grid = nodes(devices, tmp_path, 8.0)
    count(private(grid), 1)
    for node in (1, 2, 3, 4):
        (tmp_path / str(node) / "spent.safetensors").write_bytes(b"half")
    with pytest.raises(RunError, match="the account of what the node's users have spent is damaged"):
        count(private(grid, session="run.arm.1"), 1)


def changed(grid: ChangedReplies, change: Callable[[Message], None]) -> None:
    """Have a server change what it sends."""
    push = grid.push_messages

    def pushed(messages: Any) -> Any:
        found = list(messages)
        for message in found:
            change(message)
        return push(found)

    grid.push_messages = pushed  # type: ignore[method-assign]


def test_more_noise_and_then_less_on_the_same_unopened_sum_is_charged_for_the_less(
    devices: Devices, tmp_path: Path
) -> None:
    grid, seen = nodes(devices, tmp_path, price("distributed", 1)), list[Message]()
    silent(grid, 4)
    with pytest.raises(PrivacyError, match="3 of 4 nodes answered"):
        count(private(grid, "distributed"), 1)
    grid.change, grid._look = None, seen.append

    def less(message: Message) -> None:
        if "noise" in message.content:
            message.content["noise"]["parts"] = '[[["count"], 1.2, 1.0]]'

    changed(grid, less)
    with pytest.raises(PrivacyError, match="0 of 4 nodes answered"):
        count(private(grid, "distributed"), 1)
    reasons = [refused(message.content) or "" for message in seen if message.metadata.reply_to_message_id]
    assert sum("the operator grants epsilon" in reason for reason in reasons) == 4
