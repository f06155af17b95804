from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedrec.errors import RunError
from fedrec.experiment.store import FileCheckpoints, RunDirectory, write_atomically, write_tensors


def test_a_write_that_dies_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "file"
    write_atomically(path, "old")

    def die(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_atomically(path, "new")  # over what the first attempt left
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_checkpoints_come_back_exactly(tmp_path: Path) -> None:
    table = torch.arange(12.0, dtype=torch.float64).view(3, 4)
    tensors = {"now/items": table, "best/items": table[:, :2], "step": torch.tensor(7)}  # the second is a view
    facts = {"value": 0.1 + 0.2, "logged": [[1, "loss", 1e-300, "simulation"]], "none": None}
    checkpoints = FileCheckpoints(tmp_path / "checkpoint.safetensors")
    assert checkpoints.load() is None
    checkpoints.save(tensors, facts)
    saved = FileCheckpoints(tmp_path / "checkpoint.safetensors").load()
    assert saved is not None
    assert saved[1] == facts
    assert saved[0].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert saved[0][name].dtype == tensor.dtype
        assert torch.equal(saved[0][name], tensor)


def test_seconds_add_up_over_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    first = FileCheckpoints(tmp_path / "c")
    clock[0] += 5
    first.save({}, {})
    clock[0] += 50  # lost: the session was killed after its checkpoint
    second = FileCheckpoints(tmp_path / "c")
    second.load()
    clock[0] += 2
    assert second.seconds == 7.0


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"checkpoint\.safetensors: damaged checkpoint .*delete the file"):
        FileCheckpoints(path).load()


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    FileCheckpoints(path).save({"items": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RunError, match="damaged checkpoint"):
        FileCheckpoints(path).load()


def test_tensors_are_kept_as_they_are(tmp_path: Path) -> None:
    import safetensors.torch

    table = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    write_tensors(tmp_path / "model.safetensors", {"a": table, "b": table.T})
    read = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert torch.equal(read["a"], table.detach())
    assert torch.equal(read["b"], table.detach().T)


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    RunDirectory(tmp_path).require_free()
    RunDirectory(tmp_path / "new").require_free()
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="not empty, and not a run; choose a folder"):
        RunDirectory(tmp_path).require_free()
    with pytest.raises(RunError, match="a file; choose a folder"):
        RunDirectory(tmp_path / "thesis.tex").require_free()
    with pytest.raises(RunError, match="not a run directory"):
        _ = RunDirectory(tmp_path).config


def test_a_folder_in_which_beginning_was_interrupted_is_free(tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    (tmp_path / "manifest.json").write_text(json.dumps({"finished": False}))
    RunDirectory(tmp_path).require_free()


def test_one_process_at_a_time_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path\n"
        "import fcntl\n"
        f"file = open({str(tmp_path / '.lock')!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="another process is writing this run"), RunDirectory(tmp_path).locked():
            pass
        process.kill()
        process.wait()
    with (
        RunDirectory(tmp_path).locked(),
        pytest.raises(RunError, match="another process"),
        RunDirectory(tmp_path).locked(),
    ):
        pass
    with RunDirectory(tmp_path).locked():
        pass


def test_a_folder_that_cannot_be_made_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match=r"cannot be written .*choose another --out"),
        RunDirectory(tmp_path / "file" / "run").locked(),
    ):
        pass


@pytest.mark.parametrize("content", ["garbage", None])
def test_a_damaged_or_lost_manifest_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RunError, match=r"manifest\.json: cannot be read .*; restore the file, or run again"):
        _ = RunDirectory(tmp_path).manifest
