"""How far is exact ranking from the matrix product beneath it, and from the loop that is usually written?

    python simulations/bench_ranking.py --data /path/to/gowalla

All users of Gowalla (29,858 users, 40,981 items, factors of 64 dimensions, lists of 20 without training items), or
synthetic interactions of the same size. What is timed, in turn, several times over, in one process:

    product   the scores alone in batches of 100 users, nothing kept
    dense     batches of 100 users, `scores[mask] = -inf; scores.topk(20)` with a mask of that shape, the usual loop
    indexed   the same with the mask as pairs of indices
    scorer    `fedrec.evaluation.top_k` of any scorer, here one that multiplies: ties by hash, every score checked
    factors   the same of a `Factors` scorer, whose product is taken tile by tile

What is printed are medians, and ratios of medians, since seconds depend on the machine. Exit code 1 if factors take
more than 2.5 times the product, are less than 3 times as fast as dense, or other lists are found.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedrec.evaluation import Csr, Factors, Scorer, top_k
from fedrec.streams import Streams, keys_of

USERS, ITEMS, INTERACTIONS, DIM, K, BATCH = 29_858, 40_981, 810_128, 64, 20, 100
MOST_OVER_PRODUCT, LEAST_OVER_DENSE = 2.5, 3.0


def read(folder: Path) -> Csr:
    """The training items of a folder in LightGCN's format: one line a user, "user item item ..."."""
    rows: dict[int, list[int]] = {}
    with (folder / "train.txt").open() as lines:
        for line in lines:
            user, *items = map(int, line.split())
            rows[user] = sorted(items)
    counts = torch.tensor([0, *(len(rows.get(user, [])) for user in range(max(rows) + 1))])
    return counts.cumsum(0), torch.tensor([item for user in sorted(rows) for item in rows[user]])


def synthetic() -> Csr:
    """Popular items more often than others, as many interactions as Gowalla has, spread evenly over users."""
    draw = np.random.default_rng(0)
    weights = 1.0 / np.arange(10, ITEMS + 10)
    user = np.sort(draw.integers(0, USERS, INTERACTIONS))
    item = draw.choice(ITEMS, INTERACTIONS, p=weights / weights.sum())
    flat = torch.from_numpy(np.unique(user * ITEMS + item))
    counts = torch.bincount(flat // ITEMS, minlength=USERS)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), flat % ITEMS


def dense_loop(users: Tensor, items: Tensor, train: Csr, k: int, *, indexed: bool = False) -> Tensor:
    """The usual loop."""
    indptr, known = train
    lists = []
    for start in range(0, len(users), BATCH):
        scores = users[start : start + BATCH] @ items.T
        counts = indptr[start : start + 1 + len(scores)].diff()
        row = torch.repeat_interleave(torch.arange(len(scores)), counts)
        column = known[indptr[start] : indptr[start + len(scores)]]
        if indexed:
            scores[row, column] = -torch.inf
        else:
            mask = torch.zeros(scores.shape, dtype=torch.bool)
            mask[row, column] = True
            scores[mask] = -torch.inf
        lists.append(scores.topk(k).indices)
    return torch.cat(lists)


def product(users: Tensor, items: Tensor) -> None:
    """The scores alone."""
    for start in range(0, len(users), BATCH):
        users[start : start + BATCH] @ items.T


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> int:
    """Time the three in turn and compare their medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with LightGCN's train.txt; synthetic of that size without it")
    parser.add_argument("--repeats", type=int, default=5, help="how often each is timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    train = read(asked.data) if asked.data else synthetic()
    n_users, n_items = len(train[0]) - 1, int(train[1].max()) + 1
    draw = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, DIM, generator=draw) for n in (n_users, n_items))
    user_keys, item_keys, everyone = keys_of(range(n_users)), keys_of(range(n_items)), torch.arange(n_users)

    def ranked(scorer: Scorer, some: Tensor = everyone) -> Tensor:
        found = top_k(scorer, some, K, exclude=[train], user_keys=user_keys, item_keys=item_keys, ties=Streams(0))
        return found.items

    factors = Factors(users, items)
    runs: dict[str, Callable[[], object]] = {
        "product": lambda: product(users, items),
        "dense": lambda: dense_loop(users, items, train, K),
        "indexed": lambda: dense_loop(users, items, train, K, indexed=True),
        "scorer": lambda: ranked(lambda some: users[some] @ items.T),
        "factors": lambda: ranked(factors),
    }
    ranked(factors, everyone[:100])  # compiles, or reads what was compiled before
    same = float((ranked(factors) == dense_loop(users, items, train, K)).double().mean())
    timed: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(asked.repeats):
        for name, run in runs.items():
            timed[name].append(seconds(run))
    medians = {name: statistics.median(times) for name, times in timed.items()}
    over_product = medians["factors"] / medians["product"]
    over_dense = medians["dense"] / medians["factors"]
    print(f"{n_users:,} users x {n_items:,} items, {DIM} dimensions, top {K}, {asked.threads} threads")
    for name, times in timed.items():
        print(f"{name:8} {medians[name]:6.2f} s   ({', '.join(f'{one:.2f}' for one in sorted(times))})")
    print(f"factors / product {over_product:5.2f}   (at most {MOST_OVER_PRODUCT})")
    print(f"dense / factors   {over_dense:5.2f}   (at least {LEAST_OVER_DENSE:.0f})")
    print(f"indexed / factors {medians['indexed'] / medians['factors']:5.2f}")
    print(f"scorer / product  {medians['scorer'] / medians['product']:5.2f}")
    print(f"places of the lists that both fill alike: {same:.4%}")  # products of other batches round otherwise
    fast = over_product <= MOST_OVER_PRODUCT and over_dense >= LEAST_OVER_DENSE
    return 0 if fast and same > 0.999 else 1


if __name__ == "__main__":
    sys.exit(main())
