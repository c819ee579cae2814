"""Which latent frames of a batch are real: from padding masks, or from lengths of clips that share rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.audio.padding import PaddingMask
from stable_audio.diffusion.clip_frames import FrameRate, frame_rows, resized
from stable_audio.diffusion.item_means import FrameGroups
from stable_audio.nn.transfer import to_device
from stable_audio.training.errors import TrainingError
from stable_audio.types import Metadata


def padding_mask(
    metadata: Sequence[Metadata], x0: Tensor, *, required: bool, partial: bool = False
) -> Tensor | None:
    """Mask (b 1 n) bool, (b 1 1 n) for latents with rows, True = not padding; None if the items have no mask.

    It is on the CPU, where the lengths of the items can be read without waiting for the device.

    Args:
        metadata: metadata of each item.
        x0: latents of the items.
        required: raise an error if an item has no mask.
        partial: a frame that holds some sound is no padding; otherwise its nearest sample decides.

    Raises:
        TrainingError: the mask is required, and an item has none.
    """
    masks = [_unwrapped(m["padding_mask"]) for m in metadata if "padding_mask" in m]
    if len(masks) < len(metadata):
        if required:
            raise TrainingError(
                f"mask_padding needs 'padding_mask' in the metadata of every item; "
                f"{len(metadata) - len(masks)} of {len(metadata)} have none"
            )
        return None
    if partial:
        rows = frame_rows([resized(_count(m), _points(m), x0.shape[-1]) for m in masks], x0.shape[-1])
    else:
        rows = torch.stack([_sound_at(m, x0.shape[-1]) for m in masks])
    return rows.view(x0.shape[0], *[1] * (x0.ndim - 2), -1)


def extended_mask(mask: Tensor, rate: FrameRate, scale_seconds: float, units: Sequence[float]) -> Tensor:
    """The mask with random silence behind the sound of each item.

    Args:
        mask: that of `padding_mask`.
        units: a draw for each item from an exponential distribution of mean 1.
    """
    frames = mask.shape[-1]
    valid = mask.flatten(1).sum(1).tolist()
    rows = [rate.extended(int(n), unit, scale_seconds, frames) for n, unit in zip(valid, units, strict=True)]
    return frame_rows(rows, frames).view(mask.shape)


def frame_groups(x0: Tensor, mask: Tensor | None, kept: Tensor | None, *, packed: bool) -> FrameGroups:
    """What each frame of a batch is to a loss that is a mean over items, on the device of x0.

    Args:
        mask: that of `padding_mask`.
        kept: masks of inpainting, 1 = keep, or None.
        packed: padding is not computed, so it is in no group.
    """
    one_row = torch.ones_like(x0.narrow(1, 0, 1), dtype=torch.bool)
    for axis in range(2, x0.ndim - 1):
        one_row = one_row.narrow(axis, 0, 1)
    valid = one_row if mask is None else to_device(mask, x0.device)
    given = torch.zeros_like(one_row) if kept is None else (kept != 0).view(one_row.shape)
    signal, context = valid & ~given, valid & given
    return FrameGroups(signal, context if packed else ~signal, context)


def frame_mask(lengths: Sequence[int], n: int) -> Tensor:
    """(b 1 n) bool on the CPU, True for the first lengths[i] frames of item i."""
    return frame_rows(lengths, n).unsqueeze(1)


def whole_steps(x: Tensor, lengths: Sequence[int], multiple: int) -> tuple[Tensor, list[int]]:
    """Pad each clip with zeros to a multiple of the backbone's length_multiple; returns (x, lengths).

    The loss leaves the padding out, at most multiple - 1 frames per clip.
    """
    rounded = [-(-n // multiple) * multiple for n in lengths]
    return F.pad(x, (0, max(rounded) - x.shape[-1])) if max(rounded) > x.shape[-1] else x, rounded


def masked_std(x: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation of x (b c n) where mask (b 1 n) is True, unbiased as Tensor.std."""
    weights = mask.expand_as(x).to(x.dtype)
    mean = (x * weights).sum() / weights.sum()
    return (((x - mean).square() * weights).sum() / (weights.sum() - 1).clamp(min=1)).sqrt()


@lru_cache(maxsize=64)
def _nearest(source: int, target: int) -> Tensor:
    """Which of `source` points `F.interpolate(mode="nearest")` takes for each of `target` ones."""
    places = torch.arange(source, dtype=torch.float64).view(1, 1, -1)
    return F.interpolate(places, size=target, mode="nearest").long().flatten()


def _unwrapped(value: Any) -> Tensor | PaddingMask:
    value = value[0] if isinstance(value, (list, tuple)) else value
    return value if isinstance(value, PaddingMask) else torch.as_tensor(value)


def _count(mask: Tensor | PaddingMask) -> int:
    return int(mask.sum())


def _points(mask: Tensor | PaddingMask) -> int:
    return len(mask) if isinstance(mask, PaddingMask) else mask.numel()


def _sound_at(mask: Tensor | PaddingMask, frames: int) -> Tensor:
    """(frames,) bool: whether the sample nearest to each frame is sound."""
    if isinstance(mask, PaddingMask):
        return mask.at(_nearest(len(mask), frames))
    return mask.flatten()[_nearest(mask.numel(), frames)].bool()
