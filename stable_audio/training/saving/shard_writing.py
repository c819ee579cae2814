"""Write a checkpoint in parts, together with the other processes of a run, while they train."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from stable_audio.checkpoints.shards import EARLIER, Shards, write_list
from stable_audio.checkpoints.summed_files import SummedFiles
from stable_audio.stored.shards_folder import REST
from stable_audio.training.processes.gathering import of_all

log = logging.getLogger(__name__)


class ShardWriting:
    """The processes that write a checkpoint together.

    They have a group of their own on the host, so that messages about files do not mix with those of
    training, which goes on meanwhile. Every process of the run must make one at the same time.
    """

    def __init__(self) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.group = torch.distributed.new_group(backend="gloo") if distributed else None
        self.rank = torch.distributed.get_rank() if distributed else 0

    def write(self, folder: Path, parts: Shards) -> None:
        """Write beside `folder` and rename, once the parts of all processes are on disk.

        Raises:
            OSError: on every process, if one of them failed; nothing has been replaced then.
        """
        temporary = folder.with_name(f".{folder.stem}.partial{folder.suffix}")
        try:
            self._all(lambda: self._begin(temporary))
            written = SummedFiles()
            self._save(temporary, parts, written)
            files = self._all(lambda: self._verified(temporary, parts, written))
            self._all(lambda: self._finish(temporary, folder, files))
        except OSError:
            if self.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def any(self, work: Callable[[], bool]) -> bool:
        """Whether `work`, which every process must call, returns True on one of them.

        Raises:
            OSError: on every process, if it failed on one of them.
        """
        return any(self._all(work))

    def _begin(self, temporary: Path) -> None:
        if self.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

    def _save(self, temporary: Path, parts: Shards, files: SummedFiles) -> None:
        from torch.distributed.checkpoint import FileSystemWriter, save

        writer = FileSystemWriter(str(temporary), thread_count=1)
        writer.fs = files
        try:
            with _without_hints():
                save(dict(parts.tensors), storage_writer=writer, process_group=self.group)
        except CheckpointException as error:
            rank, (cause, _) = next(iter(error.failures.items()))
            raise OSError(getattr(cause, "errno", None), f"process {rank}: {cause}") from error

    def _verified(self, temporary: Path, parts: Shards, files: SummedFiles) -> dict[str, tuple[int, str]]:
        """The files of this process, with size and checksum; the first one writes what is no tensor."""
        if self.rank == 0:
            with files.create_stream(temporary / REST, "wb") as stream:
                torch.save(parts.rest, stream)  # type: ignore[arg-type]
        return files.verified(temporary)

    def _finish(self, temporary: Path, folder: Path, files: list[dict[str, tuple[int, str]]]) -> None:
        if self.rank:
            return
        write_list(temporary, {name: facts for part in files for name, facts in part.items()})
        for path in temporary.iterdir():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        # Whoever is killed between the two renames finds the folder under this name.
        earlier = folder.with_name(f".{folder.stem}{EARLIER}")
        shutil.rmtree(earlier, ignore_errors=True)
        if folder.exists():
            os.replace(folder, earlier)
        os.replace(temporary, folder)
        shutil.rmtree(earlier, ignore_errors=True)

    def _all(self, work: Callable[[], Any]) -> list[Any]:
        """What `work` returns on each process.

        Raises:
            OSError: it failed on one of them.
        """
        result, failure = None, None
        try:
            result = work()
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            failure = (getattr(error, "errno", None), str(error))
        outcomes: list[Any] = [(result, failure)]
        if self.group is not None:
            outcomes = of_all((result, failure), self.group)
        for rank, (_, failed) in enumerate(outcomes):
            if failed is not None:
                raise OSError(failed[0], f"process {rank}: {failed[1]}")
        return [value for value, _ in outcomes]


@contextmanager
def _without_hints() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="torch.distributed is (disabled, )?unavailable or uninitialized"
        )
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
        yield
