"""Random masks for inpainting training: 1 = keep, 0 = generate."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from stable_audio.conditioning.inpainting import MaskOptions
from stable_audio.options import Flat, takes_keywords


class InpaintingMasks:
    """Draws one of three kinds of mask per item.

    Random segments: up to `max_mask_segments` segments before the padding are to be generated; they may
    overlap. Full: everything is to be generated. Causal: a beginning is kept, and the rest before the padding
    is to be generated. Padding counts as kept except in full masks.

    Args:
        options: how many of each; its fields are keywords as well.
    """

    @takes_keywords
    def __init__(self, *, options: Flat[MaskOptions] = MaskOptions()) -> None:  # noqa: B008 (frozen)
        self.options = options

    def __call__(self, real: int, length: int, choices: random.Random) -> Tensor:
        """Mask (1 length) for an item with `real` frames before its padding."""
        kinds = (self._segments, self._full, self._causal)
        (kind,) = choices.choices(kinds, weights=self.options.mask_type_probabilities)
        mask = torch.ones(1, length)
        kind(mask, real, choices)
        return mask

    def _segments(self, mask: Tensor, real: int, choices: random.Random) -> None:
        count = choices.randint(1, self.options.max_mask_segments)
        longest = max(1, real // count)
        for _ in range(count):
            size = choices.randint(1, longest)
            start = choices.randint(0, max(0, real - size))
            mask[:, start : start + size] = 0

    def _full(self, mask: Tensor, real: int, choices: random.Random) -> None:
        mask.zero_()

    def _causal(self, mask: Tensor, real: int, choices: random.Random) -> None:
        mask[:, choices.randint(0, real) : real] = 0
