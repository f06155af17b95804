"""`check_recommender` finds what is wrong with recommenders that break one promise each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pydantic
import pytest
import torch
from torch import Tensor

from fedrec.components import Config
from fedrec.data import Interactions
from fedrec.errors import ConfigError, ModelError
from fedrec.recommenders import (
    BPR,
    BPRConfig,
    Histories,
    ItemNeighbors,
    ItemNeighborsConfig,
    LightGCN,
    LightGCNConfig,
    Tensors,
    Training,
)
from fedrec.spaces import Choice
from fedrec.testing import RECOMMENDER_CHECKS, check_recommender


class Honest(ItemNeighbors):
    """Keeps every promise, as its children do but for one."""

    def __init__(self, config: ItemNeighborsConfig | None = None) -> None:
        super().__init__(config or ItemNeighborsConfig(neighbors=5))


class Thawed(Honest):
    class Loose(pydantic.BaseModel):
        neighbors: int = 5

    config_class: ClassVar[Any] = Loose


class Spacious(Honest):
    class Settings(ItemNeighborsConfig):
        space: ClassVar[Any] = {"neighbors": Choice((0, 5))}

    config_class: ClassVar[type[Config]] = Settings


class Eager(Honest):
    def tensors(self) -> Tensors:
        return {"popularity": self._popularity}


class Narrow(Honest):
    def score(self, users: Tensor) -> Tensor:
        return super().score(users)[:, :-1]


class ZeroDivided(Honest):
    def score(self, users: Tensor) -> Tensor:
        scores = super().score(users)
        return scores / self._popularity  # an item without interactions


class Crowded(Honest):
    def score(self, users: Tensor) -> Tensor:
        scores = super().score(users)
        return scores / scores.mean()


class Wearing(Honest):
    def score(self, users: Tensor) -> Tensor:
        self._popularity = self._popularity + 1
        return super().score(users)


class Lending(Honest):
    def fit(self, train: Interactions, training: Training) -> None:
        super().fit(train, training)
        self._all = super().score(torch.arange(train.n_users))

    def score(self, users: Tensor) -> Tensor:
        super().tensors()
        return self._all if len(users) == len(self._all) and int(users[0]) == 0 else self._all[users]


class Sharing(Honest):
    def tensors(self) -> Tensors:
        tensors = super().tensors()
        return {**tensors, "again": tensors["similarity"]}


class Dicing(Honest):
    def fit(self, train: Interactions, training: Training) -> None:
        super().fit(train, training)
        assert self._neighbors is not None
        self._neighbors.data *= np.random.default_rng().uniform(0.9, 1.1, len(self._neighbors.data))


class GlobalDice(Honest):
    def fit(self, train: Interactions, training: Training) -> None:
        super().fit(train, training)
        torch.manual_seed(training.seed)
        assert self._neighbors is not None
        self._neighbors.data *= torch.rand(len(self._neighbors.data)).numpy()


class Greedy(Honest):
    def fit(self, train: Interactions, training: Training) -> None:
        super().fit(train, training)
        train.item[:] = np.sort(train.item)


class Ordered(Honest):
    def score(self, users: Tensor) -> Tensor:
        scores = super().score(users)
        return scores + 0.01 * torch.arange(scores.shape[1])


class Upside(Honest):
    def score_histories(self, histories: Histories) -> Tensor:
        return -super().score_histories(histories)


class Folding(Honest):
    def score(self, users: Tensor) -> Tensor:
        return super().score(users) * (1 + users.unsqueeze(1) % 3)


class Forgetful(BPR):
    """Keeps the last state, not the best."""

    def fit(self, train: Interactions, training: Training) -> None:
        class Last:
            def __init__(self) -> None:
                self.scorer: Any = None

            def __call__(self, scorer: Any) -> float:
                value = training.validator(scorer) if training.validator else 0.0
                self.scorer = scorer(torch.arange(train.n_users)).clone()
                return value

        last = Last()
        super().fit(train, Training(**{**vars(training), "validator": last}))
        self._last = last.scorer

    def score(self, users: Tensor) -> Tensor:
        super().score(users)
        return self._last[users]  # type: ignore[no-any-return]


class Amnesiac(LightGCN):
    """Resumes without the moments of its optimiser."""

    def fit(self, train: Interactions, training: Training) -> None:
        kept = copy.copy(training.checkpoints)

        class Lossy:
            def load(self) -> Any:
                saved = kept.load()
                if saved is None:
                    return None
                tensors, facts = saved
                return {name: t * 0 if "exp_avg" in name and "now" in name else t for name, t in tensors.items()}, facts

            save = staticmethod(training.checkpoints.save)

        super().fit(train, Training(**{**vars(training), "checkpoints": Lossy()}))


def failed(recommender: Any, config: Config | None = None) -> set[str]:
    return {finding.check for finding in check_recommender(recommender, config, on_fail="report").failed}


def test_an_honest_one_passes() -> None:
    report = check_recommender(Honest)
    assert [finding.check for finding in report.findings] == list(RECOMMENDER_CHECKS)
    assert not report.failed
    assert str(report).splitlines()[0] == "ok   settings_are_a_frozen_config"


BROKEN: dict[type[Any], str] = {
    Thawed: "settings_are_a_frozen_config",
    Spacious: "settings_are_a_frozen_config",
    Narrow: "scores_every_item",
    ZeroDivided: "scores_every_item",
    Eager: "refuses_to_score_before_fitting",
    Crowded: "scores_alike_in_any_batch",
    Wearing: "scoring_changes_nothing",
    Lending: "scoring_changes_nothing",
    Sharing: "tensors_can_be_saved",
    Dicing: "same_seed_same_bytes",
    GlobalDice: "same_seed_same_bytes",
    Greedy: "leaves_its_data_alone",
    Ordered: "codes_are_only_names",
    Folding: "folds_in_as_it_scores",
    Upside: "beats_chance",
}


@pytest.mark.parametrize(("recommender", "check"), BROKEN.items())
def test_a_broken_promise_is_found(recommender: type[Any], check: str) -> None:
    assert check in failed(recommender)


def test_keeping_another_model_than_the_best_is_found() -> None:
    settings = BPRConfig(factors=4, epochs=12, rate=0.05, stopping={"every": 2, "patience": 3})
    found = check_recommender(
        Forgetful, settings, on_fail="report", skip=[name for name in RECOMMENDER_CHECKS if "validates" not in name]
    )
    assert "the model that validated best is not the one kept" in found.findings[0].problem


def test_resuming_without_all_of_the_state_is_found() -> None:
    settings = LightGCNConfig(dim=4, epochs=12, stopping={"every": 2, "patience": 0})
    others = [name for name in RECOMMENDER_CHECKS if "resumes" not in name]
    assert not check_recommender(LightGCN, settings, skip=others).failed
    with pytest.raises(ModelError, match=r"resumes_with_the_same_bytes: killed after step \d+ and resumed it differs"):
        check_recommender(Amnesiac, settings, skip=others)


def test_a_leak_is_found() -> None:
    """A recommender that has got hold of what is held out: here from the check's own canary."""
    held: list[Interactions] = []

    class Thief(Honest):
        def score(self, users: Tensor) -> Tensor:
            scores = super().score(users)
            scores[:, held[-1].item] += 100.0
            return scores

    def leaking(fit: Callable[[Interactions, Interactions], Any], **settings: Any) -> Any:
        from fedrec.testing import check_no_leak

        def remember(train: Interactions, held_out: Interactions) -> Any:
            held.append(held_out)
            return fit(train, held_out)

        return check_no_leak(remember, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedrec.testing.recommender_checks.check_no_leak", leaking)
        others = [name for name in RECOMMENDER_CHECKS if "training_data_alone" not in name]
        with pytest.raises(ModelError, match="held-out items reach the training"):
            check_recommender(Thief, skip=others)


def test_a_function_that_makes_one_will_do() -> None:
    def makes() -> Iterator[Honest]:
        yield Honest()

    assert not check_recommender(lambda: next(makes())).failed


def test_wrong_arguments_are_explained() -> None:
    with pytest.raises(ConfigError, match="skip = 'beat_chance' is no check; did you mean 'beats_chance'"):
        check_recommender(Honest, skip=["beat_chance"])
    with pytest.raises(ConfigError, match="config goes with a class"):
        check_recommender(lambda: Honest(), ItemNeighborsConfig())
