"""Disks that are full for a while, or write something else: training goes on, and the record says so."""

from __future__ import annotations

import errno
import json
import logging
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints import checksums, summed_files
from stable_audio.checkpoints.shards import Shards, read_shards
from stable_audio.training.callbacks import checkpoints as checkpoints_module
from stable_audio.training.callbacks.checkpoints import RETRY_MINUTES
from stable_audio.training.errors import TrainingError
from stable_audio.training.saving import checkpoint_io
from stable_audio.training.saving.recovery import newest_whole
from stable_audio.training.saving.saved import SavedWeights
from stable_audio.training.saving.shard_writing import ShardWriting
from stable_audio.training.saving.write_failure import write_failure
from tests.training.building import tiny_run
from tests.training.worlds import ended_world, run_world

OPTIONS = {"max_steps": 6, "checkpoint_every": 2, "keep": 1}


def _kinds(folder: Path) -> list[str]:
    return [entry["kind"] for entry in json.loads((folder / "run" / "run.json").read_text())["incidents"]]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_parts_that_find_no_room_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """There is none for the checkpoint of step 4; that of step 2 stays until the next one is whole."""
    write, present = summed_files._SummedFile.write, []

    def full(self: Any, data: Any) -> int:
        if "step=00000004" in str(self.name):
            raise OSError(code, "No space left on device")
        present.append({path.name for path in (tmp_path / "run" / "checkpoints").glob("step=*")})
        return write(self, data)

    monkeypatch.setattr(summed_files._SummedFile, "write", full)
    assert tiny_run(tmp_path, checkpoint_format="shards", **OPTIONS).start() == 0
    assert _kinds(tmp_path) == ["checkpoint not written"]
    assert present[-1] == {"step=00000002.shards"}
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"step=00000006.shards"}
    found = newest_whole(tmp_path / "run")
    assert found is not None
    assert found[1]["stable_audio"]["step"] == 6


@pytest.mark.parametrize("form", ["file", "shards"])
def test_files_of_an_earlier_step_are_not_said_to_be_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    caplog.set_level(logging.INFO)
    options: dict[str, Any] = {"checkpoint_every": 2, "checkpoint_format": form}
    assert tiny_run(tmp_path, max_steps=2, **options).start() == 0
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "for generation" in said
    assert "; of step" not in said
    caplog.clear()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_io, "save_torch_file", full)
    monkeypatch.setattr(summed_files._SummedFile, "write", full)
    monkeypatch.setattr(SavedWeights, "write", full)
    run = tiny_run(tmp_path, max_steps=4, recover=True, **options)
    run.stop.signal = signal.SIGTERM
    with pytest.raises(TrainingError, match="No space left"):
        run.start()
    lines = [record.getMessage() for record in caplog.records]
    at = lines.index(f"step 3 reached; written to {tmp_path / 'run'}:")
    names = {line.split()[0]: line for line in lines[at + 1 :] if line.startswith("  ")}
    assert names["last.safetensors"].endswith("for generation; of step 2")
    continued = "last.ckpt" if form == "file" else "checkpoints/step=00000002.shards,"
    assert names[continued].endswith("to continue; of step 2")
    assert "; of step" not in names["metrics.csv"]
    assert "next: the same command with --recover continues from step 2" in lines
    assert "of step 2" in (tmp_path / "run" / "run.html").read_text()


