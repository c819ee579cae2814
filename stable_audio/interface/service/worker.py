"""The process of a device: loads models and renders batches, until the service ends."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from stable_audio import __version__
from stable_audio.audio.errors import disk_is_full
from stable_audio.inference.memory.errors import free_memory_of
from stable_audio.inference.rendering.batches import BatchOptions, sound_batches
from stable_audio.inference.rendering.render import OutputFiles, Rendered, write_clip
from stable_audio.interface.service.errors import NO_ROOM
from stable_audio.interface.service.files import ResultFiles
from stable_audio.interface.service.loaded import LoadedModel, LoadedModels
from stable_audio.interface.service.memory import memory_in_use
from stable_audio.interface.service.messages import (
    BatchDone,
    BatchSampled,
    BatchStep,
    CancelBatch,
    ClipDone,
    ClipFailed,
    RenderBatch,
    RenderItem,
    StopWorker,
    WorkerReady,
)
from stable_audio.interface.service.prepare import PreparedJob, ServedAdapter, prepared
from stable_audio.interface.service.settings import ModelSource, WorkerOptions
from stable_audio.interface.service.sounds import RequestSounds

log = logging.getLogger(__name__)

_WRITERS = 8
"""Files written at once: disks flush several in the time of one."""

_STEP_SECONDS = 0.05
"""Steps are reported at most this often."""


class _Stopped(Exception):
    """A batch was cancelled."""


@dataclass(frozen=True)
class WorkerTask:
    """What a process is started with.

    Attributes:
        models: the models to load.
        adapters: those that requests can name.
        options: how it renders.
        results: folder of results.
        threads: of torch; 0 = as many as it takes.
        level: of the log.
    """

    models: Sequence[ModelSource]
    adapters: Mapping[str, ServedAdapter]
    options: WorkerOptions
    results: Path
    threads: int = 0
    level: int = logging.INFO


def run_worker(task: WorkerTask, connection: Connection) -> None:
    """Serve batches from `connection` until it is closed or asks to stop."""
    # Ctrl-C and SIGTERM of a whole group of processes are for the service, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=task.level, format=f"%(levelname)s {task.options.device}: %(message)s")
    if task.threads:
        torch.set_num_threads(task.threads)
    if task.options.device.startswith("cuda"):
        torch.set_float32_matmul_precision(task.options.matmul_precision)
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        _BatchWorker(task, connection).run()


class _BatchWorker:
    def __init__(self, task: WorkerTask, connection: Connection) -> None:
        self._task, self._connection = task, connection
        self._files = ResultFiles(task.results)
        self._models = LoadedModels(task.models, task.adapters, task.options)
        self._waiting: queue.Queue[RenderBatch | None] = queue.Queue()
        self._cancelled: set[int] = set()
        self._told = 0.0
        self._fits: dict[tuple[str, int], int] = {}
        self._writers = ThreadPoolExecutor(_WRITERS, "writer")
        self._closer = ThreadPoolExecutor(1, "closer")
        self._writing: Sequence[Future[None]] = ()
        self._sending = threading.Lock()

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        for report in self._models.load_all():
            self._send(report)
        self._send(WorkerReady())
        while (batch := self._waiting.get()) is not None:
            self._serve(batch)
        self._writers.shutdown()
        self._closer.shutdown()

    def _send(self, message: Any) -> None:
        with self._sending:
            self._connection.send(message)

    def _listen(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                # The service is gone: nobody waits for what is being rendered.
                os._exit(0)
            if isinstance(message, CancelBatch):
                self._cancelled.add(message.number)
            else:
                self._waiting.put(None if isinstance(message, StopWorker) else message)

    def _serve(self, batch: RenderBatch) -> None:
        try:
            model, took = self._models.get(batch.model)
        except Exception as error:
            free_memory_of(error)
            self._fail(batch, [item.id for item in batch.items], error)
            self._send(BatchSampled(batch.number, {}))
            self._send(BatchDone(batch.number))
            return
        clips: dict[str, PreparedJob] = {}
        for item in batch.items:
            try:
                clips[item.id] = self._prepared(model, item)
            except Exception as error:
                self._fail(batch, [item.id], error)
        writing: dict[str, Future[None]] = {}
        try:
            self._render(batch, model, clips, writing)
        finally:
            self._cancelled.discard(batch.number)
            memory = memory_in_use(model.model.model.device)
            self._send(BatchSampled(batch.number, memory, took))
            # While a batch is rendered, the files of one are written, and no more: sounds take memory.
            wait(self._writing)
            self._writing = [*writing.values()]
            self._closer.submit(self._close, batch.number, self._writing)

    def _close(self, number: int, writing: Sequence[Future[None]]) -> None:
        wait(writing)
        shutil.rmtree(self._files.scratch(number), ignore_errors=True)
        self._send(BatchDone(number))

    def _prepared(self, model: LoadedModel, item: RenderItem) -> PreparedJob:
        sounds = RequestSounds(item.sounds.__getitem__)
        adapters = {name: a for name, a in self._task.adapters.items() if name in model.adapters}
        chunked = self._task.options.chunked_decode
        return prepared(model.model, item.line, sounds, adapters, chunked_decode=chunked)

    def _render(
        self,
        batch: RenderBatch,
        model: LoadedModel,
        clips: Mapping[str, PreparedJob],
        writing: dict[str, Future[None]],
    ) -> None:
        """Render clips together; each by itself if together they fail."""
        if not clips:
            return
        try:
            self._render_together(batch, model, clips, writing)
        except _Stopped:
            return
        except Exception as error:
            free_memory_of(error)
            left = {id: clip for id, clip in clips.items() if id not in writing}
            if len(clips) == 1 or not left:
                self._fail(batch, [*left], error)
                return
            log.warning("a batch of %d failed (%s): its clips are rendered one by one", len(clips), error)
            for id, clip in left.items():
                self._render(batch, model, {id: clip}, writing)

    def _render_together(
        self,
        batch: RenderBatch,
        model: LoadedModel,
        clips: Mapping[str, PreparedJob],
        writing: dict[str, Future[None]],
    ) -> None:
        device = model.model.model.device
        length = (batch.model, max(clip.recipe.sample_size for clip in clips.values()))
        size = min(len(clips), self._fits.get(length, len(clips)))
        options = BatchOptions(
            size=size,
            chunked_decode=self._task.options.chunked_decode,
            progress=lambda step, steps: self._step(batch.number, step, steps),
        )
        software = {"stable_audio": __version__, "torch": torch.__version__, "device": str(device)}
        output = OutputFiles(self._files.scratch(batch.number), subtype="float", software=software)
        pending = [(id, clip.job, clip.recipe) for id, clip in clips.items()]
        with closing(sound_batches(model.adapted, device, pending, options)) as batches:
            for number, sounds in enumerate(batches):
                if number == 0 and len(sounds.clips) < size:
                    self._fits[length] = len(sounds.clips)  # memory ran out with more
                factor = sum(recipe.seconds for _, _, recipe in sounds.clips) / sounds.took
                figures = {"took": sounds.took / len(sounds.clips), "factor": factor}
                for (id, _, recipe), sound in zip(sounds.clips, sounds.audio):
                    write = functools.partial(
                        write_clip, model.model.model, id, recipe, sound, output, **figures
                    )
                    writing[id] = self._writers.submit(self._write, batch, id, write, len(sounds.clips))

    def _write(self, batch: RenderBatch, id: str, write: Callable[[], Rendered], together: int) -> None:
        """Write a sound, and report it once it is in its place."""
        try:
            clip = write()
            self._files.adopt(clip.path, id)
            self._send(ClipDone(batch.number, id, {**self._files.figures(id), "batch": together}))
        except Exception as error:
            self._fail(batch, [id], error)

    def _step(self, number: int, step: int, steps: int) -> None:
        if number in self._cancelled:
            raise _Stopped
        now = time.monotonic()
        if now - self._told >= _STEP_SECONDS or step == steps:
            self._told = now
            self._send(BatchStep(number, step, steps))

    def _fail(self, batch: RenderBatch, ids: Sequence[str], error: Exception) -> None:
        expected = isinstance(error, (ValueError, OSError, torch.OutOfMemoryError, OverflowError))
        if not expected:
            log.error("a clip failed", exc_info=error)
        reason = str(error) if expected else f"the program failed ({type(error).__name__}): see its log"
        reason = reason.replace(f"{self._task.results.parent}/", "")  # where it lies is not for clients
        status = 422 if isinstance(error, ValueError) else 500
        if isinstance(error, torch.OutOfMemoryError):
            status = 503
        if disk_is_full(error):
            reason, status = NO_ROOM, 503
        for id in ids:
            self._send(ClipFailed(batch.number, id, reason, status))
