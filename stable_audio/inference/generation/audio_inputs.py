"""Audio that steers a generation, its way to latents, and the way of latents to audio."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.audio.resample import resample
from stable_audio.audio.transforms import fit_length, to_channels
from stable_audio.conditioning.inpainting import INPAINT_MASK, inpainting_tensors
from stable_audio.conditioning.sound_values import SoundReader
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.inference.offload import visiting
from stable_audio.model import DiffusionModel
from stable_audio.pretransforms.base import Pretransform
from stable_audio.types import ConditionTensors, Metadata

EncoderNoise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class AudioInputs:
    """Audio that clips start from, or of which inpainting keeps parts.

    Attributes:
        init_audio: (c n) or (b c n): audio to start from, with noise of init_noise_level.
        init_sample_rate: sample rate of init_audio in Hz; None: the model's.
        init_noise_level: noise level at which sampling starts from init_audio, in place of sigma_max.
        inpaint_audio: (c n) or (b c n) for inpainting models, of which parts are generated anew.
        inpaint_latents: (c n) or (b c n) latents of the sound, in place of inpaint_audio.
        inpaint_sample_rate: sample rate of inpaint_audio in Hz; None: the model's.
        inpaint_mask: (n,) or (b n) with 1 = keep, 0 = generate, for n equal parts of the clip. Every latent
            frame that overlaps a part to generate is generated, so that the result may differ up to a frame
            beyond it.
    """

    init_audio: Tensor | None = None
    init_sample_rate: int | None = None
    init_noise_level: float = 1.0
    inpaint_audio: Tensor | None = None
    inpaint_sample_rate: int | None = None
    inpaint_mask: Tensor | None = None
    inpaint_latents: Tensor | None = None

    def check(self, model: DiffusionModel) -> None:
        """Raise ValueError if the model cannot use these inputs."""
        if self.init_audio is not None and self.init_noise_level <= 0:
            raise ValueError(f"init_noise_level must be above 0, found {self.init_noise_level}")
        parts = (self.inpaint_audio, self.inpaint_latents, self.inpaint_mask)
        if any(part is not None for part in parts) and not inpaints(model):
            raise ValueError(
                "inpainting needs a model of model_type 'diffusion_cond_inpaint'; this one is not"
            )

    def tensors(
        self,
        model: DiffusionModel,
        noise: EncoderNoise | None,
        *,
        count: int,
        samples: int,
        length: int,
    ) -> tuple[Tensor | None, ConditionTensors]:
        """Latents (count c n) of init_audio, and the inpainting tensors of a model that reads them.

        Args:
            noise: see `encode_each`.
            count: number of clips.
            samples: audio samples of a clip.
            length: audio samples of its latents, to which the audio is cut or padded.
        """
        init, inpaint = (
            None if audio is None else encode_each(model, fit_audio(audio, rate, model, length), noise)
            for audio, rate in (
                (self.init_audio, self.init_sample_rate),
                (self.inpaint_audio, self.inpaint_sample_rate),
            )
        )
        init = None if init is None else for_batch(init, count, "init_audio")
        if self.inpaint_latents is not None:
            inpaint = fit_latents(self.inpaint_latents, model.latent_shape_of(length))
        if not inpaints(model):
            return init, {}
        ratio, mask = model.downsampling_ratio, self.inpaint_mask
        if mask is not None:
            mask = frame_mask(mask, samples=samples, ratio=ratio, frames=length // ratio)
        return init, inpaint_tensors(model, inpaint, mask, count, model.latent_shape_of(length))


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


def for_batch(values: Tensor, count: int, what: str) -> Tensor:
    """Expand `values` to one row per item: a single row is repeated, `count` rows stay.

    Raises:
        ValueError: another number of rows; the message calls them `what`.
    """
    if len(values) == count:
        return values
    if len(values) == 1:
        return values.expand(count, *values.shape[1:])
    raise ValueError(f"{what}: found {len(values)} of them for {count} items; give 1 or {count}")


def inpaints(model: DiffusionModel) -> bool:
    """Whether the model reads an inpainting mask."""
    return any(INPAINT_MASK in ids for slot, ids in model.wiring.ids.items() if slot.has_frames)


def frame_mask(mask: Tensor, *, samples: int, ratio: int, frames: int) -> Tensor:
    """The frames that inpainting keeps: those that do not overlap a part to generate.

    Args:
        mask: (n,) or (b n), 1 = keep, 0 = generate: n equal parts of a clip of `samples` audio samples.
        ratio: audio samples per frame.
        frames: number of latent frames, which may exceed the clip; frames behind its end follow its last
            part.

    Returns:
        (b frames) float.
    """
    rows = (mask[None] if mask.ndim == 1 else mask).float().cpu()
    parts = rows.shape[-1]
    edges = torch.arange(frames + 1) * ratio
    first = (edges[:-1] * parts).div(samples, rounding_mode="floor").clamp(max=parts - 1)
    behind = -(edges[1:] * -parts).div(samples, rounding_mode="floor")  # rounded up
    behind = torch.maximum(behind.clamp(max=parts), first + 1)
    generated = F.pad((rows < 0.5).long().cumsum(-1), (1, 0))
    return (generated[:, behind] == generated[:, first]).float()


def inpaint_tensors(
    model: DiffusionModel,
    latents: Tensor | None,
    mask: Tensor | None,
    count: int,
    shape: tuple[int, ...],
) -> ConditionTensors:
    """The two conditioning tensors of an inpainting model.

    Args:
        latents: (b, *shape) of the audio to keep; None: there is none.
        mask: (b frames), 1 = keep, 0 = generate; None: generate everything.
    """
    device = model.device
    frames_to_keep = torch.zeros(count, 1, shape[-1], device=device)
    if mask is not None:
        frames_to_keep = for_batch(mask[:, None].to(device), count, "inpaint_mask")
    audio_latents = torch.zeros(count, *shape, device=device)
    if latents is not None:
        audio_latents = for_batch(latents, count, "inpaint_audio").to(device)
    return inpainting_tensors(audio_latents, frames_to_keep)


def fit_sounds(model: DiffusionModel, items: Iterable[Metadata], length: int) -> list[Metadata]:
    """Cut or pad every sound in the metadata that a conditioner reads to `length` samples of the model.

    Raises:
        ValueError: a value is no sound; the message has its id.
    """
    if not sound_conditioners(model):
        return list(items)
    return [{**item, **_fitted(model, item, length)} for item in items]


def sound_conditioners(model: DiffusionModel) -> dict[str, SoundReader]:
    """The conditioners that read sounds, by id."""
    conditioners = model.conditioner.conditioners.items() if model.conditioner is not None else ()
    return {key: part for key, part in conditioners if isinstance(part, SoundReader)}


def sounds_of(model: DiffusionModel, item: Metadata) -> list[tuple[str, Any, SoundReader]]:
    """(key of the metadata, value, conditioner) of the sounds that the item has."""
    sounds = []
    for name, conditioner in sound_conditioners(model).items():
        assert model.conditioner is not None
        key = name if name in item else model.conditioner.default_keys.get(name)
        if key is not None and key in item:
            sounds.append((key, item[key], conditioner))
    return sounds


def _fitted(model: DiffusionModel, item: Metadata, length: int) -> Metadata:
    sounds: Metadata = {}
    for key, value, conditioner in sounds_of(model, item):
        value = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
        try:
            sounds[key] = conditioner.fitted(
                value, round(length * conditioner.sample_rate / model.sample_rate)
            )
        except (ValueError, OSError) as error:
            raise ValueError(f"conditioning '{key}': {error}") from error
    return sounds
