"""A stored model that reads prompts, and folders of sounds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from stable_audio.audio.io import save_audio
from tests.training import building

RATE = 4000


def prompted_config(**training: Any) -> dict[str, Any]:
    """The tiny model with a prompt of words in place of its start."""
    config = building.tiny_config(**training)
    words = {"id": "prompt", "type": "words", "config": {"vocab_size": 64, "max_length": 4}}
    config["model"]["conditioning"]["configs"][0] = words
    config["model"]["diffusion"]["cross_attention_cond_ids"] = ["prompt", "seconds_total"]
    return config


def stored_model(folder: Path, **training: Any) -> Path:
    """A file with its random weights, without a `training` section unless keys of one are given."""
    config = prompted_config(**training)
    if not training:
        config.pop("training")
    return building.stored(folder, ".safetensors", config)


def write_sounds(
    folder: Path, count: int = 4, *, rate: int = RATE, seconds: float = 0.2, channels: int = 1
) -> Path:
    """Tones, the first with a caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        times = torch.arange(round(seconds * rate)) / rate
        tone = 0.5 * torch.sin(2 * math.pi * (200 + 50 * number) * times)
        save_audio(folder / f"warm_tone-{number}.wav", tone.expand(channels, -1), rate)
    (folder / "warm_tone-0.txt").write_text("a zorb, note 0", encoding="utf-8")
    return folder
