"""What does a secure sum cost, in bytes and seconds, as the number of users grows?

    python simulations/secure_sums.py

One sum of answers of --words 32-bit words (a table of 1,000 items and 16 numbers each) by the whole protocol, in one
process: keys, sealed shares, masks, recovery. A tenth of the users are lost after they shared their keys, which is as
many as is stated beforehand. "dense" is the protocol in which every two users exchange masks (Bonawitz et al. 2017),
"sparse" the one with as many neighbours as that loss asks for (Bell et al. 2020).

    neighbours     with whom each user exchanges masks
    ms a user      of a user's device: keys, shares, masking, unmasking
    server s       adding up, recovering secrets, taking masks off
    up, down kB    that a user sends and receives; the answer alone is 4 bytes a word
    overhead       bytes up over those of the bare answer

Every sum is compared with the plain one, word by word. Prints a table and writes secure_sums.png. Half a minute.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fedrec.privacy.secure_round import Traffic, sparse_enough
from fedrec.privacy.secure_sum import Masked, Sealed, Session, Summand, add_masked, unmask


def measure(users: int, words: int, lost: float, dense: bool) -> dict[str, float | str]:
    """One sum, of which the users of a share `lost` do not answer."""
    neighbors, threshold = sparse_enough(users, 1 - lost)
    if dense:
        neighbors, threshold = None, (users - 1) // 2 + 1
    generator = np.random.default_rng(users)
    session = Session(tuple((generator.permutation(users) + 1).tolist()), words, threshold, neighbors, "measured")
    answers = generator.integers(0, 2**32, (users, words), dtype=np.uint32)
    answering = range(1, users - int(lost * users) + 1)  # their places on the ring are random

    began = time.perf_counter()
    summands = {user: Summand(user, session) for user in session.users}
    adverts = {user: summand.advertise() for user, summand in summands.items()}
    inbox: dict[int, list[Sealed]] = {user: [] for user in session.users}
    for summand in summands.values():
        for box in summand.share([adverts[other] for other in summand.neighbors]):
            inbox[box.receiver].append(box)
    sharing = time.perf_counter() - began
    masked: list[Masked] = [summands[user].mask(answers[user - 1], inbox[user]) for user in answering]
    masking = time.perf_counter() - began - sharing
    began = time.perf_counter()
    total, answered = add_masked(session, masked)
    adding = time.perf_counter() - began
    began = time.perf_counter()
    revealed = [summands[user].unmask(answered) for user in answering]
    revealing = time.perf_counter() - began
    began = time.perf_counter()
    found = unmask(session, list(adverts.values()), session.users, total, answered, revealed)
    recovering = time.perf_counter() - began

    plain = answers[[user - 1 for user in answering]].sum(axis=0, dtype=np.uint32)
    assert np.array_equal(found, plain), "the secure sum is not the plain one"
    traffic = Traffic.of(session, len(answering))
    return {
        "graph": "dense" if dense else "sparse",
        "users": users,
        "lost": users - len(answering),
        "neighbours": session.degree,
        "ms a user": 1000 * (sharing / users + (masking + revealing) / len(answering)),
        "server s": adding + recovering,
        "up kB": traffic.up / users / 1000,
        "down kB": traffic.down / users / 1000,
        "overhead": traffic.up / (len(answering) * 4 * words),
    }


def draw(rows: pd.DataFrame, path: Path) -> None:
    """A user's seconds, the server's and a user's bytes, against the number of users."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    columns = {
        "ms a user": "milliseconds of a user's device",
        "server s": "seconds of the server",
        "up kB": "kB up a user",
    }
    for axes, (column, what) in zip(figure.subplots(1, 3), columns.items(), strict=True):
        for graph, own in rows.groupby("graph"):
            axes.plot(own["users"], own[column], marker="o", label=graph)
        axes.set_xscale("log")
        axes.set_yscale("log")
        sizes = sorted(set(rows["users"]))
        axes.set_xticks(sizes, [str(users) for users in sizes])
        axes.minorticks_off()
        axes.set_xlabel("users")
        axes.set_ylabel(what)
        axes.legend()
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every size, print the table, draw the picture."""
    description, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, nargs="+", default=[25, 50, 100, 200, 400], help="default: 25 to 400")
    parser.add_argument("--words", type=int, default=16_000, help="length of an answer (default: 16000)")
    parser.add_argument("--lost", type=float, default=0.1, help="share of users lost after sharing (default: 0.1)")
    parser.add_argument(
        "--dense-up-to", type=int, default=200, help="users for whom the dense graph is run (default: 200)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/secure-sums"), help="folder of the picture")
    asked = parser.parse_args(arguments)
    sizes = [(users, dense) for users in sorted(asked.users) for dense in (True, False)]
    rows = pd.DataFrame(
        [
            measure(users, asked.words, asked.lost, dense)
            for users, dense in sizes
            if not dense or users <= asked.dense_up_to
        ]
    )
    print(f"answers of {4 * asked.words / 1000:g} kB, {100 * asked.lost:g}% of the users lost after sharing")
    print(rows.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    asked.out.mkdir(parents=True, exist_ok=True)
    draw(rows, asked.out / "secure_sums.png")


if __name__ == "__main__":
    main()
