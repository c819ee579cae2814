"""Process long inputs in overlapping chunks, cross-faded at the seams, so that memory stays constant."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK_ABOVE = 2048
"""Clips of more latent frames are encoded and decoded in overlapping chunks, unless another number is set."""


def chunk_starts(frames: int, chunk_size: int, hop: int) -> list[int]:
    """First frame of each chunk; the last chunk is aligned to the end, so all have `chunk_size` frames."""
    starts = list(range(0, frames - chunk_size + 1, hop))
    if starts[-1] != frames - chunk_size:
        starts.append(frames - chunk_size)
    return starts


def _check(chunk_size: int, overlap: int, crossfade: int) -> None:
    if chunk_size < 1 or not 0 <= overlap < chunk_size:
        raise ValueError(
            f"chunks need 0 <= overlap < chunk_size, found overlap={overlap}, chunk_size={chunk_size}"
        )
    if not 0 <= crossfade <= overlap:
        raise ValueError(f"crossfade must be between 0 and the overlap ({overlap}), found {crossfade}")


def in_chunks(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    chunk_size: int,
    overlap: int,
    in_per_frame: int,
    out_per_frame: int,
    crossfade: int | None = None,
) -> Tensor:
    """Apply `fn` to overlapping chunks of the last axis of `x` and concatenate the results.

    A frame is the unit of `chunk_size`, `overlap` and `crossfade`: `in_per_frame` elements of x,
    `out_per_frame` elements of the result. Each chunk drops half the overlap on its inner edges. Around
    a seam, `crossfade` frames are blended linearly (default: a quarter of the overlap, which keeps the
    blend away from chunk edges; 0 = a hard cut). Inputs of at most one chunk are processed at once.
    """
    crossfade = overlap // 4 if crossfade is None else crossfade
    _check(chunk_size, overlap, crossfade)
    frames = x.shape[-1] // in_per_frame
    if frames <= chunk_size:
        return fn(x)
    starts = chunk_starts(frames, chunk_size, chunk_size - overlap)
    trim = (overlap // 2) * out_per_frame
    half_fade = min(crossfade * out_per_frame // 2, trim)
    current, current_start = fn(x[..., : chunk_size * in_per_frame]), 0
    # Written in place: concatenating a list of parts would hold the output twice.
    length = starts[-1] * out_per_frame + current.shape[-1]
    out = current.new_empty(*current.shape[:-1], length)
    for start in starts[1:]:
        last = start == starts[-1]
        end = x.shape[-1] if last else (start + chunk_size) * in_per_frame
        piece, offset = fn(x[..., start * in_per_frame : end]), start * out_per_frame
        seam = offset + trim
        low, high = max(seam - half_fade, current_start), seam + half_fade
        out[..., current_start:low] = current[..., : low - current_start]
        if high > low:
            old = current[..., low - current_start : high - current_start]
            out[..., low:high] = _blend(old, piece[..., low - offset : high - offset])
        current, current_start = piece[..., high - offset :], high
    shortage = current_start + current.shape[-1] - length  # of an input that ends within a frame
    out = torch.nn.functional.pad(out, (0, shortage)) if shortage else out
    out[..., current_start:] = current
    return out


def _blend(old: Tensor, new: Tensor) -> Tensor:
    n = new.shape[-1]
    ramp = (torch.arange(n, device=new.device, dtype=torch.float32) + 0.5) / n
    return torch.lerp(old, new, ramp.to(new.dtype))
