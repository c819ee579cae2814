"""Lightning's counts of batches, in a checkpoint that is read and in a loop that has ended."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl


def begin_with_a_whole_step(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Take back what Lightning has counted of a step that an error has ended, and round its count of batches
    up to a multiple of `accumulate`, where it steps. Otherwise, if `accumulate` has changed, the first step
    would use the gradients of fewer batches."""
    loop = checkpoint["loops"]["fit_loop"]
    progress = loop["epoch_loop.batch_progress"]
    if progress["total"]["ready"] > progress["total"]["processed"]:
        _take_back(progress, loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"])
    batches = progress["current"]["processed"]
    if batches % accumulate:
        begin = -(-batches // accumulate) * accumulate
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, begin))


def _take_back(batches: dict[str, Any], optimizer: dict[str, Any]) -> None:
    """Count as begun what is done. Lightning does so for one of two counts, and then takes every later
    checkpoint that is written before the end of its batch for one without that batch."""
    for kind in ("total", "current"):
        counts, steps, cleared = batches[kind], optimizer["step"][kind], optimizer["zero_grad"][kind]
        counts["ready"] = counts["started"] = counts["processed"]
        steps["ready"] = steps["completed"]
        cleared.update(dict.fromkeys(cleared, steps["completed"]))


def end_last_batch(trainer: pl.Trainer) -> None:
    """Count the batch of the last step as done where its checkpoint was written before that. Lightning does
    so only where a step is left."""
    loop = trainer.fit_loop.epoch_loop
    loop.update_restart_stage()
    if loop.restarted_on_train_batch_end:
        loop.batch_progress.increment_completed()
        loop._batches_that_stepped += 1
