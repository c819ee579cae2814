"""The way of sounds to the latents of a model, and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stable_audio.audio.resample import resample
from stable_audio.audio.transforms import fit_length, to_channels
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.inference.offload import visiting
from stable_audio.model import DiffusionModel
from stable_audio.pretransforms.base import Pretransform

EncoderNoise = Callable[[Tensor], Tensor]


def fit_audio(audio: Tensor, sample_rate: int | None, model: DiffusionModel, length: int) -> Tensor:
    """Convert audio to the sample rate, channels and length of a clip.

    Args:
        audio: (c n) or (b c n).
        sample_rate: of `audio`, in Hz; None: the model's.
        model: gives the sample rate and channels of the result.
        length: samples of the result.

    Returns:
        (b c n), float32 on the CPU.
    """
    if audio.ndim not in (2, 3):
        raise ValueError(f"audio must be (c n) or (b c n), found shape {tuple(audio.shape)}")
    items = [audio] if audio.ndim == 2 else list(audio)
    rate = sample_rate or model.sample_rate
    fitted = []
    for item in items:
        item = resample(item.detach().float().cpu(), rate, model.sample_rate)
        fitted.append(fit_length(to_channels(item, model.audio_channels), length))
    return torch.stack(fitted)


def fit_latents(latents: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Cut latents or pad them with zeros to the frames of a clip.

    Args:
        latents: (c n) or (b c n), with rows where latents are pictures.
        shape: that of the latents of a clip.

    Returns:
        (b, *shape) float32.
    """
    rows = (latents[None] if latents.ndim == len(shape) else latents).float()
    fitted = fit_length(rows, shape[-1])
    if fitted.shape[1:] != shape:
        raise ValueError(f"latents of a clip have the shape {shape}, found {tuple(rows.shape[1:])}")
    return fitted


def encode_each(model: DiffusionModel, audio: Tensor, noise: EncoderNoise | None) -> Tensor:
    """Encode audio (b c n) into latents (b c n), one item at a time.

    Args:
        noise: source of a VAE's draws; None: the same noise for every item and every call.
    """
    pretransform, device = model.pretransform, model.device
    if pretransform is None:
        return audio.to(device=device, dtype=torch.float32)
    dtype, latents = pretransform_dtype(pretransform), []
    with visiting(model, pretransform), pretransform.prepared():
        for item in audio.split(1):
            item = item.to(device=device, dtype=dtype)
            latents.append(pretransform.encode(item, noise=noise or SeededNoise([0])).float())
    return torch.cat(latents)


def decode_each(model: DiffusionModel, latents: Tensor, chunked: bool = False) -> Tensor:
    """Decode latents (b c n) into audio (b c n), float32 on the CPU; one by one, to save memory."""
    pretransform = model.pretransform
    if pretransform is None:
        return latents.float().cpu()
    device, dtype = model.device, pretransform_dtype(pretransform)
    decode = pretransform.decode_chunked if chunked else pretransform.decode
    with visiting(model, pretransform), pretransform.prepared():
        clips = [decode(item.to(device=device, dtype=dtype)).float().cpu() for item in latents.split(1)]
    return torch.cat(clips)


def pretransform_dtype(pretransform: Pretransform) -> torch.dtype:
    """The dtype of its inputs: that of its weights, or float32 if it converts its inputs itself."""
    parameter = next(pretransform.parameters(), None)
    if parameter is None or getattr(pretransform, "model_half", False):
        return torch.float32
    return parameter.dtype
