"""Checkpoints on a disk that is full: what makes room for the next one, and what never does."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from stable_audio.checkpoints import summed_files
from stable_audio.training import trainer
from stable_audio.training.errors import TrainingError
from stable_audio.training.saving import checkpoint_io
from stable_audio.training.saving.recovery import newest_whole
from stable_audio.training.saving.room import make_room
from tests.training.building import tiny_run
from tests.training.worlds import run_world

FORMS = pytest.mark.parametrize("form", ["file", "shards"])


def _steps(folder: Path) -> list[int]:
    """The steps of the checkpoints, each of them complete with its inference file."""
    checkpoints = folder / "run" / "checkpoints"
    files = {path.stem for path in checkpoints.glob("step=*.ckpt")}
    assert files == {path.stem for path in checkpoints.glob("step=*.safetensors")}
    names = files | {path.stem for path in checkpoints.glob("step=*.shards")}
    return sorted(int(name.removeprefix("step=")) for name in names)


def _disk(folder: Path, monkeypatch: pytest.MonkeyPatch, *, holds: int) -> None:
    """Make the disk full for another checkpoint where so many are."""
    save, write = checkpoint_io.save_torch_file, summed_files._SummedFile.write

    def refuse() -> None:
        checkpoints = folder / "run" / "checkpoints"
        if len([*checkpoints.glob("step=*.ckpt"), *checkpoints.glob("step=*.shards")]) >= holds:
            raise OSError(errno.ENOSPC, "No space left on device")

    def saved(content: Any, path: Path) -> None:
        path.write_bytes(b"part")
        refuse()
        save(content, path)

    def written(self: Any, data: Any) -> int:
        refuse()
        return write(self, data)

    monkeypatch.setattr(checkpoint_io, "save_torch_file", saved)
    monkeypatch.setattr(summed_files._SummedFile, "write", written)


def _incidents(folder: Path) -> list[str]:
    return [each["kind"] for each in json.loads((folder / "run" / "run.json").read_text())["incidents"]]


@FORMS
def test_older_checkpoints_than_the_newest_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    _disk(tmp_path, monkeypatch, holds=2)
    options: dict[str, Any] = {"checkpoint_every": 1, "keep": 3, "checkpoint_format": form}
    assert tiny_run(tmp_path, max_steps=4, **options).start() == 0
    assert _steps(tmp_path) == [3, 4]
    assert _incidents(tmp_path) == ["made room"] * 2


@FORMS
@pytest.mark.parametrize("keep", [1, 3, -1])
def test_the_only_checkpoint_stays_and_so_do_all_where_all_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, keep: int
) -> None:
    holds = 2 if keep < 0 else 1
    _disk(tmp_path, monkeypatch, holds=holds)
    options: dict[str, Any] = {"checkpoint_every": 1, "keep": keep, "checkpoint_format": form}
    with pytest.raises(TrainingError, match="No space left"):
        tiny_run(tmp_path, max_steps=3, **options).start()
    assert _steps(tmp_path) == list(range(1, holds + 1))
    assert set(_incidents(tmp_path)) == {"checkpoint not written"}
    found = newest_whole(tmp_path / "run")
    assert found is not None
    assert not [*(tmp_path / "run").rglob("*.partial*")]


@FORMS
def test_what_is_damaged_is_not_the_newest(tmp_path: Path, form: str) -> None:
    options: dict[str, Any] = {"checkpoint_every": 1, "keep": 3, "checkpoint_format": form}
    assert tiny_run(tmp_path, max_steps=3, **options).start() == 0
    folder = tmp_path / "run"
    newest = next((folder / "checkpoints").glob(f"step=00000003.{'ckpt' if form == 'file' else form}"))
    damaged = next(newest.glob("*.distcp")) if newest.is_dir() else newest
    (folder / "last.ckpt").unlink(missing_ok=True)
    with open(damaged, "rb+") as file:
        file.truncate(damaged.stat().st_size // 2)
    assert make_room(folder, 3, keep=3)
    assert _steps(tmp_path) == [2, 3]
    assert not make_room(folder, 3, keep=3)
    assert _steps(tmp_path) == [2, 3]


def test_the_one_that_the_run_may_go_back_to_stays(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, max_steps=3, checkpoint_every=1).start() == 0
    left = tmp_path / "run" / "checkpoints" / "left-step=00000009.ckpt"
    left.write_bytes(b"left")
    assert make_room(tmp_path / "run", 2, keep=-1)
    assert not left.exists()
    assert _steps(tmp_path) == [1, 2, 3]
    assert make_room(tmp_path / "run", 2, keep=1)
    assert _steps(tmp_path) == [2, 3]


@FORMS
def test_a_continued_run_removes_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """A disk without a byte takes not even the rows of metrics that are written anew."""
    options: dict[str, Any] = {"checkpoint_every": 1, "checkpoint_format": form}
    assert tiny_run(tmp_path, max_steps=3, **options).start() == 0
    half = tmp_path / "run" / "checkpoints" / ".step=00000004.0a1b2c3d.partial.ckpt"
    half.write_bytes(b"part")
    logger = trainer._logger

    def full(*args: Any) -> Any:
        if len(_steps(tmp_path)) > 1 or half.exists():
            raise OSError(errno.ENOSPC, "No space left on device", "metrics.csv")
        return logger(*args)

    monkeypatch.setattr(trainer, "_logger", full)
    assert tiny_run(tmp_path, max_steps=4, recover=True, keep=1, **options).start() == 0
    assert _steps(tmp_path) == [4]


def _second_finds_no_room(folder: Path) -> None:
    if os.environ["RANK"] == "1":
        _disk(folder, pytest.MonkeyPatch(), holds=2)
    options: dict[str, Any] = {"checkpoint_every": 1, "keep": 3, "checkpoint_format": "shards"}
    tiny_run(folder, max_steps=4, batch_size=1, devices="auto", **options).start()


def test_processes_make_room_together(tmp_path: Path) -> None:
    """One of them finds the disk full, and the first one removes."""
    run_world(2, _second_finds_no_room, tmp_path)
    assert _steps(tmp_path) == [3, 4]
    assert _incidents(tmp_path) == ["made room"] * 2
