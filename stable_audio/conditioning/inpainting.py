"""What an inpainting model reads besides metadata: which latents are kept, and those latents."""

from __future__ import annotations

from torch import Tensor

from stable_audio.types import ConditionTensors

INPAINT_MASK = "inpaint_mask"
INPAINT_INPUT = "inpaint_masked_input"
INPAINT_IDS = (INPAINT_MASK, INPAINT_INPUT)
"""Conditioner ids, as stable-audio-tools calls them."""


def inpainting_tensors(latents: Tensor, mask: Tensor) -> ConditionTensors:
    """The mask, and the latents where they are kept.

    Args:
        latents: (b c n), or (b c h n) where they are pictures.
        mask: (b 1 n), 1 = keep.
    """
    rows = [1] * (latents.ndim - mask.ndim)
    kept = latents * mask.reshape(*mask.shape[:-1], *rows, mask.shape[-1])
    return {INPAINT_MASK: (mask, None), INPAINT_INPUT: (kept, None)}
