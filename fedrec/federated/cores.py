"""Several cores at work on one list, with results in its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def in_order(work: Callable[[A], B], parts: Sequence[A], threads: int) -> Iterator[B]:
    """`map(work, parts)` on several threads.

    The first part is done alone, before the others begin: whatever is set up on first use (the tables of private state,
    compiled code) is set up once. Results that wait for their turn, and parts at work, are at most twice as many as
    threads. An error is raised where its part comes in order; parts that were begun are finished before.

    Args:
        work: must not depend on the order in which parts are done.
        parts: what is worked on.
        threads: 1 works in the calling thread, with all of torch's own threads; more work with one of torch's each.
    """
    if threads == 1 or len(parts) < 2:
        yield from map(work, parts)
        return
    yield work(parts[0])
    torch_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(min(threads, len(parts) - 1), initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[B]] = deque()
    try:
        for part in parts[1:]:
            if len(waiting) == 2 * threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, part))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)  # a thread sets its own number, and that of threads to come
