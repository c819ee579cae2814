"""The inputs of an inpainting model besides metadata: the mask of known latents, and these latents."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stable_audio.ranges import Positive, Probability, check_ranges
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


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """Random masks of inpainting training.

    Attributes:
        max_mask_segments: largest number of random segments.
        mask_type_probabilities: of random segments, of everything masked, of all but the beginning masked;
            they sum to 1.

    Raises:
        ValueError: a setting out of its range, or shares with another sum.
    """

    max_mask_segments: Positive = 10
    mask_type_probabilities: tuple[Probability, Probability, Probability] = (0.1, 0.8, 0.1)

    def __post_init__(self) -> None:
        check_ranges(self)
        shares = list(self.mask_type_probabilities)
        if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(
                "mask_type_probabilities needs three numbers >= 0 that sum to 1 "
                f"(random segments, full, causal), found {shares}"
            )
