"""Batches whose clips share rows: real frames, whole backbone steps, statistics without padding."""

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
    """(x, lengths) with each clip as long as the backbone can take, `multiple` frames at a time.

    The at most multiple - 1 frames that are added are zeros; the loss leaves them out.
    """
    whole = [-(-n // multiple) * multiple for n in lengths]
    return F.pad(x, (0, max(whole) - x.shape[-1])) if max(whole) > x.shape[-1] else x, whole


def masked_std(x: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation of x (b c n) where mask (b 1 n) is True, as Tensor.std has it for all of x."""
    weights = mask.expand_as(x).to(x.dtype)
    mean = (x * weights).sum() / weights.sum()
    return (((x - mean).square() * weights).sum() / (weights.sum() - 1).clamp(min=1)).sqrt()
