"""The first clips of a run, kept for demos of training data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.audio.regions import SampleSpan, kept_mask, merged
from stable_audio.data.base import Batch
from stable_audio.inference.generation.audio_inputs import AudioInputs
from stable_audio.model import DiffusionModel
from stable_audio.training.diffusion.frame_masks import padding_mask
from stable_audio.training.diffusion.inpainting import InpaintingMasks
from stable_audio.types import Metadata

MICROSECONDS = 1_000_000
MOST_SPANS = 4
"""Spans of a mask that are named."""


@dataclass(frozen=True)
class BatchClip:
    """A clip as training gets it.

    Attributes:
        data: audio (c n), or latents (c n) as the dataset stores them.
        metadata: its metadata.
    """

    data: Tensor
    metadata: Metadata

    @property
    def name(self) -> str:
        """What it is called on the page of demos."""
        return str(
            self.metadata.get("prompt") or self.metadata.get("relpath") or self.metadata.get("path", "clip")
        )


class FirstClips:
    """Keeps the first clips that it is shown, over several batches if one is too small.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.clips: list[BatchClip] = []

    def observe(self, batch: Batch) -> None:
        """Keep clips of the batch while some are missing."""
        missing = self.count - len(self.clips)
        for data, metadata in zip(batch.audio[:missing], batch.metadata):
            self.clips.append(BatchClip(data.detach().float().cpu().clone(), dict(metadata)))


def inpainting_inputs(
    model: DiffusionModel, clip: BatchClip, kind: str, *, masks: InpaintingMasks, seed: int, latents: bool
) -> AudioInputs:
    """The clip with a random mask of the kind `kind`, the same for the same seed.

    Args:
        latents: the data of the clip are stored latents.
    """
    ratio = 1 if latents else model.downsampling_ratio
    frames = max(1, clip.data.shape[-1] // ratio)
    valid = padding_mask([clip.metadata], torch.empty(1, 1, frames), required=False, partial=True)
    real = frames if valid is None else int(valid.sum())
    mask = masks(real, frames, random.Random(seed), kind)[0]
    if latents:
        stored = clip.data / getattr(model.pretransform, "scale", 1.0)
        return AudioInputs(inpaint_latents=stored, inpaint_mask=mask)
    return AudioInputs(inpaint_audio=clip.data[..., : frames * ratio], inpaint_mask=mask)


def kept_part(audio: Tensor, mask: Tensor) -> Tensor:
    """Audio (c n), silent where the mask (parts,) of n equal parts is 0."""
    return audio * kept_mask(_spans(mask, audio.shape[-1]), audio.shape[-1])


def masked_seconds(mask: Tensor, seconds: float) -> str:
    """Where a mask (parts,) of a clip of `seconds` is 0, as a text: "0.20 to 0.45 s, 0.60 to 0.64 s"."""
    spans = _spans(mask, MICROSECONDS * seconds)
    named = [f"{first / MICROSECONDS:.2f} to {behind / MICROSECONDS:.2f} s" for first, behind in spans]
    more = [f"and {len(named) - MOST_SPANS} more"] if len(named) > MOST_SPANS else []
    return ", ".join([*named[:MOST_SPANS], *more]) or "nothing"


def _spans(mask: Tensor, length: float) -> list[SampleSpan]:
    """The spans of a line of `length` where a mask of equal parts is 0."""
    parts = len(mask)
    masked = (mask < 0.5).nonzero().flatten().tolist()
    return merged((round(part * length / parts), round((part + 1) * length / parts)) for part in masked)


def samples_of(model: DiffusionModel, clips: Sequence[BatchClip], *, latents: bool) -> int:
    """Audio samples of the longest of the clips."""
    longest = max(clip.data.shape[-1] for clip in clips)
    return longest * model.downsampling_ratio if latents else longest
