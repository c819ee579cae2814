"""Lightning's counts of batches, in a checkpoint that is read and in a loop that has ended."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl


def begin_with_a_whole_step(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Round Lightning's count of batches up to a multiple of `accumulate`, where it steps. Otherwise, if
    `accumulate` has changed, the first step would use the gradients of fewer batches."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    batches = progress["current"]["processed"]
    if batches % accumulate:
        begin = -(-batches // accumulate) * accumulate
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, begin))


def end_last_batch(trainer: pl.Trainer) -> None:
    """Count the batch of the last step as done where its checkpoint was written before that. Lightning does
    so only where a step is left."""
    loop = trainer.fit_loop.epoch_loop
    loop.update_restart_stage()
    if loop.restarted_on_train_batch_end:
        loop.batch_progress.increment_completed()
        loop._batches_that_stepped += 1
