"""Files are whole or absent."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from stable_audio.audio.atomic import atomic_write, remove_leftovers


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
