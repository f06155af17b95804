"""The conformance kit: every method passes it, and each of its checks catches what it is there for."""

from __future__ import annotations

import pytest
import torch

from fedrec.components import build_config
from fedrec.errors import ConfigError, ModelError
from fedrec.federated import METHODS
from fedrec.federated.methods import Popularity, PopularityConfig, Spectral
from fedrec.testing import CHECKS, check_method
from fedrec.testing.trial import Trial, difference, population
from tests.testing.faulty import Own, Tiny, TinyConfig
from tests.testing.variants import FEDERATED

CAUGHT = [
    ("rows repeated", "rounds_run", r"rows repeated or out of order.*Rows\.coalesce"),
    ("diverges", "rounds_run", "not finite"),
    ("state stepped in place", "rounds_run", r"round\(\) changed the state that it was given"),
    ("scores of one item", "scores_fit", r"shape \(24, 1\); score all 30 items"),
    ("scores not finite", "scores_fit", "not finite"),
    ("scores with a gradient", "scores_fit", "detach"),
    ("scores centred", "scores_fit", "must treat users alone"),
    ("scores in place", "scores_fit", "changed what it was given"),
    ("divided by the cohort", "one_user_equals_batched", "one user at a time trains another model"),
    ("keyed by position", "any_dealing_to_nodes", "neither positions nor the cohort's size"),
    ("keyed by position", "order_of_users_is_moot", r"key every draw by cohort\.keys"),
    ("norm understated", "clip_bounds_influence", "times its clip"),
    ("vectors mix", "users_do_not_mix", r"private state 'taste/user' by .*cohort\.owner"),
    ("global numbers", "seed_determines_everything", "a global generator"),
    ("one seed", "seed_determines_everything", "another seed changes nothing although"),
    ("counts in the object", "seed_determines_everything", "the same object again"),
    ("counts in the object", "resumes_from_a_checkpoint", "none in self"),
    ("remembers calls", "replay_steps_nothing_twice", "a function of its arguments"),
    ("steps in place", "replay_steps_nothing_twice", "changes none of them"),
    ("held-out items known", "held_out_items_stay_at_chance", "held-out items reach the training"),
    ("empty round swallowed", "empty_rounds_are_survived", "let NobodyAnswered pass"),
    ("divided by answers", "empty_rounds_are_survived", r"divide by ask\.expected"),
    ("degree unguarded", "odd_users_are_survived", "clamp degrees"),
    ("nothing planned", "releases_are_complete", "'taste' is asked in round 1 and releases"),
    ("one draw too many", "releases_are_complete", "1 times in round 7 of 6"),
    ("twice a draw", "releases_are_complete", "plans 'taste' 2 times in round 1 of 6, where it is asked 1 times"),
    ("off the list", "queries_survive_their_message", "not on the allow-list"),
    ("setting unsaid", "queries_survive_their_message", "setting 'pair' cannot be sent"),
]


def test_every_registered_method_is_checked() -> None:
    assert {kind for kind, _ in FEDERATED} == set(METHODS)


@pytest.mark.parametrize(("kind", "settings"), FEDERATED)
def test_every_method_keeps_its_promises(kind: str, settings: dict[str, object]) -> None:
    method = METHODS[kind]
    report = check_method(method(build_config(method.config_class, settings, kind)))
    assert [finding.check for finding in report.findings] == list(CHECKS)


def test_the_honest_method_that_faults_are_put_into_passes() -> None:
    assert not check_method(Tiny, TinyConfig()).failed


@pytest.mark.parametrize(("fault", "check", "message"), CAUGHT)
def test_a_broken_promise_is_caught_by_its_check(fault: str, check: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        CHECKS[check](Trial(lambda: Tiny(TinyConfig(fault=fault))))


def test_each_check_has_a_method_that_it_catches() -> None:
    assert {check for _, check, _ in CAUGHT} == set(CHECKS)


def test_failures_are_reported_together_or_raised() -> None:
    slow = ["held_out_items_stay_at_chance"]
    report = check_method(Tiny(TinyConfig(fault="nothing planned")), skip=slow, on_fail="report")
    assert [finding.check for finding in report.failed] == ["releases_are_complete"]
    assert "FAIL releases_are_complete: 'taste' is asked in round 1" in str(report)
    with pytest.raises(ModelError, match="1 of 14 checks failed: releases_are_complete: 'taste'"):
        check_method(lambda: Tiny(TinyConfig(fault="nothing planned")), skip=slow)
    assert not check_method(Tiny(TinyConfig(fault="nothing planned")), skip=["releases_are_complete", *slow]).failed


def test_what_a_method_raises_is_a_finding_and_ends_the_checks_if_nothing_runs() -> None:
    class Broken(Tiny):
        def round(self, state, ask):  # type: ignore[no-untyped-def]
            raise IndexError("out of bounds")

    report = check_method(Broken, on_fail="report")
    assert [finding.problem for finding in report.findings] == ["IndexError: out of bounds"]


def test_settings_that_do_not_fit_are_the_callers_mistake() -> None:
    with pytest.raises(ConfigError, match="factors = 64 is more than the 30 items"):
        check_method(Spectral)
    with pytest.raises(ConfigError, match="config goes with a class"):
        check_method(Popularity(PopularityConfig()), PopularityConfig())
    with pytest.raises(ConfigError, match="'replay' is no check"):
        check_method(Popularity, skip=["replay"])


def test_subspaces_are_compared_by_their_projectors() -> None:
    basis = torch.linalg.qr(torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    turned = basis @ torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    assert difference(basis, turned) < 1e-14
    assert difference(basis, basis.roll(1, dims=0)) > 0.1
    assert difference(2 * basis, 2 * turned) > 0.1  # not orthonormal, so not a subspace
    assert difference(torch.zeros(2), torch.zeros(3)) == float("inf")
    assert difference(torch.tensor([1.0]), torch.tensor([float("nan")])) != 0


def test_a_ragged_memory_comes_back_in_the_order_of_the_population() -> None:
    """Three nodes that hold the users in any order remember what one node does, rows of items included."""
    trial = Trial(lambda: Tiny(TinyConfig()))
    query = Own()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    dealt = trial.engine(parts=[order[:5], order[5:6], order[6:]])
    trial.engine().sum(query, round=1)
    dealt.sum(query, round=1)
    rows = dealt.remember(query).ragged["rows"]
    cohort = population().cohort(torch.arange(24))
    assert torch.equal(rows.owner, cohort.owner)
    assert torch.equal(rows.index, cohort.items)
    assert torch.equal(rows.value, cohort.items.double().unsqueeze(1))
