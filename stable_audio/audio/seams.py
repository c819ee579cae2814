"""Join sounds without a click: cross-fades that keep the level, whatever the phases are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stable_audio.audio.regions import SampleSpan

SEAM_SECONDS = 0.08
"""Greatest length of a cross-fade."""

_SHORTEST = 0.25
"""Share of the greatest length that sounds take which differ."""

_DIFFERENT, _ALIKE = 0.5, 0.9
"""Cosine of the angle between two magnitude spectra, of sounds that differ and of one sound."""

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


def fade_length(old: Tensor, new: Tensor) -> int:
    """Samples of a cross-fade from `old` to `new`, both (c n), at most n.

    One held sound, such as a note and its continuation, fades slowly, for its partials may have other phases;
    two sounds, such as a note and the onset of another one, fade in a quarter of that.
    """
    n = old.shape[-1]
    window = torch.hann_window(n, periodic=False, dtype=old.dtype, device=old.device)
    a, b = (torch.fft.rfft(sound * window).abs().flatten() for sound in (old, new))
    cosine = float(a @ b / (a.norm() * b.norm()).clamp(min=1e-12))
    share = min(1.0, max(0.0, (cosine - _DIFFERENT) / (_ALIKE - _DIFFERENT)))
    return math.ceil(n * (_SHORTEST + (1 - _SHORTEST) * share))


def with_parts(original: Tensor, new: Tensor, spans: Sequence[SampleSpan], seam: int) -> Tensor:
    """`original` (c n), sample for sample, but for the spans, which are those of `new`.

    Args:
        spans: in order and apart from each other.
        seam: greatest length in samples of the cross-fade at either end of a span, within it; less where the
            span is short. A span that begins or ends with the sound has none there.
    """
    joined, length = original.clone(), original.shape[-1]
    for first, behind in spans:
        inner = (first > 0) + (behind < length)
        longest = min(seam, (behind - first) // max(1, inner))
        joined[..., first:behind] = new[..., first:behind]
        if first > 0 and longest:
            part = slice(first, first + longest)
            part = slice(first, first + fade_length(original[..., part], new[..., part]))
            joined[..., part] = crossfaded(original[..., part], new[..., part])
        if behind < length and longest:
            part = slice(behind - longest, behind)
            part = slice(behind - fade_length(new[..., part], original[..., part]), behind)
            joined[..., part] = crossfaded(new[..., part], original[..., part])
    return joined
