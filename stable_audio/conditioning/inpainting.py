"""The inputs of an inpainting model besides metadata: the mask of known latents, and these latents."""

from __future__ import annotations

from torch import Tensor

from stable_audio.types import ConditionTensors

INPAINT_MASK = "inpaint_mask"
INPAINT_INPUT = "inpaint_masked_input"
INPAINT_IDS = (INPAINT_MASK, INPAINT_INPUT)
"""Conditioner ids, as stable-audio-tools calls them."""


def inpainting_tensors(latents: Tensor, mask: Tensor) -> ConditionTensors:
    """The mask, and the latents multiplied by it.

    Args:
        latents: (b c n), or (b c h n) if they are picture-shaped.
        mask: (b 1 n), 1 = keep.
    """
    rows = [1] * (latents.ndim - mask.ndim)
    masked = latents * mask.reshape(*mask.shape[:-1], *rows, mask.shape[-1])
    return {INPAINT_MASK: (mask, None), INPAINT_INPUT: (masked, None)}
