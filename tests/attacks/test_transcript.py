"""What is read of a whole run is the likelihood ratio of all that was released, computed here without short cuts.

Each canary answers on an engine of its own, releases are taken where they are made, and the densities are those of
dense Gaussians over all entries of all rounds, noise that is correlated over rounds and symmetric tables included.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fedrec.attacks import Target
from fedrec.attacks import canaries as of_canaries
from fedrec.attacks.canaries import Planting, play
from fedrec.attacks.transcript import Transcript
from fedrec.federated import Answer, Engine, LocalEngine, ParticipationConfig, PopulationConfig, Totals
from fedrec.federated.private_sums import Asked
from fedrec.privacy import BIT, PrivacyConfig
from tests.attacks.planted import interactions, target

Floats = npt.NDArray[np.float64]

TRAIN = interactions(40, 50, 8)
CANARIES, MEMBERS, BAND = 4, 3, 3
EGO = {"dim": 2, "rounds": 3, "clip": 0.003, "negatives": 1}


@dataclass(eq=False)
class Seen:
    """One release: what was asked for, what each canary adds, and what was released beyond the known users."""

    asked: Asked
    added: Sequence[Mapping[str, Floats]]
    beyond: dict[str, Floats] = field(default_factory=dict)

    def flat(self) -> tuple[Floats, Floats, Floats]:
        """([n] beyond, [m, n] added, [n] variance) of the entries that are independent: one triangle if symmetric."""
        parts = []
        for part in self.asked.parts:
            for name in part.tables:
                rows, width = self.asked.shapes[name]
                places, variance = (
                    np.arange(rows * width),
                    np.full(rows * width, (part.noise_multiplier * part.clip) ** 2),
                )
                if name in self.asked.query.symmetric:
                    above, beside = np.triu_indices(rows)
                    places = above * width + beside
                    variance = np.where(above == beside, variance[places], variance[places] / 2)
                added = np.stack([own[name] for own in self.added])
                parts.append((self.beyond[name][places], added[:, places], variance))
        return tuple(np.concatenate(of, axis=-1) for of in zip(*parts, strict=True))  # type: ignore[return-value]


class Watched(Transcript):
    """A transcript that keeps what it was made from."""

    seen: list[Seen]
    hidden: float | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        inner, transcript = self._sums, self
        engine, members = self._shadows.engine, self._shadows.members
        Watched.seen, Watched.hidden = [], self._hidden
        alone = [
            LocalEngine(
                engine.devices.take(torch.arange(number * members, (number + 1) * members)),
                engine.streams,
                engine.participation,
            )
            for number in range(len(self._shadows))
        ]

        class Kept:
            name, trust = inner.name, inner.trust

            def sum(self, engine: Engine, asked: Asked) -> Totals:
                totals = inner.sum(engine, asked)
                own = []
                for one in alone:
                    answer = one.sum(asked.query, round=asked.round, phase=asked.phase, clip=asked.clip)
                    tables = {name: sums.double().numpy().ravel() for name, sums in answer.sums.items()}
                    own.append(tables | {BIT: np.array([(0.5 * answer.answered - answer.clipped) / members])})
                known = transcript._crowd.sums
                beyond = {name: (sums - known[name]).numpy().ravel() for name, sums in totals.sums.items()}
                Watched.seen.append(Seen(asked, own, beyond))
                return totals

        self._sums = Kept()


def gaussian_ratios(beyond: Floats, added: Floats, covariance: Floats, chance: float) -> Floats:
    """ln N(r; μ + c_u, Σ) − ln N(r; μ, Σ), the other canaries' coins in μ and Σ."""
    found = []
    for number, own in enumerate(added):
        others = np.delete(added, number, axis=0)
        whole = covariance + chance * (1 - chance) * others.T @ others
        out = beyond - chance * others.sum(axis=0)
        found.append((out @ np.linalg.solve(whole, out) - (out - own) @ np.linalg.solve(whole, out - own)) / 2)
    return np.array(found)


