"""The service's end of a process that renders."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from stable_audio.interface.service.messages import CancelBatch, RenderBatch, StopWorker
from stable_audio.interface.service.worker import WorkerTask, run_worker

log = logging.getLogger(__name__)


class RenderProcess:
    """A process that renders batches, one after the other.

    Args:
        task: what it is started with.
        receive: called in the event loop with each of its messages.
        lost: called in the event loop with the reason when it has ended without being asked to.

    Attributes:
        device: where it renders.
        batch: the batch that it is at work on.
        ready: whether it has tried all models.
    """

    def __init__(
        self, task: WorkerTask, receive: Callable[[RenderProcess, Any], None], lost: Callable[..., None]
    ) -> None:
        self._task, self._receive, self._lost = task, receive, lost
        self.device = task.options.device
        self.batch: RenderBatch | None = None
        self.ready = False
        self._stopping = False
        self._process: Any = None
        self._connection: Connection | None = None

    @property
    def pid(self) -> int | None:
        """Number of the process."""
        return None if self._process is None else self._process.pid

    @property
    def idle(self) -> bool:
        """Whether it can begin a batch."""
        return self.ready and self.batch is None and not self._stopping

    def start(self) -> None:
        """Start it; must be called in the event loop."""
        loop = asyncio.get_running_loop()
        context = multiprocessing.get_context("spawn")  # a GPU does not survive a fork
        ours, theirs = context.Pipe()
        process = context.Process(target=run_worker, args=(self._task, theirs), daemon=True)
        process.start()
        theirs.close()
        self._process, self._connection, self.ready = process, ours, False
        threading.Thread(target=self._listen, args=(loop, process, ours), daemon=True).start()

    def render(self, batch: RenderBatch) -> None:
        """Begin a batch."""
        self.batch = batch
        self._send(batch)

    def cancel(self) -> None:
        """Stop the batch at its next step."""
        if self.batch is not None:
            self._send(CancelBatch(self.batch.number))

    def kill(self) -> None:
        """End it at once; `lost` is called."""
        if self._process is not None:
            self._process.kill()

    def stop(self, seconds: float = 5.0) -> None:
        """End it, after what it is at work on; blocks for `seconds` at most."""
        self._stopping = True
        self._send(StopWorker())
        if self._process is None:
            return
        self._process.join(seconds if self.batch is None else 0.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self, message: Any) -> None:
        # A process that has just died is noticed by the thread that listens.
        with contextlib.suppress(OSError, ValueError):
            if self._connection is not None:
                self._connection.send(message)

    def _listen(self, loop: asyncio.AbstractEventLoop, process: Any, connection: Connection) -> None:
        def tell(function: Callable[..., None], *args: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(function, self, *args)

        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                break
            tell(self._receive, message)
        process.join()
        connection.close()
        if not self._stopping:
            tell(self._lost, ending(process.exitcode))


def ending(exit_code: int | None) -> str:
    """How a process ended, as the end of a sentence."""
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-exit_code).name
            memory = "; often because memory ran out" if name == "SIGKILL" else ""
            return f"was ended by {name}{memory}"
    return f"ended with exit status {exit_code}"
