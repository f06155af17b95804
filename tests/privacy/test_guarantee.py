"""A Guarantee says everything that its ε depends on, and its ε is that of the releases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedrec.errors import PrivacyError
from fedrec.privacy import Gaussian, Guarantee, Ledger, PlannedRelease, Release, Schedule, Trust, check_delta

TRAINING = Schedule(
    (
        PlannedRelease(query="count", draws=1, clip=3.0, share=0.2),
        PlannedRelease(query="train", draws=4, clip=1.0, share=0.8),
    ),
    rate=0.25,
)
SIGMAS = TRAINING.noise_multipliers(1.5)


def guarantee(ledger: Ledger, **settings: Any) -> Guarantee:
    given: dict[str, Any] = {"delta": 1e-5, "n_users": 943, "randomness": "os", "mechanism": Gaussian()}
    return Guarantee.of(ledger, **(given | settings))


def test_it_states_what_was_released() -> None:
    ledger = TRAINING.ledger(SIGMAS)
    stated = guarantee(ledger).as_dict()
    assert json.loads(json.dumps(stated, allow_nan=False)) == stated
    assert {key: value for key, value in stated.items() if key not in ("notes", "words", "mechanism")} == {
        "unit": "one user: everything they did, over the whole training of one arm with one seed",
        "adjacency": "add or remove one user",
        "trust": "central",
        "sampling": "poisson",
        "rate": 0.25,
        "noise_multipliers": SIGMAS,
        "clips": {"count": 3.0, "train": 1.0},
        "spending": {"count": pytest.approx(0.2 / 3.4), "train": pytest.approx(3.2 / 3.4)},
        "silos": None,
        "releases": 5,
        "releases_made": 5,
        "draws": 4,
        "epsilon": ledger.epsilon(1e-5, "prv"),
        "epsilon_rdp": ledger.epsilon(1e-5, "rdp"),
        "delta": 1e-5,
        "accountant": "prv",
        "n_users": 943,
        "randomness": "os",
    }
    assert stated["epsilon"] < stated["epsilon_rdp"]


def test_the_words_say_all_of_it() -> None:
    stated = guarantee(Ledger([Release("gram", 1, 0.601, 1.0)]))
    words = stated.in_words()
    assert 7.98 < stated.epsilon < 8.0
    for part in (
        "1e-05)-differential privacy by the PRV accountant",
        "one user: everything they did, over the whole training of one arm with one seed",
        "add or remove one user, of 943, a number taken to be public",
        "Gaussian noise of deviation noise multiplier × clip on every entry",
        "gram: noise multiplier 0.601, clip 1, 1 release)",
        "1 release on 1 participation draw, poisson sampling at rate 1",
        "Trust: central",
        "may be shown to anyone",
        "No amplification by sampling is claimed",
        "The promise is joint",
        "The noise comes from the operating system",
        "other arms and seeds of the same experiment",
        "private vectors in the model file",
        "the catalogue",
    ):
        assert part in words
    assert words == stated.as_dict()["words"]
    assert "\n" not in words


def test_the_printed_epsilon_is_never_rounded_down() -> None:
    stated = guarantee(TRAINING.ledger(SIGMAS))
    printed = float(stated.in_words().split(",")[0].removeprefix("("))
    assert stated.epsilon <= printed <= stated.epsilon + 0.001


def test_amplification_is_a_condition_where_it_is_claimed() -> None:
    assert "only while nobody who sees a release learns who took part" in guarantee(TRAINING.ledger(SIGMAS)).in_words()
    seen = Schedule(TRAINING.releases, 0.25, "independent")
    assert "No amplification by sampling is claimed" in guarantee(seen.ledger(SIGMAS)).in_words()


def test_a_seed_hides_nothing_and_it_says_so() -> None:
    words = guarantee(TRAINING.ledger(SIGMAS), randomness="seeded").in_words()
    assert "whoever can read it can remove the noise and name the sample" in words
    assert "operating system" not in words


def test_a_run_that_stopped_early_is_quoted_its_plan() -> None:
    planned, made = TRAINING.ledger(SIGMAS), TRAINING.ledger(SIGMAS, through=2)
    stopped = guarantee(made, planned=planned)
    assert stopped.epsilon == planned.epsilon(1e-5) > made.epsilon(1e-5)
    assert stopped.as_dict()["releases_made"] == 3
    assert "Only 3 of them were made; epsilon is that of all 5." in stopped.in_words()
    nothing = guarantee(Ledger(), planned=planned)
    assert nothing.epsilon == planned.epsilon(1e-5)


def test_a_release_that_was_not_planned_voids_it() -> None:
    planned = TRAINING.ledger(SIGMAS)
    for surplus in (
        Release("train", 5, SIGMAS["train"], 1.0, 0.25),  # another round
        Release("train", 4, SIGMAS["train"], 1.0, 0.25),  # once more in a round
        Release("train", 4, 0.5 * SIGMAS["train"], 1.0, 0.25),  # less noise
    ):
        ledger = Ledger([*planned.releases, surplus])
        with pytest.raises(PrivacyError, match="the run made 6 releases, not all of them among the 5"):
            guarantee(ledger, planned=planned)


def test_no_release_is_no_guarantee() -> None:
    with pytest.raises(PrivacyError, match="there is nothing to guarantee"):
        guarantee(Ledger())


def test_there_is_no_epsilon_but_that_of_the_releases() -> None:
    planned = TRAINING.ledger(SIGMAS).releases
    wish: dict[str, Any] = {"delta": 1e-5, "n_users": 943, "randomness": "os", "mechanism": "Gaussian", "epsilon": 0.1}
    with pytest.raises(TypeError, match="epsilon"):
        Guarantee(made=planned, planned=planned, **wish)
    with pytest.raises(AttributeError):
        guarantee(TRAINING.ledger(SIGMAS)).epsilon = 0.1  # type: ignore[misc]


def test_a_later_release_does_not_change_it() -> None:
    ledger = TRAINING.ledger(SIGMAS)
    stated = guarantee(ledger)
    before = stated.epsilon
    ledger.record(Release("gram", 9, 0.5, 1.0))
    assert stated.epsilon == before


@pytest.mark.parametrize(("delta", "n_users"), [(1e-3, 1000), (0.5, 943), (1e-5, 200_000), (1 / 943, 943)])
def test_a_delta_that_publishes_a_user_is_refused(delta: float, n_users: int) -> None:
    with pytest.raises(PrivacyError, match=rf"delta = .* is not below 1/users = 1/{n_users}, .*; take delta = \d"):
        check_delta(delta, n_users)
    with pytest.raises(PrivacyError, match="is not below 1/users"):
        guarantee(TRAINING.ledger(SIGMAS), delta=delta, n_users=n_users)


@pytest.mark.parametrize(("delta", "n_users"), [(1e-5, 943), (9.9e-4, 1000), (1e-5, 99_999)])
def test_a_smaller_delta_is_taken(delta: float, n_users: int) -> None:
    check_delta(delta, n_users)


@pytest.mark.parametrize(
    ("trust", "neighbours", "released"),
    [
        ("secagg", "add or remove one user", "The server sees the exact sums, and no single answer"),
        ("distributed", "replace every answer of one user by zeros", "The server sees noisy sums alone"),
        ("local", "replace the data of one user by any other", "gets noisy answers alone"),
    ],
)
def test_each_trust_says_who_sees_what_and_what_is_protected(trust: Trust, neighbours: str, released: str) -> None:
    ledger = Ledger([Release("gram", 1, 1.0, 1.0)])
    stated = guarantee(ledger, trust=trust)
    words = stated.in_words()
    assert f"Trust: {trust}." in words
    assert f"Neighbours: {neighbours}" in words
    assert released in words
    assert stated.accountant == ("rdp" if trust == "distributed" else "prv")
    assert stated.epsilon == ledger.epsilon(1e-5, stated.accountant)
    assert f"by the {stated.accountant.upper()} accountant" in words
    assert "did not run their masks" not in words
    assert "did not run their masks" in guarantee(ledger, trust=trust, executed=False).in_words()


@pytest.mark.parametrize("trust", ["distributed", "local"])
def test_no_amplification_against_a_server_that_sees_the_sample(trust: Trust) -> None:
    with pytest.raises(PrivacyError, match=f"trust '{trust}' protects from the server, which sees who takes part"):
        guarantee(TRAINING.ledger(SIGMAS), trust=trust)
    seen = Schedule(TRAINING.releases, 0.25, "independent")
    assert guarantee(seen.ledger(SIGMAS), trust=trust).epsilon > 0


def test_an_uneven_budget_is_told_by_query_and_over_the_draws() -> None:
    growing = Schedule(TRAINING.releases, 0.25, growth=4.0)
    words = guarantee(growing.ledger(SIGMAS)).in_words()
    # 1/σ² of train is .8/1.5² in the first draw and four times that in the last: 1, 4^⅓, 4^⅔ and 4 of it, together 9.11
    # times .8, beside .2 of count.
    assert "train: noise multiplier 0.8385 to 1.677, clip 1, 4 releases, 97.3% of the noise budget" in words
    assert "count: noise multiplier 3.354, clip 3, 1 release, 2.67% of the noise budget" in words


def test_delta_is_below_one_over_the_number_of_silos() -> None:
    ledger = Ledger([Release("gram", 1, 1.0, 1.0)])
    assert "of 20, a number taken to be public" in guarantee(ledger, delta=1e-2, silos=20).in_words()
    with pytest.raises(PrivacyError, match=r"delta = 0\.05 is not below 1/silos = 1/20"):
        guarantee(ledger, delta=0.05, silos=20)
