"""Lightning's counts of batches."""

from __future__ import annotations

from typing import Any


def begin_with_a_whole_step(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Round Lightning's count of batches up to a multiple of `accumulate`, where it steps. Otherwise, if
    `accumulate` has changed, the first step would use the gradients of fewer batches."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    batches = progress["current"]["processed"]
    if batches % accumulate:
        begin = -(-batches // accumulate) * accumulate
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, begin))
