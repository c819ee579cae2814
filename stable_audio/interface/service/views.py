"""What clients are told of jobs and uploads."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, Field

from stable_audio.config.schemas.leaf import Section
from stable_audio.interface.service.records import JobRecord, JobState, UploadRecord


class ProblemView(BaseModel):
    """Why a request was not served."""

    detail: str


class JobView(BaseModel):
    """A job."""

    id: str
    state: JobState
    model: str
    title: str
    starred: bool
    format: str
    seconds: float = Field(description="length of the clip")
    created: float = Field(description="seconds since 1970")
    started: float | None
    finished: float | None
    position: int | None = Field(description="jobs that come before it; null unless it is queued")
    step: int = Field(description="sampling steps done")
    steps: int = Field(description="sampling steps in all")
    seconds_left: float | None = Field(description="estimate, of a running job")
    error: str | None
    request: dict[str, Any] = Field(description="the keys that determine the sound, with the seed")
    result: dict[str, Any] | None = Field(description="figures of the sound: samples, peak, clipped, ...")
    digest: str = Field(description="of the recipe")


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobView]
    before: float | None = Field(description="value of `before` with which the list goes on; null at its end")


class JobChange(Section):
    """What a client can change of a job."""

    starred: bool | None = None
    title: str | None = Field(None, max_length=500)


class UploadView(BaseModel):
    """A sound that a client sent."""

    id: str
    name: str
    seconds: float
    sample_rate: int
    channels: int
    created: float


class UploadList(BaseModel):
    """Uploads, the newest first."""

    uploads: list[UploadView]


class Peaks(BaseModel):
    """A waveform in equal parts of its time: the least and greatest sample of each, over all channels."""

    seconds: float
    minimum: list[float]
    maximum: list[float]


class Health(BaseModel):
    """Whether the service works."""

    status: str = Field(description="ok, loading, failed or stopping")
    ready: bool
    waiting: int = Field(description="jobs in the queue")
    running: int = Field(description="jobs at work")
    version: str


def job_view(record: JobRecord, position: Callable[[str], int | None]) -> JobView:
    """A job as its client sees it.

    Args:
        position: identifier -> how many jobs come before it in the queue.
    """
    return JobView(
        id=record.id,
        state=record.state,
        model=record.model,
        title=record.title,
        starred=record.starred,
        format=record.format,
        seconds=record.seconds,
        created=record.created,
        started=record.started,
        finished=record.finished,
        position=position(record.id) if record.state == "queued" else None,
        step=record.step,
        steps=record.steps,
        seconds_left=_seconds_left(record),
        error=record.error,
        request={"model": record.model, **record.line},
        result=record.result,
        digest=record.digest,
    )


def _seconds_left(record: JobRecord) -> float | None:
    if record.state != "running" or not record.step or record.started is None:
        return None
    took = time.time() - record.started
    return round(took * (record.steps - record.step) / record.step, 2)


def upload_view(record: UploadRecord) -> UploadView:
    """An upload as its client sees it."""
    return UploadView(
        id=record.id,
        name=record.name,
        seconds=record.seconds,
        sample_rate=record.sample_rate,
        channels=record.channels,
        created=record.created,
    )
