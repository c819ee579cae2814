"""Where a command cannot write, it says so before it loads anything."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from stable_audio.audio.writable import require_file, require_folder
from stable_audio.cli import main


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that is read-only."""

    def refuse(**options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "somewhere")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


COMMANDS = {
    "generate": ["--ckpt-path", "none.ckpt", "--out", "OUT"],
    "encode": ["none", "--out", "OUT"],
    "decode": ["none", "--out", "OUT"],
    "reconstruct": ["none", "--out", "OUT"],
    "evaluate-quickstart": ["--ckpt-path", "none.ckpt", "--out", "OUT"],
    "bakeoff": ["none.json", "--out", "OUT"],
    "finetune": ["--from", "none.ckpt", "--data", "none", "--out", "OUT"],
    "serve": ["none.ckpt", "--out", "OUT"],
    "ui": ["none.ckpt", "--out", "OUT"],
    "schema": ["--model", "OUT/a.json"],
    "export": ["none.ckpt", "OUT/a.ckpt"],
    "adapter": ["convert", "none.ckpt", "OUT/a.ckpt"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_ask_before_they_read_anything(
    command: str, locked: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "deep"
    assert main([command, *(part.replace("OUT", str(out)) for part in COMMANDS[command])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    reason = os.strerror(errno.EROFS)
    assert f"{out}: {tmp_path} cannot be written to ({reason}); choose another folder" in line
    assert line.startswith(("error: --out", "error: OUTPUT", "error: --model"))
    assert not list(tmp_path.iterdir())


def test_training_asks_before_it_builds_a_model(
    locked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightning")
    from stable_audio.training import trainer

    monkeypatch.setattr(trainer, "starting_model", lambda *_, **__: pytest.fail("a model was built"))
    files = ["--model-config", "quickstart", "--dataset-config", "synthetic"]
    out = tmp_path / "runs"
    assert main(["train", *files, "--save-dir", str(out), "--accelerator", "cpu"]) == 2
    reason = f"cannot be written to ({os.strerror(errno.EROFS)}); choose another folder, or make this one"
    assert f"error: --save-dir/--name {out}/run: {tmp_path} {reason} writable" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    require_folder(tmp_path)
    require_folder(tmp_path / "a" / "b")
    require_folder(None)
    require_file(tmp_path / "a" / "b.ckpt", "OUTPUT")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_taken_where_room_is_made(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    require_folder(tmp_path, may_be_full=True)
    with pytest.raises(ValueError, match="cannot be written to"):
        require_folder(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    file = tmp_path / "take.wav"
    file.touch()
    with pytest.raises(ValueError, match=r"--out .*sub: .*take\.wav is not a folder"):
        require_folder(file / "sub")
    with pytest.raises(ValueError, match=r"OUTPUT .* is a folder, but a file is written here"):
        require_file(tmp_path, "OUTPUT")


@pytest.mark.parametrize("budget", ["nan", "inf", "0"])
def test_a_budget_is_a_finite_number(budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bakeoff", "none.json", "--budget", budget]) == 2
    assert "--budget must be a finite number above 0, found" in capsys.readouterr().err
