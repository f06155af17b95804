import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from fedrec.errors import ModelError, RunError
from fedrec.recommenders import Disclosure, Scorer, Stopping, Tensors, Training, train
from fedrec.streams import Streams
from tests.recommenders.memory import KillAt, KilledError, MemoryCheckpoints, MemoryLog


class RandomWalk:
    """A learner whose position depends on all its steps, and whose score is its position."""

    def __init__(self, name: str = "position") -> None:
        self.name = name
        self.position = torch.zeros(3)
        self.steps_done = 0
        self.ledger = 0

    def step(self, number: int) -> Mapping[str, tuple[float, Disclosure]]:
        self.position = self.position * 0.9 + torch.randn(3, generator=Streams(7, number).generator("walk"))
        self.steps_done += 1
        self.ledger += number
        return {"loss": (float(self.position.sum()), "simulation"), "norm": (float(self.position.norm()), "released")}

    def score(self, users: Tensor) -> Tensor:
        return self.position.expand(len(users), 3)

    def state(self) -> Tensors:
        return {self.name: self.position}

    def restore(self, state: Tensors) -> None:
        self.position = state[self.name].clone()

    def facts(self) -> Mapping[str, object]:
        return {"ledger": self.ledger}

    def restore_facts(self, facts: Mapping[str, object]) -> None:
        (ledger,) = facts.values()
        assert isinstance(ledger, int)
        self.ledger = ledger


class Scripted:
    """A validator that answers one number after the other."""

    def __init__(self, *values: float) -> None:
        self.values = values
        self.asked = 0

    def __call__(self, scorer: Scorer) -> float:
        self.asked += 1
        return self.values[self.asked - 1]


def first_score(scorer: Scorer) -> float:
    return float(scorer(torch.tensor([0]))[0, 0])


def position_after(steps: int) -> Tensor:
    walk = RandomWalk()
    for number in range(1, steps + 1):
        walk.step(number)
    return walk.position


