"""Copies of weights in host memory, made while the device computes, and work on them in a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

Work = Callable[[Mapping[str, Tensor]], None]


class HostStaging:
    """Copies tensors of a device to the host on a stream of its own, and hands the copies to a thread.

    The device goes on computing meanwhile; only what is about to write the tensors must wait for the copies
    (`hold`). There is one set of copies, in page-locked memory where the tensors are on a GPU, so that the
    next `submit` waits until the thread is done with the last one.
    """

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}
        self._sources: Mapping[str, Tensor] = {}
        self._copied: torch.cuda.Event | None = None
        self._stream: torch.cuda.Stream | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._work: Future[None] | None = None

    def submit(self, tensors: Mapping[str, Tensor], work: Work) -> None:
        """Start to copy `tensors` and return; a thread calls `work` with the copies once they are there.

        Raises:
            errors of the work before.
        """
        self.settle()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="host staging")
        self._sources = tensors  # until they are copied: what is let go of may be written anew
        copied = self._copied = self._copy(tensors)
        copies = {key: self._copies[key] for key in tensors}
        self._work = self._threads.submit(_after, copied, work, copies)

    def hold(self) -> None:
        """Let what the device computes next wait until the copies are made; the host does not wait."""
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)

    def settle(self) -> None:
        """Wait until the thread is done with what was submitted.

        Raises:
            errors of that work.
        """
        submitted, self._work = self._work, None
        if submitted is not None:
            submitted.result()
            self._sources = {}

    def _copy(self, tensors: Mapping[str, Tensor]) -> torch.cuda.Event | None:
        for key, tensor in tensors.items():
            if key not in self._copies:
                pinned = tensor.device.type == "cuda"
                self._copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        on_gpu = next((t.device for t in tensors.values() if t.device.type == "cuda"), None)
        if on_gpu is None:
            self._fill(tensors)
            return None
        if self._stream is None:
            self._stream = torch.cuda.Stream(on_gpu)
        self._stream.wait_stream(torch.cuda.current_stream(on_gpu))  # after the step that wrote them
        with torch.cuda.stream(self._stream):
            self._fill(tensors)
            copied = torch.cuda.Event()
            copied.record(self._stream)
        return copied

    def _fill(self, tensors: Mapping[str, Tensor]) -> None:
        for key, tensor in tensors.items():
            self._copies[key].copy_(tensor, non_blocking=True)


@torch.no_grad()
def _after(copied: torch.cuda.Event | None, work: Work, copies: Mapping[str, Tensor]) -> None:
    if copied is not None:
        copied.synchronize()
    work(copies)
