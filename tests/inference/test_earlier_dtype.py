"""`--dtype auto` of a CPU, which is measured, does not change while a job goes on or is shared."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stable_audio.cli import main
from stable_audio.inference import precision
from stable_audio.inference.rendering.earlier_dtype import settled_dtype
from tests.inference import tiny


def _clip(path: Path, content: Any, *, age: int) -> None:
    path.write_text(json.dumps(content))
    os.utime(path, (1000 - age, 1000 - age))


@pytest.mark.parametrize(
    ("name", "device", "processes", "dtype"),
    [
        ("auto", "cpu", 1, "bfloat16"),
        ("auto", "cpu", 4, "bfloat16"),
        ("auto", "cuda", 1, "auto"),
        ("int8", "cpu", 1, "int8"),
    ],
)
def test_it_is_that_of_the_latest_clip(
    tmp_path: Path, name: str, device: str, processes: int, dtype: str
) -> None:
    _clip(tmp_path / "a.json", {"recipe": {"dtype": "float32"}}, age=9)
    _clip(tmp_path / "b.json", {"recipe": {"dtype": "bfloat16"}}, age=5)
    assert settled_dtype(name, tmp_path, device=device, processes=processes) == dtype
    _clip(tmp_path / "no_clip.json", {"notes": 3}, age=2)
    (tmp_path / "no_json.json").write_text("{")
    assert settled_dtype(name, tmp_path, device=device, processes=processes) == dtype


@pytest.mark.parametrize("content", [None, [], {}, {"recipe": 3}, {"recipe": {"dtype": "half"}}, "no folder"])
def test_without_clips_several_processes_take_float32(tmp_path: Path, content: Any) -> None:
    folder = tmp_path / "none" if content == "no folder" else tmp_path
    if folder.is_dir():
        _clip(tmp_path / "a.json", content, age=0)
    assert settled_dtype("auto", folder, device="cpu", processes=1) == "auto"
    assert settled_dtype("auto", folder, device="cpu", processes=2) == "float32"


def test_a_job_goes_on_where_the_measurement_would_be_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, model_file = tiny.save(tmp_path, tiny.config())
    command = ["generate", "--ckpt-path", str(weights), "--model-config", str(model_file)]
    command += ["--prompt", "a bell", "--steps", "1", "--seed", "1"]
    for gain in (3.0, 1.0):
        monkeypatch.setattr(precision, "bfloat16_gain", lambda *_, _gain=gain, **__: _gain)
        assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*.wav"))) == 1
