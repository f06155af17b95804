"""How much of the noise must be missing until an audit notices?

    python simulations/audit_power.py

Scores of canaries that fill their clips under Gaussian noise are N(μ, 1) if they are in and N(0, 1) if not, so that
audits can be simulated without an arm: μ is that of the claim, over the part of the noise that is left. Prints the
share of audits whose bound on (ε, δ) refutes the claim, then the share whose bound on μ-GDP does, by one run of so many
canaries and by so many runs of one canary. Five minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from scipy.optimize import brentq
from torch import Tensor

from fedrec.attacks import (
    best_one_run_bound,
    best_one_run_mu_bound,
    gaussian_epsilon,
    many_runs_bound,
    many_runs_mu_bound,
)

DELTA = 1e-5
STATISTICS = 3  # that an audit tries in one run; what the others cost counts, what they may add does not

Refutes = Callable[[Tensor, Tensor], tuple[bool, bool]]


def by_one_run(claimed: float, mu: float) -> Refutes:
    """Whether one run refutes ε, and whether it refutes μ."""
    return lambda scores, included: (
        best_one_run_bound([scores] * STATISTICS, included, DELTA) > claimed,
        best_one_run_mu_bound([scores] * STATISTICS, included) > mu,
    )


def by_many_runs(claimed: float, mu: float) -> Refutes:
    """Whether many runs refute ε, and whether they refute μ."""
    return lambda scores, included: (
        many_runs_bound([scores], included, DELTA) > claimed,
        many_runs_mu_bound([scores], included) > mu,
    )


def shares(refutes: Refutes, mu: float, canaries: int, audits: int, generator: torch.Generator) -> str:
    """The shares of simulated audits that refute ε, and μ."""
    found = []
    for _ in range(audits):
        included = torch.rand(canaries, generator=generator) < 0.5
        found.append(refutes(torch.randn(canaries, generator=generator) + mu * included, included))
    return ", ".join(f"{100 * sum(one) / audits:.0f}%" for one in zip(*found, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--epsilon", type=float, default=1.0, help="the claim, at a delta of 1e-5")
    parser.add_argument("--left", type=float, nargs="+", default=[0.25, 1 / 3, 0.4, 0.5, 1.0], help="of the noise")
    parser.add_argument("--canaries", type=int, nargs="+", default=[1000], help="of one run")
    parser.add_argument("--runs", type=int, nargs="+", default=[2000, 10_000, 40_000, 100_000, 200_000])
    parser.add_argument("--audits", type=int, default=60, help="that are simulated for each cell")
    given = parser.parse_args(arguments)
    claimed: float = given.epsilon
    mu = float(brentq(lambda mu: gaussian_epsilon(mu, DELTA) - claimed, 1e-3, 10.0))
    ways = [(f"one run of {n:,}", by_one_run(claimed, mu), n) for n in given.canaries]
    ways += [(f"{n:,} runs", by_many_runs(claimed, mu), n) for n in given.runs]
    print("| noise left | ε | " + " | ".join(name for name, _, _ in ways) + " |")
    print("|---" * (2 + len(ways)) + "|")
    for left in given.left:
        generator = torch.Generator().manual_seed(0)
        cells = [shares(refutes, mu / left, number, given.audits, generator) for _, refutes, number in ways]
        print(f"| {left:.2f} | {gaussian_epsilon(mu / left, DELTA):.2f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
