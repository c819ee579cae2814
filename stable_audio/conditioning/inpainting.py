"""The inputs of an inpainting model besides metadata: the mask of known latents, and these latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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


MaskKind = Literal["segments", "full", "causal", "spans"]
"""Kinds of random masks, in the order of `mask_type_probabilities`."""


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """Random masks of inpainting training.

    Attributes:
        max_mask_segments: largest number of random segments.
        mask_type_probabilities: of random segments, of everything masked, of all but the beginning masked,
            and, if there are four, of random spans; they sum to 1.
        max_spans: largest number of random spans, which do not overlap.
        mask_ratio_range: smallest and largest share of an item that random spans cover together.
        span_count_weights: how often there are one, two, ... spans; the last stands for all further numbers.

    Raises:
        ValueError: a setting out of its range, or shares with another sum.
    """

    max_mask_segments: Positive = 10
    mask_type_probabilities: (
        tuple[Probability, Probability, Probability]
        | tuple[Probability, Probability, Probability, Probability]
    ) = (0.1, 0.8, 0.1)
    max_spans: Positive = 4
    mask_ratio_range: tuple[Probability, Probability] = (0.2, 1.0)
    span_count_weights: Sequence[float] = (4, 2, 1, 1)

    def __post_init__(self) -> None:
        check_ranges(self)
        shares = list(self.mask_type_probabilities)
        if len(shares) not in (3, 4) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(
                "mask_type_probabilities needs three or four numbers >= 0 that sum to 1 "
                f"(random segments, full, causal, random spans), found {shares}"
            )
        low, high = self.mask_ratio_range
        if not 0 <= low <= high <= 1:
            raise ValueError(f"mask_ratio_range must be 0 <= low <= high <= 1, found {[low, high]}")
        weights = list(self.span_count_weights)
        if not weights or min(weights) < 0 or sum(weights[: self.max_spans]) <= 0:
            raise ValueError(
                f"span_count_weights needs numbers >= 0, of which one is above 0, found {weights}"
            )
