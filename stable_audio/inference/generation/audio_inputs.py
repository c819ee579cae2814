"""Audio that steers a generation: initial audio, and audio to inpaint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.audio.resample import resample
from stable_audio.audio.transforms import fit_length, to_channels
from stable_audio.conditioning.inpainting import INPAINT_MASK, inpainting_tensors
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.model import DiffusionModel
from stable_audio.pretransforms.base import Pretransform
from stable_audio.types import ConditionTensors, Slot

EncoderNoise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class AudioInputs:
    """Audio that clips start from, or of which inpainting keeps parts.

    Attributes:
        init_audio: (c n) or (b c n): audio to start from, with noise of init_noise_level.
        init_sample_rate: sample rate of init_audio in Hz; None: the model's.
        init_noise_level: noise level at which sampling starts from init_audio, in place of sigma_max.
        inpaint_audio: (c n) or (b c n) for inpainting models, of which parts are generated anew.
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

    def check(self, model: DiffusionModel) -> None:
        """Raise ValueError if the model cannot use these inputs."""
        if self.init_audio is not None and self.init_noise_level <= 0:
            raise ValueError(f"init_noise_level must be above 0, found {self.init_noise_level}")
        if (self.inpaint_audio is not None or self.inpaint_mask is not None) and not inpaints(model):
            raise ValueError(
                "inpainting needs a model of model_type 'diffusion_cond_inpaint'; this one is not"
            )

    def kept_frames(self, model: DiffusionModel, samples: int, length: int) -> Tensor | None:
        """The mask of latent frames (b frames), 1 = keep, of `samples` samples padded to `length`."""
        if self.inpaint_mask is None:
            return None
        ratio = model.downsampling_ratio
        return frame_mask(self.inpaint_mask, samples=samples, ratio=ratio, frames=length // ratio)

    def latents(
        self, model: DiffusionModel, length: int, noise: EncoderNoise | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Latents (b c n) of init_audio and of inpaint_audio, cut or padded to `length` audio samples."""

        def encoded(audio: Tensor | None, sample_rate: int | None) -> Tensor | None:
            if audio is None:
                return None
            return encode_each(model, fit_audio(audio, sample_rate, model, length), noise)

        return (
            encoded(self.init_audio, self.init_sample_rate),
            encoded(self.inpaint_audio, self.inpaint_sample_rate),
        )


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


def encode_each(model: DiffusionModel, audio: Tensor, noise: EncoderNoise | None) -> Tensor:
    """Encode audio (b c n) into latents (b c n), one item at a time.

    Args:
        noise: source of a VAE's draws; None: the same noise for every item and every call.
    """
    dtype = torch.float32 if model.pretransform is None else pretransform_dtype(model.pretransform)
    latents = []
    for item in audio.split(1):
        item = item.to(device=model.device, dtype=dtype)
        latents.append(model.encode(item, noise=noise or SeededNoise([0])).float())
    return torch.cat(latents)


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
    return INPAINT_MASK in model.wiring.ids[Slot.INPUT_CONCAT]


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
