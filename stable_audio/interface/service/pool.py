"""The processes that render, and what each of them is at work on."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from stable_audio.interface.service.active import ActiveJob
from stable_audio.interface.service.messages import (
    BatchDone,
    BatchSampled,
    BatchStep,
    ClipDone,
    ClipFailed,
    ModelLoaded,
    ModelUnusable,
    RenderBatch,
    WorkerReady,
)
from stable_audio.interface.service.prepare import ServedAdapter
from stable_audio.interface.service.process import RenderProcess
from stable_audio.interface.service.settings import ServiceSettings
from stable_audio.interface.service.waiting import WaitingJobs
from stable_audio.interface.service.worker import WorkerTask

log = logging.getLogger(__name__)

STOPS_WITHIN = 30.0
"""Seconds after which a process is ended whose batch was cancelled and goes on."""

_LONGEST_PAUSE = 60.0
"""Between two starts of a process that dies again and again."""

_BATCH_ON_GPU, _BATCH_ON_CPU = 16, 4


class PoolEvents(Protocol):
    """What a pool reports, in the event loop."""

    def model_loaded(self, report: ModelLoaded) -> None: ...
    def model_unusable(self, report: ModelUnusable) -> None: ...
    def began(self, jobs: Sequence[ActiveJob]) -> None: ...
    def stepped(self, job: ActiveJob, step: int, steps: int) -> None: ...
    def rendered(self, job: ActiveJob, result: Mapping[str, Any]) -> None: ...
    def refused(self, job: ActiveJob, reason: str, status: int) -> None: ...
    def orphaned(self, job: ActiveJob, reason: str) -> None: ...
    def batch_ended(self, device: str, count: int, seconds: float, memory: Mapping[str, int]) -> None: ...
    def restarted(self, device: str) -> None: ...


@dataclass
class _Work:
    """A batch, until the files of its clips are in place."""

    process: RenderProcess
    jobs: Sequence[ActiveJob]
    started: float


class RenderPool:
    """One process for each device. All methods are called in the event loop.

    Args:
        settings: of the service.
        adapters: those that requests can name.
        results: folder of results.
        waiting: the queue.
        job: identifier -> job, of those in the queue.
        events: what is told of what happens.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        adapters: Mapping[str, ServedAdapter],
        results: Path,
        waiting: WaitingJobs,
        job: Callable[[str], ActiveJob],
        events: PoolEvents,
    ) -> None:
        self._settings, self._waiting, self._job, self._events = settings, waiting, job, events
        threads = max(1, torch.get_num_threads() // len(settings.devices)) if len(settings.devices) > 1 else 0
        level = logging.getLogger().getEffectiveLevel()
        self.processes = [
            RenderProcess(
                WorkerTask(
                    settings.models, adapters, replace(settings.worker, device=name), results, threads, level
                ),
                self._receive,
                self._lost,
            )
            for name in settings.devices
        ]
        self._work: dict[int, _Work] = {}
        self._numbers = itertools.count(1)
        self._failures: dict[int, int] = {}
        self.paused = False

    @property
    def ready(self) -> bool:
        """Whether some process can render."""
        return any(process.ready for process in self.processes)

    @property
    def running(self) -> int:
        """Clips at work."""
        return sum(sum(not job.record.ended for job in work.jobs) for work in self._work.values())

    def batch_size(self, device: str) -> int:
        """Clips that a device renders at once."""
        default = _BATCH_ON_GPU if device.startswith("cuda") else _BATCH_ON_CPU
        return self._settings.limits.batch_size or default

    def start(self) -> None:
        """Start the processes."""
        for process in self.processes:
            process.start()

    def stop(self) -> None:
        """End the processes; blocks for some seconds at most."""
        self.paused = True
        for process in self.processes:
            process.stop()

    def dispatch(self) -> None:
        """Give idle processes what waits for them."""
        for process in self.processes:
            if self.paused or not process.idle or not self._waiting:
                continue
            size = self.batch_size(process.device)
            next_jobs = self._waiting.peek(size)
            since = time.monotonic() - next_jobs[0].since
            pause = self._settings.limits.batch_wait - since
            if len(next_jobs) < size and next_jobs[0].key is not None and pause > 0:
                asyncio.get_running_loop().call_later(pause, self.dispatch)
                continue
            self._begin(process, [self._job(job.id) for job in self._waiting.take(size)])

    def _begin(self, process: RenderProcess, jobs: Sequence[ActiveJob]) -> None:
        number = next(self._numbers)
        self._work[number] = _Work(process, jobs, time.monotonic())
        self._events.began(jobs)
        process.render(RenderBatch(number, jobs[0].record.model, [job.item for job in jobs]))

    def stop_if_unwanted(self, job: ActiveJob) -> None:
        """Stop the batch of a job that has ended, if nobody wants the others in it either."""
        for process in self.processes:
            if process.batch is None or job not in self._work[process.batch.number].jobs:
                continue
            if all(other.record.ended for other in self._work[process.batch.number].jobs):
                process.cancel()
                number = process.batch.number
                loop = asyncio.get_running_loop()
                loop.call_later(STOPS_WITHIN, self._end_stuck, process, number)

    def _end_stuck(self, process: RenderProcess, number: int) -> None:
        if process.batch is not None and process.batch.number == number:
            log.warning("%s: a cancelled batch goes on; its process is ended", process.device)
            process.kill()

    def _receive(self, process: RenderProcess, message: Any) -> None:
        handlers: dict[type, Callable[..., None]] = {
            ModelLoaded: lambda: self._events.model_loaded(message),
            ModelUnusable: lambda: self._events.model_unusable(message),
            WorkerReady: lambda: self._ready(process),
            BatchStep: lambda: self._stepped(message),
            ClipDone: lambda: self._for_clip(message, self._events.rendered, message.result),
            ClipFailed: lambda: self._for_clip(message, self._events.refused, message.reason, message.status),
            BatchSampled: lambda: self._sampled(process, message),
            BatchDone: lambda: self._done(message),
        }
        handlers[type(message)]()

    def _ready(self, process: RenderProcess) -> None:
        process.ready = True
        self.dispatch()

    def _stepped(self, message: BatchStep) -> None:
        for job in self._work[message.number].jobs:
            if not job.record.ended:
                self._events.stepped(job, message.step, message.steps)

    def _for_clip(self, message: Any, tell: Callable[..., None], *values: Any) -> None:
        for job in self._work[message.number].jobs:
            if job.record.id == message.id:
                tell(job, *values)

    def _sampled(self, process: RenderProcess, message: BatchSampled) -> None:
        work = self._work[message.number]
        process.batch = None
        self._failures[id(process)] = 0
        seconds = time.monotonic() - work.started - message.model_seconds
        self._events.batch_ended(process.device, len(work.jobs), seconds, message.memory)
        self.dispatch()

    def _done(self, message: BatchDone) -> None:
        for job in self._work.pop(message.number).jobs:
            if not job.record.ended:
                self._events.orphaned(job, "was given up by its process")
        self.dispatch()

    def _lost(self, process: RenderProcess, reason: str) -> None:
        log.error("the process on %s %s", process.device, reason)
        process.batch, process.ready = None, False
        failures = self._failures[id(process)] = self._failures.get(id(process), 0) + 1
        pause = min(_LONGEST_PAUSE, 2.0 ** (failures - 2)) if failures > 1 else 0.0
        self._events.restarted(process.device)
        asyncio.get_running_loop().call_later(pause, self._restart, process)
        for number in [number for number, work in self._work.items() if work.process is process]:
            for job in self._work.pop(number).jobs:
                if not job.record.ended:
                    self._events.orphaned(job, reason)

    def _restart(self, process: RenderProcess) -> None:
        if not self.paused:
            process.start()
