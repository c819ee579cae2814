"""Write large files while training continues, from a copy in host memory."""

from __future__ import annotations

import copy
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stable_audio.incidents import incident
from stable_audio.optim.split import is_split, like_split

log = logging.getLogger(__name__)


class HostCopies:
    """Copies nested values, with their tensors in host memory.

    Each storage is copied once, so that copies of tensors which share memory share it, too, even over several
    calls: files are then as large as those of the originals. The originals live as long as this object.
    """

    def __init__(self) -> None:
        self._storages: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __call__(self, value: Any) -> Any:
        """Copy tensors, dictionaries, lists, tuples and plain values, in any nesting."""
        if isinstance(value, Tensor):
            return self._tensor(value.detach())
        if isinstance(value, dict):
            copied = copy.copy(value)  # the same kind, attributes included
            copied.update({k: self(v) for k, v in value.items()})
            return copied
        if isinstance(value, (list, tuple)):
            items = [self(v) for v in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        return copy.deepcopy(value)

    def _tensor(self, tensor: Tensor) -> Tensor:
        if is_split(tensor):
            return like_split(tensor, self._tensor(tensor.to_local().detach()))
        plain = type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_quantized
        if not plain or tensor.is_conj() or tensor.is_neg():
            return tensor.to("cpu", copy=True)
        source = tensor.untyped_storage()
        if source._cdata not in self._storages:
            self._storages[source._cdata] = (source, _in_host_memory(source))
        storage = self._storages[source._cdata][1]
        like = torch.empty(0, dtype=tensor.dtype)
        return like.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())


PASSAGE_BYTES = 64 * 2**20


def _in_host_memory(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    if storage.device.type == "cpu":
        return storage.clone()
    if storage.device.type != "cuda" or storage.nbytes() < PASSAGE_BYTES // 64:
        return storage.cpu()
    return in_parts(storage, torch.empty(PASSAGE_BYTES, dtype=torch.uint8, pin_memory=True))


def in_parts(storage: torch.UntypedStorage, passage: Tensor) -> torch.UntypedStorage:
    """Copy a storage into ordinary host memory, part by part through `passage`, page-locked bytes.

    On an H100, 6 GB take 0.5 s in this way, and 5 s without it, since the driver then copies small pieces.
    Page-locked copies would take 3.6 s the first time, and stay locked.
    """
    source = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    copied = torch.empty(storage.nbytes(), dtype=torch.uint8)
    for part, place in zip(source.split(len(passage)), copied.split(len(passage))):
        place.copy_(passage[: len(part)].copy_(part))
    return copied.untyped_storage()


class BackgroundWriter:
    """Runs writing jobs in the order of their submission, in a thread of its own.

    There is one set of copies at a time: the next group waits until the last one is on disk. A process must
    call `wait` before it ends, or lose files that are not written yet.

    Args:
        background: False runs each job at once, on the originals.
    """

    def __init__(self, *, background: bool = True) -> None:
        self.background = background
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._copies: HostCopies | None = None

    @contextmanager
    def group(self) -> Iterator[None]:
        """Context for values that are written together: memory that they share is copied once."""
        self.wait()
        self._copies = HostCopies()
        try:
            yield
        finally:
            self._copies = None

    def write(self, value: Any, job: Callable[[Any], None]) -> None:
        """Call `job` with a copy of `value` in the background, or at once with `value` if there is no memory
        for a copy.

        Raises:
            errors of an earlier job, and of this one if it runs at once.
        """
        if self._copies is None:
            with self.group():
                self.write(value, job)
            return
        if self.background:
            try:
                copied = self._copies(value)
            except (MemoryError, RuntimeError) as error:  # torch's name for it is RuntimeError
                log.warning(
                    "no memory to write in the background (%s): training waits for the disk",
                    error,
                    extra=incident("no memory for a copy"),
                )
            else:
                self._submit(partial(job, copied))
                return
        self.wait()
        job(value)

    def wait(self) -> None:
        """Return when everything is on disk.

        Raises:
            errors of a job.
        """
        self.settle()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def settle(self) -> None:
        """Return when everything is on disk or has failed; `wait` raises the errors."""
        self._jobs.join()

    def _submit(self, job: Callable[[], None]) -> None:
        if self._thread is None:  # not earlier, since threads do not survive a fork
            self._thread = threading.Thread(target=self._run, name="checkpoint writer", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except BaseException as error:  # handed to the thread that waits
                self._error = self._error or error
            finally:
                del job  # and the copies with it
                self._jobs.task_done()
