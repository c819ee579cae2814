"""One run at a time in a folder: two would overwrite each other's checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

from stable_audio.folder_lock import FolderInUseError, FolderLock
from stable_audio.training.errors import TrainingError

NAME = ".run.lock"
"""Name of the locked file in the folder of a run."""


class RunLock(FolderLock):
    """Keeps other processes from running in a folder.

    Args:
        folder: folder of the run.

    Raises:
        TrainingError: another process runs there.
    """

    def __init__(self, folder: Path) -> None:
        hint = "wait for its end, end it, or choose another --name"
        if os.environ.get("SLURM_ARRAY_TASK_ID"):
            hint += "; tasks of a job array need one each, such as --name run-$SLURM_ARRAY_TASK_ID"
        try:
            super().__init__(folder, NAME, user="run", hint=hint)
        except FolderInUseError as error:
            raise TrainingError(str(error)) from error