def exact_ratios(beyond: Floats, added: Floats, covariance: Floats, chance: float) -> Floats:
    """The same, with every outcome of the others' coins."""
    likelihood = np.full((len(added), 2), -np.inf)
    for coins in itertools.product((0, 1), repeat=len(added)):
        left = beyond - np.array(coins) @ added
        found = -left @ np.linalg.solve(covariance, left) / 2
        for number, coin in enumerate(coins):
            others = sum(coins) - coin
            weight = others * math.log(chance) + (len(added) - 1 - others) * math.log(1 - chance)
            likelihood[number, coin] = np.logaddexp(likelihood[number, coin], found + weight)
    return np.asarray(likelihood[:, 1] - likelihood[:, 0])


Ratios = Callable[[Floats, Floats, Floats, float], Floats]


def stacked(seen: list[Seen], band: int | None) -> tuple[Floats, Floats, Floats]:
    """(beyond, added, covariance) of all entries of all releases that some canary adds to in some round."""
    flat = [one.flat() for one in seen]
    touched = [(added != 0).any(axis=0) for _, added, _ in flat]
    if band is not None:
        touched = [np.any(touched, axis=0)] * len(seen)  # each entry's noise is correlated with its own of other rounds
    beyond = np.concatenate([one[0][kept] for one, kept in zip(flat, touched, strict=True)])
    added = np.concatenate([one[1][:, kept] for one, kept in zip(flat, touched, strict=True)], axis=1)
    if band is None:
        return beyond, added, np.diag(np.concatenate([one[2][kept] for one, kept in zip(flat, touched, strict=True)]))
    # w = C⁻¹ z, the columns of C being 1, 1/2, 3/8, ... cut at the band.
    column = [math.comb(2 * lag, lag) / 4**lag if lag < band else 0.0 for lag in range(len(seen))]
    inverse = np.linalg.inv([[column[i - j] if i >= j else 0.0 for j in range(len(seen))] for i in range(len(seen))])
    return beyond, added, np.kron(inverse @ inverse.T, np.diag(flat[0][2][touched[0]]))


def ratios(seen: list[Seen], hidden: float | None, band: int | None, of: Ratios) -> Floats:
    """The log likelihood ratio of each canary's being in, of all releases."""
    if hidden is None:
        return of(*stacked(seen, band), 0.5)
    total = np.zeros(CANARIES)
    for number in {one.asked.round for one in seen}:
        drawn = of(*stacked([one for one in seen if one.asked.round == number], None), hidden / 2)
        total += np.log(1 - hidden + hidden * np.exp(drawn))
    return total


def arm(name: str) -> Target:
    guarantee: dict[str, Any] = {"noise_multiplier": 1.0, "delta": 1e-3}
    half = ParticipationConfig(sampling="cyclic", rate=0.5)
    arms: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
        "sparse": ("popularity", {"clip": 1.0}, {}, {}),
        "symmetric": ("ease", {"clip": 0.4}, {}, {}),
        "shared rows": ("ego-lightgcn", EGO, {}, {}),
        "several tables": ("ials", {"dim": 2, "rounds": 2, "clip": 0.005, "count_clip": 1.0}, {}, {}),
        "hidden": ("ego-lightgcn", EGO, {}, {"rate": 0.4}),
        "hidden, several sums a draw": (
            "exact-lightgcn",
            {"dim": 2, "layers": 1, "rounds": 2, "propagate_clip": 0.02, "loss_clip": 0.1, "count_clip": 1.0},
            {},
            {"rate": 0.5},
        ),
        "adaptive": ("ego-lightgcn", EGO | {"clip": 1e-4}, {"adaptive": {"rate": 1.0}}, {}),
        "growth": ("ego-lightgcn", EGO, {"growth": 4.0}, {}),
        "continual": ("ego-lightgcn", EGO | {"rounds": 5}, {"continual": {"band": BAND}}, {"participation": half}),
        "visible": ("ego-lightgcn", EGO, {"amplification": False}, {"rate": 0.6}),
        "masked": ("popularity", {"clip": 1.0}, {"trust": "secagg"}, {}),
        "shared noise": ("popularity", {"clip": 1.0}, {"trust": "distributed"}, {}),
        "silos": ("ego-lightgcn", EGO, {"unit": "silo"}, {"population": PopulationConfig(kind="silos", silos=8)}),
        "looks": ("ego-lightgcn", EGO | {"rounds": 2}, {"validation": 0.5}, {"looks": 2}),
        "local": ("ego-lightgcn", EGO, {"trust": "local"}, {}),
        "local counts": ("popularity", {"clip": 1.0}, {"trust": "local"}, {}),
        "local products": ("ease", {"clip": 0.4}, {"trust": "local", "executed": False}, {}),
    }
    kind, settings, privacy, rest = arms[name]
    return target(kind, settings, TRAIN, PrivacyConfig.model_validate(guarantee | privacy), **rest)