def test_a_disk_that_changes_parts_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle = checksums._from_the_disk
    writing, folder = ShardWriting(), tmp_path / "step=1.shards"
    writing.write(folder, Shards({"n": 1}, {"x": torch.ones(300)}))
    for suffix in (".distcp", ".metadata", ".ckpt"):

        def spoiling(path: Path, suffix: str = suffix) -> None:
            if path.name.endswith(suffix):
                content = bytearray(path.read_bytes())
                content[len(content) // 2] ^= 1
                path.write_bytes(content)
            settle(path)

        monkeypatch.setattr(checksums, "_from_the_disk", spoiling)
        with pytest.raises(OSError, match=r"process 0: .* differs from what was written"):
            writing.write(folder, Shards({"n": 2}, {"x": torch.zeros(300)}))
        assert read_shards(folder)["n"] == 1
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_checkpoint_follows_soon_after_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = tiny_run(tmp_path, checkpoint_every=1000).checkpoints
    now = time.monotonic()
    checkpoints._clock, checkpoints._saved_at, checkpoints._first = now, 1000, 100
    monkeypatch.setattr(time, "monotonic", lambda: now + 60 * RETRY_MINUTES + 1)
    assert not checkpoints.is_outdated(1001)
    checkpoints.io.failure = "No space left"
    assert checkpoints.is_outdated(1001)
    assert not checkpoints.is_outdated(1000)
    checkpoints.every = 0  # at the end only
    assert not checkpoints.is_outdated(1001)


def test_a_quota_is_called_that(tmp_path: Path) -> None:
    error = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    assert "so a quota or a limit of file sizes (ulimit -f) may be" in write_failure(error, tmp_path, size=9)
    exceeded = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert "Disk quota exceeded" in write_failure(exceeded, tmp_path, size=9)


@pytest.mark.parametrize("kind", ["file", "shards"])
def test_a_folder_that_takes_no_files_at_the_start_is_one_sentence(tmp_path: Path, kind: str) -> None:
    (tmp_path / "run").write_text("a file in the place of the folder")
    with pytest.raises(TrainingError, match=r"--save-dir/--name .*run is not a folder, but a folder is"):
        tiny_run(tmp_path, checkpoint_format=kind, **OPTIONS)


IN_TWO = {"devices": "auto", "demos": False, "checkpoint_every": 2}


def _finds_the_disk_full(folder: Path, form: str, what: str) -> None:
    """The end of a run on a full disk, as each of its processes tells it."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = tiny_run(folder, max_steps=2, checkpoint_format=form, **IN_TWO)
    patched = pytest.MonkeyPatch()
    patched.setattr(checkpoint_io, "save_torch_file", full)
    if what == "parts":
        patched.setattr(summed_files._SummedFile, "write", full)
    patched.setattr(SavedWeights, "write", full)
    try:
        run.start()
    except TrainingError as error:
        (folder / f"said by {run.trainer.global_rank}").write_text(str(error))


@pytest.mark.parametrize(
    ("form", "what", "named"),
    [
        ("file", "file", "step=00000002.ckpt: the checkpoint was not written (No space left"),
        (
            "shards",
            "inference file",
            "last.safetensors: the inference file, which `stable-audio export` makes",
        ),
        ("shards", "parts", "step=00000002.shards: the checkpoint was not written ("),
    ],
)
def test_all_processes_end_with_the_reason_why_the_last_save_failed(
    tmp_path: Path, form: str, what: str, named: str
) -> None:
    run_world(2, _finds_the_disk_full, tmp_path, form, what)
    said = [(tmp_path / f"said by {rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert named in said[0]
    assert "\n" not in said[0]


def _loses_its_folder(folder: Path) -> None:
    run = tiny_run(folder, max_steps=2, **IN_TWO)
    write = checkpoint_io._write_file

    def gone(path: Path, content: Any) -> None:
        path.parent.rmdir()
        path.parent.write_text("something else")
        write(path, content)

    pytest.MonkeyPatch().setattr(checkpoint_io, "_write_file", gone)
    run.start()


def test_all_processes_fail_where_the_last_save_has_lost_its_folder(tmp_path: Path) -> None:
    statuses, failures = ended_world(2, _loses_its_folder, tmp_path, left_alone=True)
    assert statuses == [1, 1]  # what the test's processes end with after an error
    reasons = {text.strip().splitlines()[-1] for text in failures}
    assert len(reasons) == 1
    assert "step=00000002.ckpt: the checkpoint was not written (" in reasons.pop()


def _refuses_one(folder: Path) -> None:
    answers = iter(["the weights are not finite"])
    pytest.MonkeyPatch().setattr(checkpoints_module, "not_finite", lambda *_: next(answers, None))
    run = tiny_run(folder, max_steps=4, **IN_TWO)
    assert run.start() == 0
    assert run.io.failure is None


def test_a_save_that_was_refused_is_forgotten_with_the_next_one_that_is_whole(tmp_path: Path) -> None:
    """On every process: most of them write nothing that would say so."""
    run_world(2, _refuses_one, tmp_path)
    assert _kinds(tmp_path) == ["checkpoint not written"]
