"""An autoencoder, its latents on disk, and diffusion on them: from the commands to a sound file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stable_audio.audio.io import read_audio
from stable_audio.audio.transforms import fit_length
from stable_audio.cli import main
from stable_audio.config import load_config
from stable_audio.data import DataError
from stable_audio.data.latent_sources import open_folder
from stable_audio.data.latents import read_manifest
from stable_audio.data.seeding import derive_seed
from stable_audio.factory.pretransforms import build_autoencoder
from stable_audio.training.errors import TrainingError
from tests.cli.test_codec_commands import AUTOENCODER
from tests.data.folders import RATE, make_folder
from tests.training.building import tiny_run

KL = {"ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1}
# Latents with rows: 4 channels of 16 rows, one frame per 16 samples.
PICTURES = {
    **AUTOENCODER,
    "model": {
        "pretransform": {
            "type": "spectrogram",
            "config": {"channels": 1, "n_fft": 62, "hop_length": 8, "layout": "2d"},
        },
        "encoder": {"type": "autoencoder_kl", "config": {**KL, "in_channels": 2, "latent_dim": 8}},
        "decoder": {"type": "autoencoder_kl", "config": {**KL, "out_channels": 2, "latent_dim": 4}},
        "bottleneck": {"type": "gaussian"},
        "latent_dim": 4,
        "downsampling_ratio": 16,
        "io_channels": 1,
    },
}


def _autoencoder(path: Path, seed: int, config: dict[str, Any] = AUTOENCODER) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_file(build_autoencoder(load_config(config).model).state_dict(), path)
    return path


def _diffusion(autoencoder: dict[str, Any] = AUTOENCODER, **training: Any) -> dict[str, Any]:
    backbone: dict[str, Any] = {"in_channels": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    if autoencoder is PICTURES:
        backbone = {"io_channels": 4, "dims": 2, "channels": 8, "multipliers": [1, 2], "groups": 4}
    return {
        "model_type": "diffusion_uncond",
        "sample_rate": RATE,
        "sample_size": 800,
        "audio_channels": 1,
        "model": {
            "type": "unet" if autoencoder is PICTURES else "dit",
            "config": backbone,
            "pretransform": {"type": "autoencoder", "config": autoencoder["model"], "scale": 0.5},
        },
        "training": {"learning_rate": 1e-3, "pre_encoded": True, **training},
    }


def _encode(tmp_path: Path, config: dict[str, Any]) -> Path:
    make_folder(tmp_path / "in", {f"{i}.wav": 900 + 400 * i for i in range(6)})
    (tmp_path / "ae.json").write_text(json.dumps(config))
    weights = _autoencoder(tmp_path / "ae.safetensors", 0, config)
    arguments = ["--model-config", str(tmp_path / "ae.json"), "--ckpt-path", str(weights)]
    folder = tmp_path / "latents"
    assert main(["encode", str(tmp_path / "in"), "-o", str(folder), "--num-workers", "0", *arguments]) == 0
    return folder


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    return _encode(tmp_path, AUTOENCODER)


def _run(folder: Path, latents: Path, weights: Path | None) -> Any:
    dataset = {
        "dataset_type": "pre_encoded",
        "datasets": [{"id": "z", "path": str(latents)}],
        "latent_crop_length": 100,
        "random_crop": True,
    }
    named = "" if weights is None else str(weights)
    return tiny_run(folder, _diffusion(), dataset=dataset, pretransform_ckpt_path=named, max_steps=3)


def test_training_on_latents_and_rendering(tmp_path: Path, latents: Path) -> None:
    manifest = read_manifest(latents)
    assert manifest["complete"]
    assert manifest["channels"] == 4
    assert _run(tmp_path, latents, tmp_path / "ae.safetensors").start() == 0
    out = tmp_path / "sounds"
    done = main(["generate", "--ckpt-path", str(tmp_path / "run"), "--steps", "2", "--out", str(out)])
    assert done == 0
    assert list(out.rglob("*.wav"))


def test_latents_of_another_autoencoder_are_refused(tmp_path: Path, latents: Path) -> None:
    other = _autoencoder(tmp_path / "other.safetensors", 1)
    with pytest.raises(DataError, match="made by another autoencoder"):
        _run(tmp_path, latents, other).start()


@pytest.mark.slow
def test_latents_with_rows(tmp_path: Path) -> None:
    folder = _encode(tmp_path, PICTURES)
    dataset = {
        "dataset_type": "pre_encoded",
        "datasets": [{"id": "z", "path": str(folder)}],
        "latent_crop_length": 50,
        "random_crop": True,
    }
    (tmp_path / "model.json").write_text(json.dumps(_diffusion(PICTURES, mask_padding=True)))
    (tmp_path / "data.json").write_text(json.dumps(dataset))
    arguments = [
        "--model-config",
        str(tmp_path / "model.json"),
        "--dataset-config",
        str(tmp_path / "data.json"),
    ]
    arguments += ["--save-dir", str(tmp_path), "--max-steps", "2", "--batch-size", "2", "--num-workers", "0"]
    arguments += ["--pretransform-ckpt-path", str(tmp_path / "ae.safetensors"), "--accelerator", "cpu"]
    assert main(["train", *arguments, "--no-progress"]) == 0
    out = tmp_path / "sounds"
    assert main(["generate", "--ckpt-path", str(tmp_path / "run"), "--steps", "2", "--out", str(out)]) == 0
    (sound,) = out.rglob("*.wav")
    assert read_audio(sound)[0].shape == (1, 800)
    assert main(["check", str(tmp_path / "model.json"), str(tmp_path / "data.json"), "--dry"]) == 0


def test_a_random_autoencoder_is_refused(tmp_path: Path, latents: Path) -> None:
    with pytest.raises(TrainingError, match="no weights were loaded for it: the model would learn noise"):
        _run(tmp_path, latents, None)
    raw = _diffusion(pre_encoded=False)
    run = tiny_run(tmp_path, raw, allow_untrained_pretransform=True, max_steps=1)
    assert run.start() == 0


def test_sound_and_latents_are_not_mistaken_for_each_other(tmp_path: Path, latents: Path) -> None:
    stored = {"dataset_type": "pre_encoded", "datasets": [{"id": "z", "path": str(latents)}]}
    sound = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(tmp_path / "in")}]}
    options = {"allow_untrained_pretransform": True, "max_steps": 1}
    with pytest.raises(
        TrainingError, match=r"pre_encoded: must be true, since the dataset file describes lat"
    ):
        tiny_run(tmp_path, _diffusion(pre_encoded=False), dataset=stored, **options)
    with pytest.raises(TrainingError, match="found true, but the dataset file describes sound"):
        tiny_run(tmp_path, _diffusion(), dataset=sound, **options)
    tars = {"dataset_type": "wds", "pre_encoded": True, "datasets": [{"id": "t", "path": "x"}]}
    with pytest.raises(TrainingError, match="'autoencoder', which learns from sound"):
        tiny_run(tmp_path, {**AUTOENCODER, "training": {"learning_rate": 1e-3}}, dataset=tars, **options)


def test_stored_latents_reach_the_model_as_fresh_ones_do(tmp_path: Path, latents: Path) -> None:
    """Of the same clip with the same noise: the scale of 0.5 is applied once either way."""
    weights = str(tmp_path / "ae.safetensors")
    run = _run(tmp_path, latents, Path(weights))
    source = open_folder(str(latents))
    (index,) = (i for i in range(len(source)) if source.name(i) == "audio/2.wav")
    stored, _, _ = source.describe(index)
    audio = fit_length(read_audio(tmp_path / "in" / "2.wav")[0], stored * 8)

    def noise(like: torch.Tensor) -> torch.Tensor:
        seed = derive_seed("encode", 0, "audio/2.wav")
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))

    pretransform = run.module.model.pretransform
    fresh = pretransform.encode(audio[None], noise=noise)
    given = run.module.latents(source.read(index, 0, stored)[None], torch.zeros_like)
    assert torch.allclose(given, fresh, atol=1e-5)
    assert torch.allclose(fresh, pretransform.model.encode(audio[None], noise=noise) / 0.5, atol=1e-6)


def test_a_report_of_latents(latents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = {"dataset_type": "pre_encoded", "datasets": [{"id": "z", "path": str(latents)}]}
    (tmp_path / "stored.json").write_text(json.dumps(stored))
    capsys.readouterr()
    assert main(["data-report", str(tmp_path / "stored.json")]) == 0
    assert "6 of 6 items can be used" in capsys.readouterr().out
