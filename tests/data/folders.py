"""Folders of sound files for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stable_audio.audio.io import save_audio
from stable_audio.data import ClipDataset, create_dataset

RATE = 8000


def ramp(frames: int, channels: int = 1) -> torch.Tensor:
    """Sample i holds (i + 1) / 2**15: its position can be read off. At most 2**15 - 2 samples."""
    return ((torch.arange(frames) + 1) / 2**15).expand(channels, -1)


def position(audio: torch.Tensor) -> int:
    """Where a crop of a ramp begins."""
    return round(float(audio[0, 0]) * 2**15) - 1


def make_folder(root: Path, lengths: dict[str, int], channels: int = 1) -> Path:
    """One ramp per name, `lengths` in samples."""
    for name, frames in lengths.items():
        save_audio(root / name, ramp(frames, channels), RATE)
    return root


def audio_dir(
    root: Path, *, entry: dict[str, Any] | None = None, size: int = 1000, **keys: Any
) -> ClipDataset:
    """An audio_dir dataset over one folder, mono at RATE, no polarity flips unless asked."""
    config = {
        "dataset_type": "audio_dir",
        "datasets": [{"id": "a", "path": str(root), **(entry or {})}],
        "phase_flip": 0.0,
        **keys,
    }
    return create_dataset(config, sample_rate=RATE, sample_size=size, audio_channels=1)
