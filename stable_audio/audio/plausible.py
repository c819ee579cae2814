"""Refuse sound files whose samples cannot be sound."""

from __future__ import annotations

import numpy as np

from stable_audio.audio.errors import AudioError

LOUDEST = 100.0
"""Largest size of a sample, 40 dB above full scale: mixes of float files exceed 1, damage has no limit, and
samples that were written as integers of 16 or more bits are far above."""


def refuse_values(samples: np.ndarray, path: str) -> None:
    """Check the samples that were read from a file.

    Raises:
        AudioError: some are not numbers, or far beyond full scale.
    """
    if not samples.size:
        return
    peak = max(float(samples.max()), -float(samples.min()))  # NaN if a value is
    if peak <= LOUDEST:
        return
    if not np.isfinite(samples).all():
        raise AudioError(path, "holds values that are not numbers")
    raise AudioError(
        path,
        f"damaged: it holds values up to {peak:.3g}, where full scale is 1 and at most {LOUDEST:g} is read; "
        "write it again, scaled to full scale",
    )
