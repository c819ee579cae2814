"""What becomes of jobs: begun, rendered, failed, given up, taken up again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stable_audio.interface.service.active import ActiveJob
from stable_audio.interface.service.errors import ServiceError
from stable_audio.interface.service.messages import ModelLoaded, ModelUnusable
from stable_audio.interface.service.records import JobRecord, JobState
from stable_audio.interface.service.waiting import WaitingJob

if TYPE_CHECKING:
    from stable_audio.interface.service.service import Service

log = logging.getLogger(__name__)

ATTEMPTS = 2
"""How often a clip is begun whose process dies."""

_TIDY_EVERY = 20


class JobEvents:
    """Carries out what happens to the jobs of a service; see `PoolEvents`.

    Args:
        service: whose jobs they are.

    Attributes:
        on_unusable: called when no model can be used.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._left: list[JobRecord] = []
        self._ended = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_unusable: Callable[[], None] | None = None

    @property
    def unusable(self) -> list[str]:
        """Why no model can be used; empty as long as one can or may."""
        models = self._service.models.all.values()
        failed = [f"{model.name}: {model.error}" for model in models if model.state == "failed"]
        return failed if len(failed) == len(models) else []

    async def restore(self) -> None:
        """Take up the jobs of an earlier process: those whose clients ask for them later."""
        service = self._service
        for record in await service.in_database(service.store.unfinished):
            if service.files.exists(record.id):
                record.result = await asyncio.to_thread(service.files.figures, record.id)
                record.end("done")
            elif record.waits or record.attempts >= ATTEMPTS:
                record.end("failed", error="the service ended before the clip was rendered", status=503)
            else:
                record.wait_again()
                record.deadline += time.time() - record.created
                self._left.append(record)
            await service.keep(record)

    def model_loaded(self, report: ModelLoaded) -> None:
        self._run(self._take_up(report))

    async def _take_up(self, report: ModelLoaded) -> None:
        """Build the model without weights, and queue the jobs that wait for it."""
        service, served = self._service, self._service.models.all[report.name]
        try:
            await asyncio.to_thread(served.loaded, report, service.adapters)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            self.model_unusable(ModelUnusable(report.name, str(error)))
            return
        log.info("model '%s' loaded on a device in %.1f s", report.name, report.seconds)
        left = [record for record in self._left if record.model == report.name]
        self._left = [record for record in self._left if record.model != report.name]
        for record in left:
            try:
                result = await service.check(served, record.line, record.owner)
            except ServiceError as error:
                self._give_up(record, error.detail, error.status)
                continue
            service.enqueue(record, result, alone=record.attempts > 0)
        service.pool.dispatch()

    def model_unusable(self, report: ModelUnusable) -> None:
        served = self._service.models.all[report.name]
        served.state, served.error = "failed", report.reason
        log.error("model '%s' cannot be loaded: %s", report.name, report.reason)
        for record in [record for record in self._left if record.model == report.name]:
            self._left.remove(record)
            self._give_up(record, f"the model '{report.name}' could not be loaded", 503)
        if self.unusable and self.on_unusable is not None:
            self.on_unusable()

    def _give_up(self, record: JobRecord, error: str, status: int) -> None:
        record.end("failed", error=error, status=status)
        self._service.keep(record)

    def began(self, jobs: Sequence[ActiveJob]) -> None:
        metrics = self._service.metrics
        metrics.batch_size.observe(len(jobs))
        for job in jobs:
            record = job.record
            record.state, record.started, record.step = "running", time.time(), 0
            record.attempts += 1
            metrics.queue_seconds.observe(record.started - record.created)
            self._service.keep(record)
            job.tell()

    def stepped(self, job: ActiveJob, step: int, steps: int) -> None:
        job.record.step, job.record.steps = step, steps
        job.tell()

    def rendered(self, job: ActiveJob, result: Mapping[str, Any]) -> None:
        if job.record.ended:
            self._run(self._remove_files(job.record.id))
            return
        job.record.result = dict(result)
        self.finish(job, "done", reported=True)
        self._service.metrics.rendered(job.record)

    def refused(self, job: ActiveJob, reason: str, status: int) -> None:
        if not job.record.ended:
            self.finish(job, "failed", error=reason, status=status, reported=True)

    def orphaned(self, job: ActiveJob, reason: str) -> None:
        """The process of a job died: it is begun once more, by itself, in case it was the reason."""
        record, service = job.record, self._service
        if record.attempts >= ATTEMPTS:
            self.finish(job, "failed", error=f"the process that rendered the clip {reason}", status=500)
            return
        record.wait_again()
        service.waiting.add(WaitingJob(record.id, record.client, None, time.monotonic()), first=True)
        service.keep(record)
        job.tell()
        if service.draining:
            self.turn_away([job])

    def batch_ended(self, device: str, count: int, seconds: float, memory: Mapping[str, int]) -> None:
        self._service.metrics.batch_ended(device, count, seconds, memory)

    def restarted(self, device: str) -> None:
        self._service.metrics.restarts.labels(device).inc()

    def expire(self, job: ActiveJob) -> None:
        """Give a job up at its deadline."""
        if not job.record.ended:
            waited = job.record.deadline - job.record.created
            self.finish(
                job, "failed", error=f"was not done within its {round(waited, 6):g} seconds", status=504
            )

    def finish(
        self,
        job: ActiveJob,
        state: JobState,
        *,
        error: str | None = None,
        status: int = 500,
        reported: bool = False,
    ) -> None:
        """End a job, and free the device of it.

        Args:
            error: why it did not come to its end.
            status: of HTTP that goes with it.
            reported: its process says so, and is done with it.
        """
        service, record = self._service, job.record
        record.end(state, error=error, status=status)
        self._let_go(job)
        if not reported:
            service.pool.stop_if_unwanted(job)
        service.metrics.ended(record)
        service.keep(record)
        job.tell()
        self._ended += 1
        if self._ended % _TIDY_EVERY == 0:
            self._run(self._tidy())

    def turn_away(self, jobs: Sequence[ActiveJob]) -> None:
        """The service stops: clients that wait are told, other jobs are kept for the next start."""
        service = self._service
        for job in jobs:
            record = job.record
            if record.ended:
                continue
            if record.waits:
                self.finish(job, "failed", error="the service is stopping", status=503)
                continue
            if record.state == "running":
                record.attempts -= 1  # it was not its fault
            record.wait_again()
            self._let_go(job)
            service.keep(record)
            job.tell()

    def _let_go(self, job: ActiveJob) -> None:
        """Take a job out of the queue and of those that are active."""
        if job.expiry is not None:
            job.expiry.cancel()
        self._service.waiting.remove(job.record.id)
        self._service.active.pop(job.record.id, None)

    async def _tidy(self) -> None:
        """Remove the oldest results and uploads beyond what is kept."""
        service = self._service
        for id in await service.in_database(service.store.surplus, service.limits.results):
            await service.in_database(service.store.forget, id)
            await asyncio.to_thread(service.files.remove, id)
        await service.uploads.tidy()

    async def _remove_files(self, id: str) -> None:
        await asyncio.to_thread(self._service.files.remove, id)

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
