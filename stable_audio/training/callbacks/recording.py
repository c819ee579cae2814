"""Adds to the record of a run what is known once its data are read."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from stable_audio.training.changed_start import name_changed_clips
from stable_audio.training.feed import RunData
from stable_audio.training.run_record import RunRecord

MOST_NAMED = 300_000
"""Clips whose names are digested; more would take seconds at every start."""


class RecordData(pl.Callback):
    """Records the number of clips and a digest of their names, by which a changed dataset shows.

    Args:
        record: of the run.
        data: the training data.
    """

    def __init__(self, record: RunRecord, data: RunData) -> None:
        self.record, self.data = record, data
        self._told = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not self.record.enabled or self.data.timed is None:
            return
        dataset = self.data.timed.loader.dataset
        digest = self.data.clips().hash if len(dataset) <= MOST_NAMED else None
        left_out = sum(dataset.ignored.values())
        facts = {"clips": len(dataset), "names_sha256": digest, "files_not_read": left_out}
        *earlier, start = self.record.content["starts"] or [{}]
        if start.get("resumed_from") and not self._told:
            name_changed_clips(earlier, facts)
        self._told = True  # a run that goes back to a checkpoint comes here again
        self.record.describe(data=facts)
