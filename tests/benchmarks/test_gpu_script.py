"""What a GPU is borrowed for runs at once: every part of gpu.sh takes its arguments, within eight minutes."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.benchmarks.scripts import FOLDER, run_script

MEDIUM = FOLDER.parent / "model_configs" / "stable_audio_3" / "medium.json"


def parts() -> list[list[str]]:
    """The words of each part: seconds, name, command."""
    text = (FOLDER / "gpu.sh").read_text().replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("part ")]


def test_all_parts_take_eight_minutes_at_most() -> None:
    assert sum(int(seconds) for seconds, *_ in parts()) <= 480


@pytest.mark.parametrize("command", [command for _, _, python, *command in parts() if command[0] != "-m"])
def test_a_part_takes_its_arguments(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script, *arguments = command
    run_script(Path(script).stem, arguments, monkeypatch, run_name="loaded")["parse"]()


def test_a_python_without_the_libraries_is_named(tmp_path: Path) -> None:
    bare = tmp_path / "bare-python"
    bare.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'pydantic'\" >&2\nexit 1\n")
    bare.chmod(0o755)
    ended = subprocess.run(["bash", FOLDER / "gpu.sh", bare], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "bare-python cannot run the benchmarks" in ended.stderr
    assert "(ModuleNotFoundError: No module named 'pydantic')" in ended.stderr


@pytest.mark.slow  # tens of seconds on a busy machine
def test_steps_of_an_inpainting_model_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another width of latents than Stable Audio Open's, and slots that its backbone lacks."""
    config = json.loads(MEDIUM.read_text())
    config["model"]["diffusion"]["config"] |= {"depth": 1, "embed_dim": 64, "num_heads": 1}
    small = tmp_path / "medium.json"
    small.write_text(json.dumps(config))
    arguments = ["--config", str(small), "--frames", "16", "--batch", "1", "--rounds", "1", "--matmul", "64"]
    run_script("gpu_training", [*arguments, "--modes", "eager", "--device", "cpu"], monkeypatch)
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("1  "))
    assert row[1] == "eager"
    assert 0 < float(row[5]) < 5  # GiB of the plan
