"""Work on several cores: order, errors, and how much is under way."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from fedrec.federated.cores import in_order


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("parts", [0, 1, 2, 23])
def test_results_come_in_the_order_of_the_parts(threads: int, parts: int) -> None:
    def work(part: int) -> int:
        time.sleep(0.001 * (part % 3 == 0))
        return part * part

    assert list(in_order(work, list(range(parts)), threads)) == [part * part for part in range(parts)]


def test_no_more_is_under_way_than_twice_the_threads() -> None:
    lock, started, most = threading.Lock(), 0, 0

    def work(part: int) -> int:
        nonlocal started
        with lock:
            started += 1
        return part

    for taken in in_order(work, list(range(50)), threads=3):
        with lock:
            most = max(most, started - taken)
        time.sleep(0.001)
    assert 1 < most <= 2 * 3 + 1  # those that wait or work, and the one that was just taken


def test_an_error_comes_in_its_place_and_ends_the_work() -> None:
    done: list[int] = []

    def work(part: int) -> int:
        if part == 4:
            raise ArithmeticError("the fifth part breaks")
        done.append(part)
        return part

    results = in_order(work, list(range(1000)), threads=2)
    seen = [next(results) for _ in range(4)]
    with pytest.raises(ArithmeticError):
        next(results)
    assert seen == [0, 1, 2, 3]
    assert len(done) < 20


def test_threads_use_one_of_torchs_each_and_torch_keeps_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        inside = list(in_order(lambda _: torch.get_num_threads(), [0, 1, 2], threads=2))
        assert inside == [3, 1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
