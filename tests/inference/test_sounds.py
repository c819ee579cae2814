"""Sounds as conditioning of what is rendered: cut to the clip, given as files, remembered in the recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.audio.io import read_audio, save_audio
from stable_audio.cli import main
from stable_audio.inference import generate
from stable_audio.inference.generation.condition_sounds import fit_sounds
from tests.inference import tiny


def config() -> dict[str, Any]:
    """The tiny model with a sound in its input_concat slot, and a mix of sources beside it."""
    values = tiny.config()
    model = values["model"]
    shared = {"sample_rate": tiny.RATE, "use_model_pretransform": True, "output_dim": tiny.PATCH}
    model["conditioning"]["configs"] += [
        {"id": "ref", "type": "pretransform", "config": shared},
        {
            "id": "stems",
            "type": "source_mix",
            "config": {**shared, "source_keys": ["a", "b"], "allow_null_source": True},
        },
    ]
    model["diffusion"]["input_concat_ids"] = ["ref", "stems"]
    model["diffusion"]["config"]["input_concat_dim"] = 2 * tiny.PATCH
    return values


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    weights, model_file = tiny.save(tmp_path, config())
    return [
        *["generate", "--ckpt-path", str(weights), "--model-config", str(model_file), "--device", "cpu"],
        *["--out", str(tmp_path / "out"), "--steps", "2", "--prompt", "bell"],
    ]


def sound(path: Path, seed: int) -> Path:
    audio = 0.1 * torch.randn(1, 300, generator=torch.Generator().manual_seed(seed))
    save_audio(path, audio, tiny.RATE, subtype="FLOAT")
    return path


def made(folder: Path) -> list[Path]:
    return sorted((folder / "out").glob("*.wav"))


def test_sounds_get_the_length_of_the_clip() -> None:
    model = tiny.build(config())
    item = {"ref": torch.ones(1, 1000), "stems": {"a": torch.ones(1, 10)}, "prompt": "bell"}
    (fitted,) = fit_sounds(model, [item], 640)
    assert fitted["ref"].shape == fitted["stems"]["a"].shape == (1, 640)
    assert fitted["stems"]["a"].sum() == 10
    assert fitted["prompt"] == "bell"
    with pytest.raises(ValueError, match="conditioning 'ref': a sound"):
        fit_sounds(model, [{**item, "ref": 3}], 640)


def test_what_is_rendered_follows_the_sound() -> None:
    model = tiny.build(config())
    item = {"prompt": "bell", "seconds_total": 1, "stems": {}, "ref": torch.zeros(1, 640)}
    quiet, loud = (generate(model, [{**item, "ref": item["ref"] + x}], steps=2) for x in (0, 0.5))
    assert not torch.allclose(quiet, loud)


def test_files_on_the_command_line_are_remembered(base: list[str], tmp_path: Path) -> None:
    file = sound(tmp_path / "Snare.wav", 0)
    given = ["--condition", f"ref=@{file}", "--condition", json.dumps({"a": str(file)}).join(["stems=", ""])]
    assert main([*base, *given]) == 0
    (first,) = made(tmp_path)
    content = json.loads(first.with_suffix(".json").read_text())["recipe"]
    assert content["conditioning"]["ref"] == str(file.resolve())
    assert set(content["condition_audio"]) == {"ref", "stems.a"}
    assert first.name.startswith("0000_bell")
    again = [*base[:1], "--from-json", str(first.with_suffix(".json")), "--out", str(tmp_path / "again")]
    assert main([*again, "--device", "cpu"]) == 0
    (second,) = sorted((tmp_path / "again").glob("*.wav"))
    assert torch.equal(read_audio(first)[0], read_audio(second)[0])


def test_another_sound_under_the_same_name_is_another_clip(base: list[str], tmp_path: Path) -> None:
    for seed in (0, 1):
        file = sound(tmp_path / "a.wav", seed)
        assert main([*base, "--condition", f"ref={file}", "--condition", "stems={}"]) == 0
    file.rename(tmp_path / "b.wav")
    assert main([*base, "--condition", f"ref=@{tmp_path / 'b.wav'}", "--condition", "stems={}"]) == 0
    assert len(made(tmp_path)) == 2, "paths do not count, contents do"


@pytest.mark.parametrize("value", ["@nowhere.wav", "3"])
def test_what_is_no_file_is_refused(base: list[str], value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*base, "--condition", f"ref={value}", "--condition", "stems={}"]) != 0
    assert "'ref' is the name of an audio file" in capsys.readouterr().err
