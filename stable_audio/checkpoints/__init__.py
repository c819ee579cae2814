"""Checkpoints: read any layout, load strictly, write atomically, export.

| kind of file | how it is recognised | what is in it |
|---|---|---|
| training checkpoint | `stable_audio` entry | weights, EMA, optimizer, data position, config |
| inference file | safetensors with `format: stable-audio` | weights ready to use, config in the metadata |
| stable-audio-tools, unwrapped | keys `model.*`, `conditioner.*`, `pretransform.*` | a whole model |
| stable-audio-tools, training | keys `diffusion.*`, `autoencoder.*` and their EMA | the same, wrapped |
| autoencoder alone | keys `encoder.*`, `decoder.*`, `bottleneck.*` | a pretransform |
"""

from __future__ import annotations

from stable_audio.checkpoints.errors import CheckpointError, NoConfigError
from stable_audio.checkpoints.files import read_checkpoint, resolve
from stable_audio.checkpoints.loading import (
    load_model,
    load_named,
    load_pretrained,
    load_pretransform,
    load_unsaved,
)
from stable_audio.checkpoints.saving import export, save_inference_file
from stable_audio.checkpoints.stored_weights import StoredWeights
from stable_audio.checkpoints.weights import LoadReport, load_weights

__all__ = [
    "CheckpointError",
    "LoadReport",
    "NoConfigError",
    "StoredWeights",
    "export",
    "load_model",
    "load_named",
    "load_pretrained",
    "load_pretransform",
    "load_unsaved",
    "load_weights",
    "read_checkpoint",
    "resolve",
    "save_inference_file",
]
