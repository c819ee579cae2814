"""Adds to the record of a run what is known once its data are read, and what its other processes tell."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl

from stable_audio.training.batches.feed import RunData
from stable_audio.training.errors import TrainingError
from stable_audio.training.processes.gathering import of_all
from stable_audio.training.record.changed_start import name_changed_clips
from stable_audio.training.record.run_record import RunRecord
from stable_audio.wording import plural

_DIFFERENT = {
    "clips": "not {:,} as",
    "names_sha256": "with other names than",
    "sizes_sha256": "of the same names but other sizes than",
}
"""Facts that the clips of all processes must have in common, and what those of another one are otherwise."""


class RecordData(pl.Callback):
    """Records the number of clips and digests of their names and sizes, by which a changed dataset shows, and
    sees that all processes have the same clips: each takes its own by their number in the list.

    With every checkpoint it takes over the incidents of further processes: a checkpoint is rare, and all of
    them have come to the same step.

    A million clips take about a second. Their sizes are those that were met where the clips were found, so
    that no file is looked at once more for them; one that was replaced by another of the same size is not
    seen.

    Args:
        record: of the run.
        data: the training data.
    """

    def __init__(self, record: RunRecord, data: RunData) -> None:
        self.record, self.data = record, data
        self._told = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.data.timed is None or not (self.record.enabled or trainer.world_size > 1):
            return
        dataset = self.data.timed.loader.dataset
        clips = self.data.clips()
        left_out = sum(dataset.ignored.values())
        facts = {
            "clips": clips.clips,
            "names_sha256": clips.hash,
            "sizes_sha256": self.data.sizes_digest(),
            "files_not_read": left_out,
        }
        if trainer.world_size > 1:
            refuse_other_clips(of_all((socket.gethostname(), facts)))
        if not self.record.enabled:
            return
        *earlier, start = self.record.content["starts"] or [{}]
        if start.get("resumed_from") and not self._told:
            name_changed_clips(earlier, facts)
        self._told = True  # a run that goes back to a checkpoint comes here again
        self.record.describe(data=facts)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.record.gather()


def refuse_other_clips(each: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuse processes with different clips.

    Args:
        each: (machine, facts) of all processes; the facts are "clips", "names_sha256", "sizes_sha256" and
            "files_not_read".

    Raises:
        TrainingError: one has other clips than the first.
    """
    (first, ours), *others = each
    for rank, (host, theirs) in enumerate(others, start=1):
        different = next((k for k in _DIFFERENT if theirs[k] != ours[k]), None)
        if different is not None:
            what = _DIFFERENT[different].format(ours["clips"])
            raise TrainingError(
                f"process {rank} of {len(each)} on {host} has {plural(theirs['clips'], 'clip', form=',')}, "
                f"{what} process 0 on {first} (files that could not be read: {theirs['files_not_read']} and "
                f"{ours['files_not_read']}): let all machines see the same data"
            )
