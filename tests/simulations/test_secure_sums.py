"""The measurement of secure sums runs, compares every sum with the plain one, and counts the bytes that are sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations import secure_sums


def test_secure_sums_prints_a_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--users", "12", "6", "--words", "50", "--dense-up-to", "6", "--out", str(tmp_path)]
    secure_sums.main([*arguments, "--lost", "0.2"])
    printed = capsys.readouterr().out
    assert printed.startswith("answers of 0.2 kB, 20% of the users lost after sharing")
    assert len(printed.splitlines()) == 2 + 3  # six users by both graphs, twelve by one
    assert (tmp_path / "secure_sums.png").stat().st_size > 1000


def test_bytes_of_a_dense_sum_by_hand() -> None:
    found = secure_sums.measure(6, 100, 0.2, dense=True)
    assert (found["users"], found["lost"], found["neighbours"]) == (6, 1, 5)
    # Each of 6: a number and two keys, and to 5 neighbours two numbers, a nonce, a tag and two shares of 66 bytes.
    # Each of 5 who answer: a number, 100 words, and 5 shares with a number each.
    up = 6 * (4 + 64 + 5 * (8 + 28 + 132)) + 5 * (4 + 400 + 5 * 70)
    assert found["up kB"] == pytest.approx(up / 6 / 1000)
