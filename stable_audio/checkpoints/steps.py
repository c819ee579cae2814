"""The step that a checkpoint is of."""

from __future__ import annotations

import json
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from stable_audio.adapters.passport import PASSPORT
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.checkpoints.torch_file import load_torch_file


def step_in(path: Path) -> float:
    """The step of a training checkpoint or an inference file; infinite if it cannot be read."""
    return step_of_inference(path) if path.suffix == ".safetensors" else step_of(path)


def step_of(path: Path) -> float:
    """The step of a training checkpoint; infinite if it cannot be read."""
    try:
        return float(load_torch_file(path, verify=False)[TRAINING_ENTRY]["step"])
    except (OSError, CheckpointError, KeyError, TypeError):
        return math.inf


def step_of_inference(path: Path) -> float:
    """The step of an inference file or of the file of an adapter; infinite if it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        passport = json.loads(metadata.get(PASSPORT, "{}"))
        return float(metadata["step"] if "step" in metadata else passport["step"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return math.inf
