"""The clips of one call, and the sampling of their latents."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stable_audio.diffusion.clip_frames import FrameRate, frame_rows
from stable_audio.diffusion.denoiser import Predict
from stable_audio.diffusion.guidance import Guidance
from stable_audio.diffusion.inversion import noise_of
from stable_audio.diffusion.known import KnownLatents
from stable_audio.diffusion.mixing import mixed_conditioning, mixed_noise
from stable_audio.diffusion.noise import Noise, SeededNoise
from stable_audio.diffusion.sampling import Callback, sample
from stable_audio.diffusion.spaces import Space
from stable_audio.diffusion.windows import Windows
from stable_audio.inference.generation.lengths import by_length, frames_of, shift_for
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.generation.windowing import has_frames, windowed
from stable_audio.inference.offload import visiting
from stable_audio.model import DiffusionModel
from stable_audio.types import Conditioning, ConditionTensors, Metadata


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where clips are led to: points on the way to other conditioning and other noise.

    Attributes:
        items: the other conditioning of each clip; None: the same.
        seeds: seed of the other noise of each clip; None: the same.
        shares: how far each clip goes that way, 0 to 1.
    """

    items: list[Metadata] | None = None
    seeds: list[int] | None = None
    shares: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Inputs of all clips of a call; tensors have one row per clip.

    Attributes:
        items: metadata of each clip.
        seeds: seed of each clip.
        shape: shape of one clip's latents.
        inpainting: conditioning tensors of inpainting.
        negatives: metadata to steer away from, of each clip.
        guide: weaker model to steer away from.
        init: latents to start from.
        known: latents of which parts are kept.
        start_noise: noise to start from; None draws it from the seeds.
        target: points on the way to other clips.
        inversion_steps: steps in which init is led back to its own noise; 0: it gets that of the seeds.
        init_items: metadata of init, for that; None: those of the clips.
        windows: what the network sees at a time; None: whole clips.
    """

    items: list[Metadata]
    seeds: list[int]
    shape: tuple[int, ...]
    inpainting: ConditionTensors
    negatives: list[Metadata] | None = None
    guide: DiffusionModel | None = None
    init: Tensor | None = None
    known: KnownLatents | None = None
    start_noise: Tensor | None = None
    target: Target = field(default_factory=Target)
    inversion_steps: int = 0
    init_items: list[Metadata] | None = None
    windows: Windows | None = None


def sampled(
    model: DiffusionModel,
    clips: Clips,
    indices: Tensor,
    settings: Sampling,
    noise: Noise | None,
    callback: Callback | None,
) -> Tensor:
    """Sample latents (b c n), on the CPU, of the clips at `indices`."""
    rows, device, dtype = indices.tolist(), model.device, model.dtype
    settings = settings.of_clips(rows)
    item_noise = SeededNoise([clips.seeds[i] for i in rows])
    if clips.start_noise is not None:
        start_noise = clips.start_noise[indices]
    else:
        start_noise = item_noise(torch.empty(len(rows), *clips.shape))
    parts = _Conditionings.of(model, clips, indices, guided=settings.needs_null)
    length = clips.shape[-1] if clips.windows is None else clips.windows.size
    frames = None if clips.windows is not None else frames_of(model, [clips.items[i] for i in rows])
    cond, init = (_padded(model, c, frames, length, settings) for c in (parts.cond, parts.init))
    parts = replace(parts, cond=cond, init=init)
    known = None if clips.known is None else clips.known.rows(indices, device)
    skip = None if known is None else (known.mask > 0).all(0).cpu()
    guide = None if clips.guide is None else _guide(clips.guide, clips, indices, frames, settings)

    def guided(cond: Conditioning, negative: Conditioning | None = None) -> Guidance:
        return Guidance(
            model.backbone,
            model.objective,
            cond,
            negative=negative,
            guide=guide,
            dtype=dtype,
            options=settings,
        )

    def plain(cond: Conditioning, negative: Conditioning | None = None) -> Guidance:
        return Guidance(model.backbone, model.objective, cond, dtype=dtype)

    def start(start_noise: Tensor, level: float, space: Space) -> Tensor:
        """The noise of the sound to start from, if that is asked for, and on the way to other noise."""
        if clips.init is not None and clips.inversion_steps:
            start_noise = noise_of(
                windowed(plain, parts.init, None, clips.windows, skip),
                clips.init[indices.to(device)],
                objective=model.objective,
                level=level,
                space=space,
                steps=clips.inversion_steps,
            )
        if clips.target.seeds is None:
            return start_noise
        other = SeededNoise([clips.target.seeds[i] for i in rows])(start_noise)
        return mixed_noise(start_noise, other, [clips.target.shares[i] for i in rows])

    visit = nullcontext() if clips.guide is None else visiting(clips.guide, clips.guide.backbone)
    with visiting(model, model.backbone), visit:
        latents = sample(
            windowed(guided, parts.cond, parts.negative, clips.windows, skip),
            start_noise.to(device),
            objective=model.objective,
            noise=noise or item_noise,
            init=None if clips.init is None else clips.init[indices.to(device)],
            known=known,
            start=start,
            callback=callback,
            solver=settings.ordered,
            shift=shift_for(model, settings),
            lengths=frames if frames is not None and by_length(model, settings) else length,
        )
        return latents.cpu()


def _padded(
    model: DiffusionModel, cond: Conditioning, frames: list[int] | None, length: int, settings: Sampling
) -> Conditioning:
    """Conditioning with the padding behind clips, for models that hide it from attention.

    Where there is none, attention without a mask is the same, and much faster on a GPU.
    """
    if not model.mask_padding_attention or frames is None:
        return cond
    headroom = FrameRate(model.sample_rate, model.downsampling_ratio).within(settings.headroom)
    if min(frames) + headroom >= length:
        return cond
    return cond.replace(padding_mask=frame_rows([n + headroom for n in frames], length).to(model.device))


def _guide(
    guide: DiffusionModel, clips: Clips, indices: Tensor, frames: list[int] | None, settings: Sampling
) -> Predict:
    """The guide with the conditioning of the clips at `indices`."""
    cond = _Conditionings.of(guide, clips, indices, guided=False).cond
    if clips.windows is not None and has_frames(cond):
        raise ValueError("a guide that reads conditioning over time needs whole clips, not windows or loops")
    cond = _padded(guide, cond, frames, clips.shape[-1], settings)
    return Guidance(guide.backbone, guide.objective, cond, dtype=guide.dtype)


@dataclass(frozen=True)
class _Conditionings:
    """Conditioning of a batch.

    Attributes:
        cond: of the clips.
        negative: to steer away from.
        init: of the sound to start from.
    """

    cond: Conditioning
    negative: Conditioning | None
    init: Conditioning

    @classmethod
    def of(cls, model: DiffusionModel, clips: Clips, indices: Tensor, *, guided: bool) -> _Conditionings:
        rows, device = indices.tolist(), model.device
        extra: ConditionTensors = {
            key: (value[indices.to(device)], None) for key, (value, _) in clips.inpainting.items()
        }

        def read(items: Sequence[Metadata]) -> Conditioning:
            return model.condition([items[i] for i in rows], extra, device=device).to(dtype=model.dtype)

        with visiting(model, model.conditioner):
            cond = own = read(clips.items)
            if clips.target.items is not None:
                cond = mixed_conditioning(
                    cond, read(clips.target.items), [clips.target.shares[i] for i in rows]
                )
            negative = read(clips.negatives) if clips.negatives is not None and guided else None
            return cls(cond, negative, own if clips.init_items is None else read(clips.init_items))
