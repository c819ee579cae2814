"""Join sounds without a click: cross-fades that keep the level, whatever the phases are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stable_audio.audio.regions import SampleSpan

SEAM_SECONDS = 0.02
"""Length of a cross-fade."""

_LEAST_POWER = 0.25
"""Greatest rise of the sum of two sounds that cancel each other: a factor of 2."""


def crossfaded(old: Tensor, new: Tensor) -> Tensor:
    """From `old` to `new`, both (..., n), along a raised cosine.

    The level is that of two sounds with their correlation r over the fade: the weights a and b are divided by
    sqrt(a^2 + b^2 + 2 a b r). Equal sounds are faded with weights that add up to 1, unrelated ones with
    weights whose squares do, so that neither dips or swells.
    """
    n = old.shape[-1]
    if n == 0:
        return new
    steps = (torch.arange(n, dtype=old.dtype, device=old.device) + 0.5) / n
    b = torch.sin(steps * (math.pi / 2)).square()
    a = 1 - b
    powers = old.square().sum((-2, -1), keepdim=True) * new.square().sum((-2, -1), keepdim=True)
    r = (old * new).sum((-2, -1), keepdim=True) / powers.sqrt().clamp(min=1e-12)
    total = (a.square() + b.square() + 2 * a * b * r).clamp(min=_LEAST_POWER)
    return (a * old + b * new) / total.sqrt()


def with_parts(original: Tensor, new: Tensor, spans: Sequence[SampleSpan], seam: int) -> Tensor:
    """`original` (... c n), sample for sample, but for the spans, which are those of `new`.

    Args:
        spans: in order and apart from each other.
        seam: samples of the cross-fade at either end of a span, within it; less where the span is short.
            A span that begins or ends with the sound has none there.
    """
    joined, length = original.clone(), original.shape[-1]
    for first, behind in spans:
        inner = (first > 0) + (behind < length)
        fade = min(seam, (behind - first) // max(1, inner))
        joined[..., first:behind] = new[..., first:behind]
        if first > 0 and fade:
            part = slice(first, first + fade)
            joined[..., part] = crossfaded(original[..., part], new[..., part])
        if behind < length and fade:
            part = slice(behind - fade, behind)
            joined[..., part] = crossfaded(new[..., part], original[..., part])
    return joined
