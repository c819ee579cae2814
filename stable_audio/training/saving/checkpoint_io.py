"""Write Lightning's checkpoints completely or not at all, and read them without running code from them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from stable_audio.audio.atomic import atomic_write
from stable_audio.checkpoints.checksums import save_torch_file, verify_torch_file
from stable_audio.checkpoints.shards import read_shards
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.incidents import incident
from stable_audio.stored.shards_folder import is_shards
from stable_audio.training.saving.folder import make_way
from stable_audio.training.saving.room import is_full
from stable_audio.training.saving.write_failure import write_failure
from stable_audio.training.saving.writer import BackgroundWriter

log = logging.getLogger(__name__)


class AtomicCheckpointIO(CheckpointIO):
    """Writes to a temporary file, reads it back, and renames it, while training continues.

    A full disk is recorded in `failure` and not raised, since the other processes wait for this one.

    Attributes:
        failure: why the last write failed, or None.
        make_room: removes checkpoints that the run can do without, and returns whether there were any; a
            write that finds the disk full is tried once more after it.

    Args:
        writer: writes the files of a run one after the other.
    """

    def __init__(self, writer: BackgroundWriter | None = None) -> None:
        self.writer = writer if writer is not None else BackgroundWriter()
        self.failure: str | None = None
        self.make_room: Callable[[], bool] = lambda: False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.writer.write(checkpoint, partial(self._write, path))

    def _write(self, path: Any, checkpoint: dict[str, Any]) -> None:
        self.failure = None
        try:
            self.with_room(partial(_write_file, Path(path), checkpoint), Path(path).parent, checkpoint)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            self.fail(Path(path), error, checkpoint)

    def with_room(
        self,
        write: Callable[[], None],
        folder: Path,
        content: Any,
        *,
        agreed: Callable[[Callable[[], bool]], bool] = lambda makes_room: makes_room(),
    ) -> None:
        """Call `write`, and once more where the disk is full and has checkpoints that the run can do without.

        Args:
            folder: where it writes.
            content: nested values, whose tensors are written.
            agreed: calls what makes room where that is to be done, and returns the outcome; of processes that
                write together, for all of them.

        Raises:
            OSError, RuntimeError: of `write`.
        """
        try:
            write()
        except (OSError, RuntimeError) as error:
            failure = error
            if not agreed(lambda: is_full(failure, folder, tensor_bytes(content)) and self.make_room()):
                raise
            write()

    def refuse(self, reason: str, *, step: int) -> None:
        """Record and log that no checkpoint is written, since its content is good for nothing."""
        self._not_written(f"the checkpoint of step {step} was not written ({reason})", step=step)

    def fail(
        self,
        path: Path,
        error: BaseException,
        content: Any,
        *,
        what: str = "the checkpoint was",
        **details: Any,
    ) -> None:
        """Record and log that something was not written.

        Args:
            path: what should have been written there.
            error: the reason.
            content: nested values, whose tensors should have been written.
            what: the same in words, for "... not written".
            details: plain values for the record of the run, such as the step.
        """
        reason = write_failure(error, path.parent, size=tensor_bytes(content))
        self._not_written(f"{path}: {what} not written ({reason})", **details)

    def _not_written(self, failure: str, **details: Any) -> None:
        self.failure = failure
        log.error(
            "%s; earlier checkpoints are intact and training continues",
            failure,
            extra=incident("checkpoint not written", **details),
        )

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if is_shards(Path(path)):
            return read_shards(Path(path), verify=False)
        # Its checksums were verified when it was chosen to resume from, in every process.
        return load_torch_file(Path(path), verify=False)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)

    def teardown(self) -> None:
        """Lightning's last call, also after an error, which that of a file must not replace: the run asks for
        the latter once more."""
        self.writer.settle()


def _write_file(path: Path, checkpoint: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        save_torch_file(checkpoint, temporary)
        verify_torch_file(checkpoint, temporary)
        make_way(path)


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in nested values."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return sum(tensor_bytes(v) for v in items)
