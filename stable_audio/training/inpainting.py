"""Random masks for inpainting training: 1 = keep, 0 = generate."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor


class InpaintingMasks:
    """Draws one of three kinds of mask per item.

    Random segments: up to `max_mask_segments` segments before the padding are to be generated; they may
    overlap. Full: everything is to be generated. Causal: a beginning is kept, and the rest before the padding
    is to be generated. Padding counts as kept except in full masks.

    Args:
        max_mask_segments: largest number of random segments.
        mask_type_probabilities: of (random segments, full, causal); they sum to 1.
    """

    def __init__(
        self,
        *,
        max_mask_segments: int = 10,
        mask_type_probabilities: Sequence[float] = (0.1, 0.8, 0.1),
    ) -> None:
        probabilities = list(mask_type_probabilities)
        if len(probabilities) != 3 or min(probabilities) < 0 or abs(sum(probabilities) - 1) > 1e-6:
            raise ValueError(
                "mask_type_probabilities needs three numbers >= 0 that sum to 1 "
                f"(random segments, full, causal), found {probabilities}"
            )
        if max_mask_segments < 1:
            raise ValueError(f"max_mask_segments must be at least 1, found {max_mask_segments}")
        self.max_mask_segments = max_mask_segments
        self.probabilities = tuple(probabilities)

    def __call__(self, real: int, length: int, choices: random.Random) -> Tensor:
        """Mask (1 length) for an item with `real` frames before its padding."""
        kinds = (self._segments, self._full, self._causal)
        (kind,) = choices.choices(kinds, weights=self.probabilities)
        mask = torch.ones(1, length)
        kind(mask, real, choices)
        return mask

    def _segments(self, mask: Tensor, real: int, choices: random.Random) -> None:
        count = choices.randint(1, self.max_mask_segments)
        longest = max(1, real // count)
        for _ in range(count):
            size = choices.randint(1, longest)
            start = choices.randint(0, max(0, real - size))
            mask[:, start : start + size] = 0

    def _full(self, mask: Tensor, real: int, choices: random.Random) -> None:
        mask.zero_()

    def _causal(self, mask: Tensor, real: int, choices: random.Random) -> None:
        mask[:, choices.randint(0, real) : real] = 0
