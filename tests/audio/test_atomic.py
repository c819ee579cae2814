"""Files are whole or absent."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from stable_audio.audio.atomic import atomic_entries, atomic_write, remove_leftovers


def test_new_file_and_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.json"
    with atomic_write(target) as temporary:
        assert temporary.suffix == ".json"
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "file.json"
    target.write_text("old")

    def write() -> None:
        with atomic_write(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_killed_programs_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    old = time.time() - 3600
    with atomic_write(tmp_path / "sound.wav") as temporary:
        temporary.write_text("whole")
        left = temporary.name
    (tmp_path / "sound.wav").unlink()
    for name in (left, ".hidden.json", "a.partial.json", "sound.json"):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (old, old))
    young = tmp_path / left.replace("sound", "other")
    young.write_text("still being written")
    assert remove_leftovers(tmp_path) == 1
    assert {p.name for p in tmp_path.iterdir()} == {
        ".hidden.json",
        "a.partial.json",
        "sound.json",
        young.name,
    }
    assert remove_leftovers(tmp_path / "absent") == 0


def test_entries_of_a_folder_come_together(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    (out / "part").mkdir(parents=True)
    for name in ("part/old", "index", "other"):
        (out / name).write_text("old")
    with atomic_entries(out, last="index") as into:
        (into / "part").mkdir()
        (into / "part" / "new").write_text("new")
        (into / "index").write_text("new")
        assert (out / "part" / "old").exists()
    assert {str(p.relative_to(out)) for p in out.rglob("*")} == {"part", "part/new", "index", "other"}
    assert (out / "index").read_text() == "new"
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_a_failure_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_entries(tmp_path / "out", last="index") as into:
            (into / "index").write_text("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write()
    assert not list(tmp_path.iterdir())


def test_leftover_folders_go_too(tmp_path: Path) -> None:
    left = tmp_path / ".out.12345678.partial"
    (left / "part").mkdir(parents=True)
    os.utime(left, (0, 0))
    assert remove_leftovers(tmp_path) == 1
    assert not list(tmp_path.iterdir())
