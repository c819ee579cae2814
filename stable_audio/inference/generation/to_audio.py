"""Latents -> audio."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_audio.inference.generation.audio_inputs import pretransform_dtype
from stable_audio.model import DiffusionModel


def decode_each(model: DiffusionModel, latents: Tensor, chunked: bool = False) -> Tensor:
    """Decode latents (b c n) into audio (b c n), float32 on the CPU; one by one, to save memory."""
    pretransform = model.pretransform
    if pretransform is None:
        return latents.float().cpu()
    dtype = pretransform_dtype(pretransform)
    decode = pretransform.decode_chunked if chunked else pretransform.decode
    clips = [decode(item.to(device=model.device, dtype=dtype)).float().cpu() for item in latents.split(1)]
    return torch.cat(clips)
