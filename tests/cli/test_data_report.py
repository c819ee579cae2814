import json
from pathlib import Path

import pytest
import torch

from stable_audio.audio.io import save_audio
from stable_audio.cli import main
from tests.config import examples
from tests.data.folders import RATE, make_folder


@pytest.fixture
def dataset_file(tmp_path: Path) -> Path:
    sounds = make_folder(tmp_path / "sounds", {"a.wav": 4 * RATE, "b.flac": 2 * RATE})
    (sounds / "a.txt").write_text("a ramp")
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"dataset_type": "audio_dir", "datasets": [{"id": "x", "path": str(sounds)}]}))
    return path


def test_json(dataset_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data-report", str(dataset_file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["files"], found["usable"]) == (2, 2)
    assert found["hours"] == pytest.approx(6 / 3600)
    assert found["seconds"] == {"shortest": 2.0, "mean": 3.0, "longest": 4.0}
    assert found["captions"] == 0.5
    assert found["sample_rates"] == {str(RATE): 2}
    assert found["formats"] == {"WAV": 1, "FLAC": 1}
    assert found["rejected"] == {}


def test_what_is_left_out_is_named(dataset_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sounds = dataset_file.parent / "sounds"
    save_audio(sounds / "silent.wav", torch.zeros(1, 3 * RATE), RATE)
    (sounds / "empty.wav").write_bytes(b"")
    damaged = (sounds / "b.flac").read_bytes()
    (sounds / "cut.flac").write_bytes(damaged[: len(damaged) // 2])
    assert main(["data-report", str(dataset_file)]) == 1
    text = capsys.readouterr().out
    assert "2 of 5 items can be used" in text
    for name in ("silent.wav", "empty.wav", "cut.flac"):
        assert str(sounds / name) in text
    assert main(["data-report", str(dataset_file), "--headers"]) == 1
    assert "3 of 5 items" in capsys.readouterr().out


def test_synthetic_and_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "d.json"
    path.write_text('{"dataset_type": "synthetic", "num_clips": 20}')
    assert main(["data-report", str(path), "--sample-rate", "8000", "--sample-size", "8000"]) == 0
    assert "with a caption: 100.0%" in capsys.readouterr().out
    path.write_text('{"dataset_type": "synthetik"}')
    assert main(["data-report", str(path)]) == 2
    assert "synthetic" in capsys.readouterr().err


def test_what_a_model_cannot_use(
    dataset_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds = dataset_file.parent / "sounds"
    (sounds / "a.json").write_text('{"bpm": 700}')
    (sounds / "b.json").write_text('{"prompt": null, "bpm": null}')
    config = examples.cond()
    config["sample_rate"], config["sample_size"] = RATE, 8192
    config["training"].pop("demo")
    config["model"]["conditioning"]["configs"].append(
        {"id": "bpm", "type": "number", "config": {"min_val": 40, "max_val": 200}}
    )
    model = tmp_path / "model.json"
    model.write_text(json.dumps(config))
    assert main(["data-report", str(dataset_file), "--json", "--model-config", str(model)]) == 1
    found = json.loads(capsys.readouterr().out)
    (reason,) = found["rejected"]
    assert reason == "lacks 'prompt'; 'bpm' is null, which the model's conditioning needs"
    assert found["rejected"][reason] == [str(sounds / "b.flac")]
    assert found["beyond"] == {"bpm": 1}


def test_names_with_line_breaks_stay_on_their_line(
    dataset_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset_file.parent / "sounds" / "x\n100 of 100 items can be used.wav").write_bytes(b"")
    assert main(["data-report", str(dataset_file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith("x\\n100 of 100 items can be used.wav") for line in lines)
    assert not any(line.startswith("100 of 100") for line in lines)
