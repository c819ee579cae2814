"""One batch of clips: conditioning, guidance, sampler, latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.diffusion.guidance import Guidance
from stable_audio.diffusion.noise import Noise, SeededNoise
from stable_audio.diffusion.sampling import Callback, sample
from stable_audio.inference.generation.audio_inputs import (
    EncoderNoise,
    for_batch,
    inpaint_tensors,
    inpaints,
)
from stable_audio.inference.generation.settings import Sampling
from stable_audio.model import DiffusionModel
from stable_audio.types import ConditionTensors, Metadata


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random draws that take the place of those from the seeds.

    Attributes:
        start_noise: noise to start from (b c n).
        noise: source of the samplers' draws.
        encoder_noise: source of the draws of VAE encoders.
    """

    start_noise: Tensor | None = None
    noise: Noise | None = None
    encoder_noise: EncoderNoise | None = None


@dataclass
class Clips:
    """Inputs of all clips of a call; tensors have one row per clip, or one for all.

    Attributes:
        items: metadata of each clip.
        seeds: seed of each clip.
        shape: shape of one clip's latents.
        negatives: metadata to steer away from, of each clip.
        init: latents to start from.
        inpaint_latents: latents to keep parts of; see `inpaint_tensors`.
        inpaint_mask: mask of the parts to keep; see `inpaint_tensors`.
        start_noise: noise to start from; None draws it from the seeds.
    """

    items: list[Metadata]
    seeds: list[int]
    shape: tuple[int, ...]
    negatives: list[Metadata] | None = None
    init: Tensor | None = None
    inpaint_latents: Tensor | None = None
    inpaint_mask: Tensor | None = None
    start_noise: Tensor | None = None


def sample_batch(
    model: DiffusionModel,
    clips: Clips,
    indices: Tensor,
    settings: Sampling,
    noise: Noise | None,
    callback: Callback | None,
) -> Tensor:
    """Sample latents (b c n), on the CPU, of the clips at `indices`."""
    count, device = len(clips.items), model.device
    item_noise = SeededNoise([clips.seeds[i] for i in indices.tolist()])
    if clips.start_noise is not None:
        start = clips.start_noise[indices]
    else:
        start = item_noise(torch.empty(len(indices), *clips.shape))
    init = None if clips.init is None else for_batch(clips.init, count, "init_audio")[indices.to(device)]
    latents = sample(
        guidance(model, clips, indices, settings),
        start.to(device),
        objective=model.objective,
        noise=noise or item_noise,
        init=init,
        callback=callback,
        solver=settings.solver(),
        shift=model.dist_shift if settings.dist_shift else None,
    )
    return latents.cpu()


def guidance(model: DiffusionModel, clips: Clips, indices: Tensor, settings: Sampling) -> Guidance:
    """The guided backbone for the clips at `indices`."""
    rows = indices.tolist()
    extra: ConditionTensors = {}
    if inpaints(model):
        shared = inpaint_tensors(
            model, clips.inpaint_latents, clips.inpaint_mask, len(clips.items), clips.shape
        )
        extra = {key: (value[indices.to(value.device)], None) for key, (value, _) in shared.items()}
    negative = None
    if clips.negatives is not None and settings.cfg_scale != 1.0:
        negative = model.condition([clips.negatives[i] for i in rows], extra).to(dtype=model.dtype)
    return Guidance(
        model.backbone,
        model.objective,
        model.condition([clips.items[i] for i in rows], extra).to(dtype=model.dtype),
        negative=negative,
        dtype=model.dtype,
        options=settings,
    )
