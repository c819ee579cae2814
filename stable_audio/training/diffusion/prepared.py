"""A batch of a diffusion training on its way to the backbone: clean, and with all draws of its step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from stable_audio.diffusion.clip_frames import FrameRate
from stable_audio.diffusion.item_means import FrameGroups
from stable_audio.diffusion.objectives import TrainingPoint
from stable_audio.model import DiffusionModel
from stable_audio.training.batches.draws import Draws
from stable_audio.training.diffusion.frame_masks import extended_mask
from stable_audio.training.errors import TrainingError
from stable_audio.types import Conditioning, Metadata


@dataclass(frozen=True)
class Clean:
    """A batch before noise is added.

    Attributes:
        x0: clean latents (b c n).
        mask: True for frames before the padding, on the CPU; None if unknown.
        lengths: frames of each clip if clips share rows, else None.
        metadata: metadata of each clip.
    """

    x0: Tensor
    mask: Tensor | None
    lengths: Sequence[int] | None
    metadata: list[Metadata]


@dataclass(frozen=True)
class PreparedBatch:
    """A batch with all draws of its training step.

    Attributes:
        point: inputs of the objective.
        conditioning: conditioning of the backbone, after dropout.
        mask: (b 1 n) bool on the device, True where the loss counts; None counts everything.
        lengths: frames of each clip if clips share rows, else None.
        groups: what each frame is to a loss that is a mean over items; else None.
    """

    point: TrainingPoint
    conditioning: Conditioning
    mask: Tensor | None
    lengths: Sequence[int] | None
    groups: FrameGroups | None = None


def with_silence(clean: Clean, model: DiffusionModel, scale: float, draws: Draws) -> Clean:
    """The batch with random silence behind its clips that counts as sound.

    Args:
        clean: the batch.
        model: whose attention sees no padding; the batch of another one stays as it is.
        scale: mean of the silence in seconds, 0: none.
        draws: of the step.

    Raises:
        TrainingError: clips share rows.
    """
    if not model.mask_padding_attention or scale == 0 or clean.mask is None:
        return clean
    if clean.lengths is not None:
        raise TrainingError("clips cannot share rows with silence_extension_scale_seconds; set it to 0")
    units = draws.exponential(clean.x0.shape[0])
    return replace(clean, mask=extended_mask(clean.mask, frame_rate(model), scale, units))


def shift_lengths(clean: Clean, model: DiffusionModel) -> int | Sequence[int]:
    """Latent frames for the distribution shift, of all items or of each one.

    Args:
        clean: the batch, without silence that was added to it.
        model: says whether the length of each clip counts.
    """
    if clean.lengths is not None:
        return clean.lengths
    frames = clean.x0.shape[-1]
    if not model.use_effective_length:
        return frames
    lengths = frame_rate(model).of_clips(clean.metadata)
    if lengths is not None:
        return lengths
    return frames if clean.mask is None else [int(n) for n in clean.mask.flatten(1).sum(1)]


def frame_rate(model: DiffusionModel) -> FrameRate:
    """Seconds to latent frames of the model."""
    return FrameRate(model.sample_rate, model.downsampling_ratio)