@pytest.mark.parametrize(
    "name",
    [
        "sparse",
        "symmetric",
        "shared rows",
        "several tables",
        "hidden",
        "hidden, several sums a draw",
        "adaptive",
        "growth",
        "continual",
        "visible",
        "masked",
        "shared noise",
        "silos",
        "looks",
    ],
)
def test_what_is_read_is_the_likelihood_ratio_of_the_whole_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_canaries, "Transcript", Watched)
    scores = play(arm(name), Planting(CANARIES, 2, members=MEMBERS, known=10))
    band = BAND if name == "continual" else None
    assert Watched.seen
    assert (Watched.hidden is not None) == name.startswith("hidden")
    found = ratios(Watched.seen, Watched.hidden, band, gaussian_ratios)
    assert scores.likelihood.numpy() == pytest.approx(found, rel=1e-6, abs=1e-6)
    # The others' coins are no Gaussians, and taking them for that changes little.
    assert scores.likelihood.numpy() == pytest.approx(
        ratios(Watched.seen, Watched.hidden, band, exact_ratios), abs=0.15
    )


@pytest.mark.parametrize("name", ["local", "local counts", "local products"])
def test_of_single_answers_what_is_read_is_the_likelihood_ratio_of_two(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Transcript._read_one
    expected, taken = np.zeros(CANARIES), []

    def watched(self: Transcript, asked: Asked, canary: int, answer: Answer, sent: Mapping[str, torch.Tensor]) -> None:
        read(self, asked, canary, answer, sent)
        ((table, part),) = answer.contributions.items()
        shape, bound, deviation = (
            asked.query.tables[table],
            asked.clip.norm,
            2 * asked.clip.norm * asked.parts[0].noise_multiplier,
        )
        one, other = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        part.add_to(one, None)
        one *= min(1.0, bound / float(one.norm()))
        last = int(part.index[-1])
        other[:] = -one
        other[last] = 0.0
        weight = torch.ones(shape, dtype=torch.float64)
        if table in asked.query.symmetric:
            other[:, last] = 0.0
            weight = torch.triu(2 - torch.eye(len(one), dtype=torch.float64))  # half the variance beside the diagonal
        assert float(other.norm()) <= bound * (1 + 1e-9)
        assert 1.2 * bound < float((one - other).norm()) <= 2 * bound * (1 + 1e-9)
        squares = [float((weight * (sent[table] - sure).square()).sum()) for sure in (one, other)]
        expected[canary] += (squares[1] - squares[0]) / (2 * deviation**2)
        taken.append(canary)

    monkeypatch.setattr(Transcript, "_read_one", watched)
    scores = play(arm(name), Planting(CANARIES, 3, known=10))
    assert sorted(taken) == sorted(list(range(CANARIES)) * (len(taken) // CANARIES))
    assert scores.likelihood.numpy() == pytest.approx(expected, rel=1e-6)