def test_stops_when_patience_is_exhausted_and_restores_the_best_state() -> None:
    walk, validator, progress = RandomWalk(), Scripted(0.1, 0.5, 0.3, 0.5, 0.9), KillAt(None)
    training = Training(validator=validator, progress=progress)
    train(walk, training, steps=100, stopping=Stopping(every=3, patience=2))
    # Looks after steps 3, 6, 9 and 12; .5 again is no improvement, and the .9 is never seen.
    assert walk.steps_done == 12
    assert validator.asked == 4
    assert torch.equal(walk.position, position_after(6))
    best = [None, None, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert progress.seen == [(step, 100, value) for step, value in enumerate(best, start=1)]


def test_a_step_is_saved_before_anyone_is_told_of_it() -> None:
    """A released number that was seen may not be drawn again, and noise from the operating system would be."""
    training, stopping = Training(checkpoints=MemoryCheckpoints()), Stopping(every=1, patience=0)
    with pytest.raises(KilledError):
        train(RandomWalk(), replace(training, progress=KillAt(3)), steps=5, stopping=stopping, save_every=1)
    resumed = RandomWalk()
    train(resumed, training, steps=5, stopping=stopping, save_every=1)
    assert resumed.steps_done == 2  # 4 and 5


def test_looks_at_the_last_step_too() -> None:
    walk, validator = RandomWalk(), Scripted(0.1, 0.2, 0.3)
    train(walk, Training(validator=validator), steps=7, stopping=Stopping(every=3, patience=5))
    assert validator.asked == 3
    assert torch.equal(walk.position, position_after(7))


@pytest.mark.parametrize("validator", [None, Scripted()])
def test_without_validator_or_patience_the_last_state_is_kept(validator: Scripted | None) -> None:
    walk = RandomWalk()
    stopping = Stopping(every=2, patience=5 if validator is None else 0)
    train(walk, Training(validator=validator), steps=5, stopping=stopping)
    assert torch.equal(walk.position, position_after(5))


def test_logs_each_value_with_its_disclosure() -> None:
    log = MemoryLog()
    train(RandomWalk(), Training(validator=Scripted(0.25), log=log), steps=2, stopping=Stopping(every=2))
    assert [(step, name, disclosure) for step, name, _, disclosure in log.rows] == [
        (1, "loss", "simulation"),
        (1, "norm", "released"),
        (2, "loss", "simulation"),
        (2, "norm", "released"),
        (2, "validation", "simulation"),
    ]
    assert log.values("validation") == [0.25]
    assert log.values("norm")[1] == float(position_after(2).norm())


def test_chosen_steps_take_the_place_of_planned_ones_and_of_early_stopping() -> None:
    walk, validator = RandomWalk(), Scripted()
    train(walk, Training(validator=validator, steps=3), steps=9, stopping=Stopping(every=1, patience=1))
    assert torch.equal(walk.position, position_after(3))
    assert validator.asked == 0


@given(killed=st.integers(1, 20), every=st.integers(1, 6), patience=st.integers(0, 4), validate=st.booleans())
@hypothesis_settings(deadline=None)
def test_a_killed_training_is_finished_with_the_same_bytes(
    killed: int, every: int, patience: int, validate: bool
) -> None:
    steps, stopping = 20, Stopping(every=every, patience=patience)
    training = Training(validator=first_score if validate else None)
    whole, whole_log, whole_checkpoints = RandomWalk(), MemoryLog(), MemoryCheckpoints()
    train(whole, replace(training, log=whole_log, checkpoints=whole_checkpoints), steps=steps, stopping=stopping)

    checkpoints, log = MemoryCheckpoints(), MemoryLog()
    interrupted = replace(training, checkpoints=checkpoints, progress=KillAt(killed))
    try:
        train(RandomWalk(), interrupted, steps=steps, stopping=stopping)
    except KilledError:
        assert killed <= whole.steps_done
    else:
        assert killed > whole.steps_done  # it had stopped early
    resumed = RandomWalk()
    train(resumed, replace(training, log=log, checkpoints=checkpoints), steps=steps, stopping=stopping)
    assert resumed.position.numpy().tobytes() == whole.position.numpy().tobytes()
    assert resumed.ledger == whole.ledger
    assert resumed.steps_done <= whole.steps_done
    assert log.rows == whole_log.rows
    assert checkpoints.saved is not None
    assert whole_checkpoints.saved is not None
    assert checkpoints.saved[1] == whole_checkpoints.saved[1]


def test_a_finished_training_is_not_trained_further() -> None:
    checkpoints = MemoryCheckpoints()
    training = Training(validator=Scripted(0.5, 0.1), checkpoints=checkpoints)
    train(RandomWalk(), training, steps=4, stopping=Stopping(every=2, patience=3))
    again = RandomWalk()
    train(again, training, steps=4, stopping=Stopping(every=2, patience=3))
    assert again.steps_done == 0
    assert torch.equal(again.position, position_after(2))  # the best state, from the checkpoint


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_validation_value_that_is_not_finite_raises(value: float) -> None:
    with pytest.raises(ModelError, match=r"step 3: validation is .*lower the learning rate"):
        train(RandomWalk(), Training(validator=Scripted(value)), steps=9, stopping=Stopping(every=3))


def test_a_logged_value_that_is_not_finite_raises() -> None:
    class Diverging(RandomWalk):
        def step(self, number: int) -> Mapping[str, tuple[float, Disclosure]]:
            return {"loss": (math.nan if number == 2 else 1.0, "simulation")}

    with pytest.raises(ModelError, match="step 2: loss is nan; training diverged"):
        train(Diverging(), Training(), steps=9, stopping=Stopping())


def test_a_foreign_checkpoint_is_refused() -> None:
    checkpoints = MemoryCheckpoints()
    stopping = Stopping(every=1)
    train(RandomWalk("speed"), Training(checkpoints=checkpoints), steps=1, stopping=stopping)
    with pytest.raises(RunError, match=r"holds \['speed'\] and this configuration needs \['position'\]"):
        train(RandomWalk("position"), Training(checkpoints=checkpoints), steps=2, stopping=stopping)


@pytest.mark.parametrize(("tensors", "facts"), [({"weights": torch.ones(1)}, {}), ({}, {"epoch": 3})])
def test_a_checkpoint_of_another_program_is_refused(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
    checkpoints = MemoryCheckpoints()
    checkpoints.save(tensors, facts)
    with pytest.raises(RunError, match="which this version did not write; delete it"):
        train(RandomWalk(), Training(checkpoints=checkpoints), steps=2, stopping=Stopping())


@pytest.mark.parametrize("settings", [{"every": 0}, {"patience": -1}])
def test_stopping_refuses_senseless_settings(settings: dict[str, int]) -> None:
    build: Callable[..., Stopping] = Stopping
    with pytest.raises(ValueError, match="greater than or equal"):
        build(**settings)
