"""Random masks for inpainting training: 1 = keep, 0 = generate."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from stable_audio.conditioning.inpainting import MaskOptions
from stable_audio.options import Flat, takes_keywords

_TRIES = 50


class InpaintingMasks:
    """Draws one of four kinds of mask per item.

    Random segments: up to `max_mask_segments` segments before the padding are to be generated; they may
    overlap. Full: everything is to be generated. Causal: a beginning is kept, and the rest before the padding
    is to be generated. Spans: a share of the item, drawn from `mask_ratio_range`, in one or several pieces
    that do not overlap. Padding counts as kept except in full masks; an item of padding only is kept whole.

    Args:
        options: how many of each; its fields are keywords as well.
        mask_padding: padding is to be generated, too, as models need whose attention does not see it.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        options: Flat[MaskOptions] = MaskOptions(),  # noqa: B008 (frozen)
        mask_padding: bool = False,
    ) -> None:
        self.options, self.mask_padding = options, mask_padding

    def __call__(self, real: int, length: int, choices: random.Random, kind: str | None = None) -> Tensor:
        """Mask (1 length) for an item with `real` frames before its padding.

        Args:
            kind: key of KINDS; None draws one.
        """
        shares = self.options.mask_type_probabilities
        if kind is None:
            (kind,) = choices.choices(list(KINDS)[: len(shares)], weights=shares)
        mask = torch.ones(1, length)
        if real > 0 or kind == "full":
            KINDS[kind](mask, real, choices, self.options)
        if self.mask_padding and real > 0:
            mask[:, real:] = 0
        return mask


def _segments(mask: Tensor, real: int, choices: random.Random, options: MaskOptions) -> None:
    count = choices.randint(1, options.max_mask_segments)
    longest = max(1, real // count)
    for _ in range(count):
        size = choices.randint(1, longest)
        start = choices.randint(0, real - size)
        mask[:, start : start + size] = 0


def _full(mask: Tensor, real: int, choices: random.Random, options: MaskOptions) -> None:
    mask.zero_()


def _causal(mask: Tensor, real: int, choices: random.Random, options: MaskOptions) -> None:
    mask[:, choices.randint(0, real) : real] = 0


def _spans(mask: Tensor, real: int, choices: random.Random, options: MaskOptions) -> None:
    total = max(1, int(choices.uniform(*options.mask_ratio_range) * real))
    counts = list(range(1, options.max_spans + 1))
    (count,) = choices.choices(counts, weights=_as_many(options.span_count_weights, len(counts)))
    shares = [choices.random() for _ in range(min(count, real))]
    for size in sorted(_sizes(shares, total), reverse=True):
        start = _free_start(mask, real, size, choices)
        if start is not None:
            mask[:, start : start + size] = 0


def _as_many(weights: Sequence[float], count: int) -> list[float]:
    """The first `count` of the weights, the last of which is repeated as often as it takes."""
    return [*weights, *[weights[-1]] * count][:count]


def _sizes(shares: Sequence[float], total: int) -> list[int]:
    """Sizes of at least 1 in the proportions of the shares, which add up to `total` if that is possible."""
    sizes = [max(1, int(share / (sum(shares) or 1.0) * total)) for share in shares]
    missing = total - sum(sizes)
    sizes[0] += max(0, missing)
    excess = max(0, -missing)
    for i, size in enumerate(sizes):
        taken = min(excess, size - 1)
        sizes[i], excess = size - taken, excess - taken
    return sizes


def _free_start(mask: Tensor, real: int, size: int, choices: random.Random) -> int | None:
    """A random place without overlap; after many tries the first one; None if there is none."""
    taken = np.concatenate([[0], (mask[0, :real].numpy() == 0).cumsum()])  # before each frame
    free = taken[size:] == taken[: real - size + 1]
    for _ in range(_TRIES):
        start = choices.randint(0, real - size)
        if free[start]:
            return start
    return int(free.argmax()) if free.any() else None


WriteMask = Callable[[Tensor, int, random.Random, MaskOptions], None]
"""Writes the zeros of a mask (1 length) of ones, of an item with so many frames."""

KINDS: dict[str, WriteMask] = {"segments": _segments, "full": _full, "causal": _causal, "spans": _spans}
"""Kinds of masks, in the order of `mask_type_probabilities`."""
