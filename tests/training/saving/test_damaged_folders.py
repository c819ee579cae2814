"""A run goes on whatever has become of the files in its folder, and says what it found."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.training.record.start_files import EarlyLog
from stable_audio.training.saving.checkpoint_files import step_checkpoints
from stable_audio.training.saving.recovery import newest_whole
from tests.training.building import demo_section, tiny_config, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint

STEPS = {"checkpoint_every": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that nothing has happened to."""
    folder = tmp_path_factory.mktemp("whole")
    assert tiny_run(folder, max_steps=6, **STEPS).start() == 0
    return folder / "run"


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """The folder of the same run, killed after its fourth step."""
    assert tiny_run(tmp_path, max_steps=4, **STEPS).start() == 0
    return tmp_path / "run"


def _recovered(folder: Path) -> Path | None:
    """Go on to step 6; returns the checkpoint that the run went on from."""
    with EarlyLog() as early:
        run = tiny_run(folder.parent, max_steps=6, recover=True, **STEPS)
    run.early = early
    assert run.start() == 0
    return run.resume


def _kinds(folder: Path) -> list[str]:
    return [entry["kind"] for entry in json.loads((folder / "run.json").read_text())["incidents"]]


def _curve(folder: Path) -> list[tuple[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [(row["step"], row["train/loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("damage", ["folder", "link to nothing", "zero bytes", "absent"])
def test_what_has_become_of_last(half: Path, whole: Path, damage: str) -> None:
    last = half / "last.ckpt"
    last.unlink()
    if damage == "folder":
        last.mkdir()
        (last / "mine.txt").write_text("kept")
    elif damage == "link to nothing":
        last.symlink_to(half / "gone.ckpt")
    elif damage == "zero bytes":
        last.touch()
    assert _recovered(half) == half / "checkpoints" / "step=00000004.ckpt"
    assert_same_checkpoint(whole / "last.ckpt", last)
    assert _curve(half) == _curve(whole)
    assert _kinds(half) == (["damaged checkpoint"] if damage == "zero bytes" else [])
    if damage == "folder":
        assert (half / "last.damaged.ckpt" / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("damage", ["link to nothing", "zero bytes", "folder"])
def test_a_newest_checkpoint_that_is_none_is_passed_over(half: Path, whole: Path, damage: str) -> None:
    newest = half / "checkpoints" / "step=00000004.ckpt"
    newest.unlink()
    (half / "last.ckpt").unlink()
    os.link(half / "checkpoints" / "step=00000002.ckpt", half / "last.ckpt")
    if damage == "folder":
        newest.mkdir()
    elif damage == "zero bytes":
        newest.touch()
    else:
        newest.symlink_to(half / "gone.ckpt")
    assert _recovered(half) == half / "last.ckpt"
    assert _kinds(half) == ["damaged checkpoint"]
    assert_same_checkpoint(whole / "last.ckpt", half / "last.ckpt")


@pytest.mark.parametrize("damage", ["cut", "a list", "folder"])
def test_a_damaged_record_is_put_aside_and_a_new_one_says_so(half: Path, whole: Path, damage: str) -> None:
    record = half / "run.json"
    text = record.read_text()
    if damage == "folder":
        record.unlink()
        record.mkdir()
    else:
        record.write_text(text[: len(text) // 2] if damage == "cut" else "[]")
    _recovered(half)
    (entry,) = json.loads(record.read_text())["incidents"]
    assert entry["kind"] == "record lost"
    assert "is now run.damaged.json" in entry["text"]
    assert (half / "run.damaged.json").exists()
    assert_same_checkpoint(whole / "last.ckpt", half / "last.ckpt")


def test_a_record_that_is_gone_is_told(half: Path) -> None:
    (half / "run.json").unlink()
    _recovered(half)
    assert _kinds(half) == ["record lost"]


def test_a_record_that_is_gone_is_told_beside_other_findings(half: Path) -> None:
    (half / "run.json").unlink()
    (half / "last.ckpt").write_bytes(b"")
    _recovered(half)
    assert _kinds(half) == ["damaged checkpoint", "record lost"]


def test_a_row_that_a_kill_has_cut_is_no_row(half: Path, whole: Path) -> None:
    """As many cells as there are columns, but the last number lacks digits."""
    metrics = half / "metrics.csv"
    rows = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(rows[:-1]) + rows[-1].rstrip(b"\r\n")[:-1])
    _recovered(half)
    assert _curve(half) == [row for row in _curve(whole) if row[0] != "4"]
    assert "1 line was damaged and removed" in (half / "log.txt").read_text()


def test_demos_that_cannot_be_written_cost_a_log_line(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "demos").write_text("a file")
    config = tiny_config(demo=demo_section(demo_every=1))
    assert tiny_run(tmp_path, config, max_steps=2).start() == 0
    assert _kinds(tmp_path / "run") == ["demo failed"] * 2


def test_halves_of_demos_are_removed(half: Path) -> None:
    part = half / "demos" / "step_00000004" / ".demo_000.0a1b2c3d.partial.wav"
    part.parent.mkdir(parents=True)
    part.touch()
    _recovered(half)
    assert not part.exists()


def test_a_kill_between_the_two_renames_of_parts_loses_nothing(tmp_path: Path, whole: Path) -> None:
    options = {**STEPS, "checkpoint_format": "shards"}
    assert tiny_run(tmp_path, max_steps=4, **options).start() == 0
    folder = tmp_path / "run" / "checkpoints"
    newest, hidden = folder / "step=00000004.shards", folder / ".step=00000004.earlier.partial.shards"
    newest.rename(hidden)
    shutil.copytree(hidden, folder / ".step=00000004.partial.shards")
    assert step_checkpoints(tmp_path / "run")[-1] == (4, hidden)
    run = tiny_run(tmp_path, max_steps=6, recover=True, checkpoint_every=0)
    assert run.resume == hidden
    assert run.start() == 0
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".shards") == [
        "step=00000002.shards",
        "step=00000004.shards",
    ]
    assert_same_checkpoint(whole / "last.ckpt", tmp_path / "run" / "last.ckpt")


@pytest.mark.parametrize("damage", ["zero bytes", "no list", "cut list"])
def test_a_damaged_folder_of_parts_is_passed_over(tmp_path: Path, damage: str) -> None:
    options = {**STEPS, "checkpoint_format": "shards", "max_steps": 4}
    assert tiny_run(tmp_path, **options).start() == 0
    newest = tmp_path / "run" / "checkpoints" / "step=00000004.shards"
    complete = newest / "complete.json"
    if damage == "zero bytes":
        next(newest.glob("*.distcp")).write_bytes(b"")
    elif damage == "no list":
        complete.unlink()
    else:
        complete.write_text(complete.read_text()[:50])
    found = newest_whole(tmp_path / "run")
    assert found is not None
    assert found[0].name == "step=00000002.shards"


def test_the_newest_step_counts_though_the_clock_was_set_back(half: Path) -> None:
    """By a year, between the two checkpoints."""
    year = 365 * 86400
    for path in (half / "checkpoints" / "step=00000004.ckpt", half / "last.ckpt"):
        at = path.stat().st_mtime - year
        os.utime(path, (at, at))
    run = tiny_run(half.parent, max_steps=6, recover=True, **STEPS)
    assert run.resume == half / "last.ckpt"
    assert load_torch_file(run.resume)["stable_audio"]["step"] == 4
