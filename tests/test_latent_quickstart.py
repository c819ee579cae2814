"""The configs of examples/latent_quickstart.py belong together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config

FOLDER = Path(__file__).parents[1] / "model_configs" / "quickstart"


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


def test_it_differs_from_the_quickstart_in_autoencoder_stored_latents_and_steps() -> None:
    latent, quickstart = read("latent.json"), read("quickstart.json")
    del latent["model"]["pretransform"], quickstart["model"]["pretransform"]
    del latent["training"]["pre_encoded"], quickstart["training"]["cache_latents"]
    del latent["training"]["max_steps"], quickstart["training"]["max_steps"]
    assert latent == quickstart
