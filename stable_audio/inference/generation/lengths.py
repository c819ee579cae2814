"""What the length of a clip determines in its generation: samples, schedule, and the silence behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.diffusion.clip_frames import SECONDS, FrameRate, seconds_of
from stable_audio.diffusion.shift import TimeShift
from stable_audio.diffusion.windows import Windows
from stable_audio.inference.generation.settings import Sampling
from stable_audio.model import DiffusionModel
from stable_audio.types import Metadata

FADE_SECONDS = 0.005

OVERLAP = 0.25
"""Share of a window that it has in common with the next one."""


@dataclass(frozen=True, kw_only=True)
class ClipLength:
    """How long the clips of a call are; without either as the model's.

    Attributes:
        sample_size: audio samples, rounded up for the network, then cut.
        seconds: in place of sample_size, and the `seconds_total` of clips without. The network gets latents
            of the model's length; of the clip's and its headroom if the model hides padding from attention.
        short: give the network no more latents than the clip needs, whatever it was trained on. That saves
            time, but what it was not trained on may sound worse.
        loop: clips go on into themselves: played again and again, no end is heard.
        window_seconds: generate longer clips out of overlapping windows of that length, in the memory of one;
            0 = of the length that the model was trained on; None = at once.

    Raises:
        ValueError: both are given, or a number out of range.
    """

    sample_size: int | None = None
    seconds: float | None = None
    short: bool = False
    loop: bool = False
    window_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.window_seconds is not None and not 0 <= self.window_seconds < math.inf:
            raise ValueError(f"window_seconds must be at least 0, found {self.window_seconds}")
        if self.seconds is not None and self.sample_size is not None:
            raise ValueError("seconds and sample_size both give the length of the clips; give one of them")

    def samples(self, model: DiffusionModel, headroom_seconds: float) -> tuple[int, int]:
        """(samples to generate, samples of them to keep).

        Raises:
            ValueError: none at all.
        """
        if self.seconds is not None:
            kept = round(self.seconds * model.sample_rate)
            exact = self.short or self.windows(model, kept) is not None
            generated = kept if exact else sample_size_for(model, self.seconds, headroom_seconds)
        else:
            generated = kept = model.sample_size if self.sample_size is None else self.sample_size
        if kept < 1:
            raise ValueError(f"sample_size must be at least 1, found {kept}")
        return generated, kept

    def whole(self, model: DiffusionModel, samples: int) -> int:
        """Audio samples of the latents of a clip of `samples`: whole frames, and as many as a network takes.

        Those of a loop are any number of whole frames, of which `decoded_loop` takes the samples.
        """
        if self.loop:
            return -(-samples // model.downsampling_ratio) * model.downsampling_ratio
        return -(-samples // model.length_multiple) * model.length_multiple

    def windows(self, model: DiffusionModel, samples: int) -> Windows | None:
        """What the network sees of a clip of `samples` at a time; None: all of it."""
        if not self.loop and self.window_seconds is None:
            return None
        size = round((self.window_seconds or 0) * model.sample_rate) or model.sample_size
        frames = max(1, size // model.length_multiple) * model.backbone.length_multiple
        count = self.whole(model, samples) // model.downsampling_ratio
        if not self.loop and count <= frames:
            return None
        overlap = max(1, round(OVERLAP * frames)) if frames > 1 else 0
        return Windows(frames=count, size=frames, overlap=overlap, circular=self.loop)

    def heard_seconds(self, model: DiffusionModel, seconds: float) -> float:
        """The length that a model is told which reads it: that of a window where it sees windows."""
        windows = self.windows(model, round(seconds * model.sample_rate))
        if windows is None:
            return seconds
        return windows.size * model.downsampling_ratio / model.sample_rate


def sample_size_for(model: DiffusionModel, seconds: float, headroom_seconds: float) -> int:
    """Samples to generate for a clip of `seconds`.

    At least as many as the model was trained on; only the clip and its headroom if the model hides padding
    from attention, which makes it independent of what is behind.
    """
    samples = round(seconds * model.sample_rate)
    longest = max(model.sample_size, samples)
    if not model.mask_padding_attention or SECONDS not in ids_of(model):
        return longest
    return min(longest, samples + math.ceil(headroom_seconds * model.sample_rate))


def frames_of(model: DiffusionModel, items: Sequence[Metadata]) -> list[int] | None:
    """Latent frames of each clip by its seconds, where the model counts them; None where one has none."""
    if not (model.mask_padding_attention or model.use_effective_length):
        return None
    return FrameRate(model.sample_rate, model.downsampling_ratio).of_clips(items)


def silenced(model: DiffusionModel, audio: Tensor, items: Sequence[Metadata]) -> Tensor:
    """Without what follows each clip, of which a model that hides padding from attention learned nothing.

    The last 5 ms of a clip that goes on behind its end are faded out, since a cut would click.
    """
    frames = frames_of(model, items)
    if not model.mask_padding_attention or frames is None:
        return audio
    length, fade = audio.shape[-1], max(1, round(FADE_SECONDS * model.sample_rate))
    ends = torch.tensor([[round(seconds_of(item) * model.sample_rate)] for item in items])
    left = ((ends - torch.arange(length)) / fade).clamp(0, 1)
    gain = torch.sin(left * (math.pi / 2)).square().where(ends < length, 1.0)
    return audio * gain.unsqueeze(1)


def ids_of(model: DiffusionModel) -> Sequence[str]:
    """The keys of the metadata that the model reads."""
    return tuple(model.conditioner.ids()) if model.conditioner is not None else ()


def by_length(model: DiffusionModel, settings: Sampling) -> bool:
    """Whether the schedule of a clip depends on its own length."""
    return model.use_effective_length and settings.schedule == "shifted" and bool(settings.dist_shift)


def shift_for(model: DiffusionModel, settings: Sampling) -> TimeShift | None:
    """The shift of the schedule that the settings choose, if they shift it."""
    if not settings.dist_shift:
        return None
    if settings.schedule == "shifted" and model.sampling_shift is not None:
        return model.sampling_shift
    return model.dist_shift
