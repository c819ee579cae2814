"""Parts of a sound in seconds, and the samples that they touch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Region = tuple[float, float]
"""(start, end) in seconds, start < end."""

SampleSpan = tuple[int, int]
"""(first, behind the last) in samples or frames, first < second."""

_SAME = 1e-6
"""Positions this close to a whole sample are that sample: 0.1 s at 44.1 kHz are 4410 samples, not 4411."""


def parse_regions(text: str) -> list[Region]:
    """The regions of a text such as "5:10,12:13"; an end left out ("5:") is the end of the sound.

    Raises:
        ValueError: not such a text, or a region that is empty or begins before 0.
    """
    regions = []
    for part in text.split(","):
        start, mark, end = part.partition(":")
        try:
            regions.append((float(start), float(end) if end.strip() else math.inf))
        except ValueError:
            mark = ""
        if not mark:
            raise ValueError(
                f"'{text}': found '{part}', but a region is START:END in seconds, as in 5:10,12:13"
            )
    check_regions(regions)
    return regions


def check_regions(regions: Iterable[Region]) -> None:
    """Raise ValueError, naming it, if a region is empty, begins before 0, or is not of numbers."""
    for start, end in regions:
        if not (math.isfinite(start) and 0 <= start < end):
            raise ValueError(f"a region needs 0 <= START < END in seconds, found {start:g}:{end:g}")


def spans_of(regions: Iterable[Region], sample_rate: int, length: int) -> list[SampleSpan]:
    """The samples that regions touch, in order, where overlapping and adjacent ones are one span.

    Args:
        length: samples of the sound, where regions are cut.
    """
    spans = []
    for start, end in regions:
        first = max(0, _floor(start * sample_rate))
        behind = length if math.isinf(end) else min(length, _ceil(end * sample_rate))
        if first < behind:
            spans.append((first, behind))
    return merged(spans)


def merged(spans: Iterable[SampleSpan]) -> list[SampleSpan]:
    """Spans in order, where overlapping and adjacent ones are one."""
    joined: list[SampleSpan] = []
    for first, behind in sorted(spans):
        if joined and first <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], behind)
        else:
            joined.append((first, behind))
    return joined


def kept_mask(spans: Sequence[SampleSpan], length: int) -> Tensor:
    """(length,) float: 0 within the spans, 1 elsewhere."""
    mask = torch.ones(length)
    for first, behind in spans:
        mask[first:behind] = 0
    return mask


def _floor(samples: float) -> int:
    nearest = round(samples)
    return nearest if abs(samples - nearest) < _SAME else math.floor(samples)


def _ceil(samples: float) -> int:
    nearest = round(samples)
    return nearest if abs(samples - nearest) < _SAME else math.ceil(samples)
