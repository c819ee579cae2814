"""The configs of examples/latent_quickstart.py belong together; its goals are options of the measurement."""

from __future__ import annotations

import argparse
import json
import runpy
from pathlib import Path
from typing import Any

from stable_audio.cli import evaluate_quickstart
from stable_audio.config import load_config
from stable_audio.data.synthetic import SyntheticDataset
from stable_audio.factory import create_model_from_config

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "model_configs" / "quickstart"


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text())


def test_the_diffusion_model_is_around_that_very_autoencoder() -> None:
    assert read("latent.json")["model"]["pretransform"] == {
        "type": "autoencoder",
        "config": read("autoencoder.json")["model"],
    }


def test_the_spectrogram_is_compressed_and_loses_no_frame_of_the_clip() -> None:
    model: Any = create_model_from_config(load_config(FOLDER / "latent.json"), device="meta")
    inner = model.pretransform.model.pretransform
    channels, frames = model.latent_shape
    assert frames * model.pretransform.downsampling_ratio == model.sample_size
    assert model.pretransform.downsampling_ratio == 4 * inner.downsampling_ratio
    assert channels < inner.encoded_channels // 20


def test_it_differs_from_the_quickstart_in_autoencoder_stored_latents_length_and_steps() -> None:
    latent, quickstart = read("latent.json"), read("quickstart.json")
    assert latent.pop("sample_size") < quickstart.pop("sample_size")
    for config in (latent, quickstart):
        del config["training"]["demo"]
    del latent["model"]["pretransform"], quickstart["model"]["pretransform"]
    del latent["training"]["pre_encoded"], quickstart["training"]["cache_latents"]
    del latent["training"]["max_steps"], quickstart["training"]["max_steps"]
    assert latent == quickstart


def test_no_sound_of_its_collection_is_longer_than_its_clips() -> None:
    config = load_config(FOLDER / "latent.json")
    script = runpy.run_path(str(ROOT / "examples" / "latent_quickstart.py"))
    entry = json.loads((ROOT / script["DATA"]).read_text())
    options = {key: value for key, value in entry.items() if key not in ("$schema", "dataset_type")}
    dataset = SyntheticDataset(sample_rate=config.sample_rate, sample_size=config.sample_size, **options)
    longest = max(dataset.clip(index).seconds for index in range(500))
    assert longest < config.sample_size / config.sample_rate


def test_its_goals_are_options_of_the_measurement() -> None:
    goals = runpy.run_path(str(ROOT / "examples" / "latent_quickstart.py"))["GOALS"]
    parser = argparse.ArgumentParser()
    evaluate_quickstart.add_arguments(parser)
    flags = [argument for name, share in goals.items() for argument in (f"--target-{name}", str(share))]
    args = parser.parse_args(["--ckpt-path", "model.safetensors", *flags])
    assert {name: getattr(args, f"target_{name}") for name in goals} == goals
