"""The command itself: dispatch, help, exit status."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from stable_audio import __version__, cli
from stable_audio.cli import guarded
from stable_audio.cli.denied import plain_reason, unwritable_folder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_and_arguments(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(cli.COMMANDS[name])
    assert module.HELP
    assert "\n" not in module.HELP
    assert callable(module.run)
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    assert f"stable-audio {name}" in capsys.readouterr().out


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_unknown_commands_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["trian"])
    assert caught.value.code == 2
    assert "'trian'" in capsys.readouterr().err


def _command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    module = ModuleType("fake_command")

    def run(_: object) -> int:
        raise error

    module.HELP, module.add_arguments, module.run = "x", lambda p: None, run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_command", module)
    monkeypatch.setitem(cli.COMMANDS, "fake", "fake_command")


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("bad file"), 2), (OSError("bad file"), 2), (KeyboardInterrupt(), 130)]
)
def test_expected_errors_are_one_line(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _command(monkeypatch, error)
    assert cli.main(["fake"]) == status
    err = capsys.readouterr().err
    assert err.strip() == ("interrupted" if status == 130 else "error: bad file")


def test_defects_and_tracebacks_on_request_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    _command(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake"])
    _command(monkeypatch, ValueError("bad file"))
    with pytest.raises(ValueError, match="bad file"):
        cli.main(["fake", "--traceback"])


@pytest.mark.parametrize(("script", "command"), [("train.py", "train"), ("infer.py", "generate")])
def test_scripts_are_their_commands(script: str, command: str) -> None:
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"usage: stable-audio {command}")
    assert len((ROOT / script).read_text().splitlines()) <= 20


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from stable_audio.cli import schema

    def run(args: object) -> int:
        raise ModuleNotFoundError("No module named 'lightning'", name="lightning.pytorch")

    monkeypatch.setattr(schema, "run", run)
    assert cli.main(["schema"]) == 2
    assert 'pip install "stable-audio[train]"' in capsys.readouterr().err


def test_commands_that_do_not_split_refuse_a_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert cli.main(["schema"]) == 2
    assert "process 1 of 2 on 1 machine" in capsys.readouterr().err


def test_which_commands_split_their_work() -> None:
    modules = {name: importlib.import_module(path) for name, path in cli.COMMANDS.items()}
    assert {n for n, m in modules.items() if getattr(m, "SPLITS_WORK", False)} == {
        "encode",
        "generate",
        "train",
    }


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"), MemoryError()]
)
def test_a_lack_of_memory_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stable_audio.cli import schema

    def run(args: object) -> int:
        raise error

    monkeypatch.setattr(schema, "run", run)
    assert cli.main(["schema"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory: ")
    assert line.endswith("A smaller --batch-size helps; see docs/troubleshooting.md")
    with pytest.raises(type(error)):
        cli.main(["schema", "--traceback"])


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_an_output_folder_that_cannot_be_written_has_advice(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "renders" / ".a.partial.wav"

    def run() -> int:
        raise OSError(code, os.strerror(code), str(file))

    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert guarded(run, traceback=False) == 2
    message = capsys.readouterr().err
    assert message == (
        f"error: {tmp_path}: cannot be written to ({os.strerror(code)}); choose another folder to write to, "
        "or make this one writable\n"
    )


def test_a_file_that_cannot_be_read_is_no_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    file.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.W_OK)
    assert unwritable_folder(PermissionError(errno.EACCES, "Permission denied", str(file))) is None
    assert unwritable_folder(FileNotFoundError(errno.ENOENT, "No such file", str(file))) is None


def test_errors_of_files_are_sentences(tmp_path: Path) -> None:
    file = tmp_path / "take.wav"
    file.write_bytes(b"")
    wanted = {
        tmp_path / "none": "none: no such file or folder",
        tmp_path: "is a folder, but a file is needed here",
    }
    for path, message in wanted.items():
        with pytest.raises(OSError) as raised:
            path.read_bytes()
        assert str(plain_reason(raised.value)).endswith(message)
    for folder in (file, file / "sub" / "folder"):
        with pytest.raises(OSError) as raised:
            folder.mkdir(parents=True)
        assert plain_reason(raised.value) == (
            f"{file}: is a file, but a folder is needed here; give another name"
        )
    assert plain_reason(OSError("the run is in use")) is None


def test_a_crash_prints_where_it_was(tmp_path: Path) -> None:
    """As a fault of a library, or a signal of the system, ends a process."""
    (tmp_path / "crash.py").write_text(
        "import os\nfrom stable_audio.cli import guarded\n\n\ndef crashing() -> int:\n    os.abort()\n\n\n"
        "guarded(crashing, traceback=False)\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "crash.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGABRT
    assert 'crash.py", line 6 in crashing' in done.stderr
