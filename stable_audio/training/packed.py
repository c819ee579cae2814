"""Batches whose clips share rows: masks of real frames, padding to the backbone's multiple, statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def frame_mask(lengths: Sequence[int], n: int) -> Tensor:
    """(b 1 n) bool on the CPU, True for the first lengths[i] frames of item i."""
    ends = torch.tensor(list(lengths))
    return (torch.arange(n) < ends[:, None]).unsqueeze(1)


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
