"""Denoising by diffusion: the noisy sound enters the U-Net beside the sound that is being made.

As the `custom_metadata_module` of dataset_configs/denoising.json it adds noise to every clip and gives the
model the noisy spectrogram under the key `source`:

    stable-audio train --model-config model_configs/examples/denoising.json \
        --dataset-config dataset_configs/denoising.json --name denoising

As a program it cleans a file with a model trained so:

    python examples/denoising.py runs/denoising noisy.wav clean.wav

For other pairs, such as a mix and one of its stems, load the other sound here instead of making it.
"""

from __future__ import annotations

import argparse
import math
import zlib
from typing import Any

import torch
from torch import Tensor

from stable_audio.pretransforms import PRETRANSFORMS

# The pretransform of model_configs/examples/denoising.json: `source` must be like the model's own input.
SPECTROGRAM: dict[str, Any] = {"channels": 1, "n_fft": 510, "hop_length": 128, "power": 0.5, "layout": "1d"}
QUIETEST_DB, LOUDEST_DB = 0.0, 30.0
"""Signal to noise ratios of training clips."""


def source_of(audio: Tensor) -> Tensor:
    """Audio (1 n) -> what the model reads as `source` (512 n / 128)."""
    return PRETRANSFORMS["spectrogram"](**SPECTROGRAM).encode(audio[None])[0]


def get_custom_metadata(info: dict[str, Any], audio: Tensor) -> dict[str, Any]:
    """The clip with white noise at a random level; the same clip always gets the same noise."""
    generator = torch.Generator().manual_seed(zlib.crc32(audio.numpy().tobytes()))
    decibels = QUIETEST_DB + (LOUDEST_DB - QUIETEST_DB) * float(torch.rand((), generator=generator))
    level = audio.square().mean().sqrt() * 10 ** (-decibels / 20)
    noisy = audio + level * torch.randn(audio.shape, generator=generator)
    return {"source": source_of(noisy)}


def denoise(model: Any, noisy: Tensor, *, steps: int = 30, seed: int = 0) -> Tensor:
    """Noisy audio (1 n) -> clean audio (1 n)."""
    from stable_audio.inference import generate

    length = math.ceil(noisy.shape[-1] / model.length_multiple) * model.length_multiple
    padded = torch.nn.functional.pad(noisy, (0, length - noisy.shape[-1]))
    clean = generate(
        model, [{"source": source_of(padded)}], steps=steps, cfg_scale=1.0, seeds=seed, sample_size=length
    )
    return clean[0, :, : noisy.shape[-1]].cpu()


def main() -> None:
    from stable_audio import load_model
    from stable_audio.audio.io import read_audio, save_audio
    from stable_audio.audio.resample import resample

    parser = argparse.ArgumentParser(description="clean a sound file")
    for name in ("checkpoint", "noisy", "clean"):
        parser.add_argument(name)
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    model, _ = load_model(args.checkpoint)
    audio, rate = read_audio(args.noisy)
    mono = resample(audio.mean(dim=0, keepdim=True), rate, model.sample_rate)
    save_audio(args.clean, denoise(model, mono, steps=args.steps), model.sample_rate)


if __name__ == "__main__":
    main()
