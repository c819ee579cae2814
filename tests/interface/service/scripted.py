"""A service whose processes do what a test says, in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from stable_audio.audio.io import save_audio
from stable_audio.inference.rendering.recipe import InputFile
from stable_audio.interface.service import pool
from stable_audio.interface.service.app import create_app
from stable_audio.interface.service.decoder import SoundDecoder
from stable_audio.interface.service.files import ResultFiles
from stable_audio.interface.service.messages import (
    BatchDone,
    BatchSampled,
    BatchStep,
    ClipDone,
    ClipFailed,
    ModelLoaded,
    RenderBatch,
    WorkerReady,
)
from stable_audio.interface.service.service import Service
from stable_audio.interface.service.settings import Access, Limits, ModelSource, ServiceSettings
from stable_audio.interface.service.worker import WorkerTask
from tests.inference import tiny

URL = "http://localhost"


class ScriptedProcess:
    """In place of a `RenderProcess`: a batch stays with it until the test says what comes of it."""

    def __init__(
        self, task: WorkerTask, receive: Callable[..., None], lost: Callable[..., None], model: bool = True
    ) -> None:
        self._task, self._receive, self._lost = task, receive, lost
        self._files = ResultFiles(task.results)
        self.device = task.options.device
        self.batch: RenderBatch | None = None
        self.ready = False
        self.starts = self.cancels = 0
        self.killed = False
        self.batches: list[list[str]] = []

    @property
    def idle(self) -> bool:
        return self.ready and self.batch is None

    def start(self) -> None:
        self.starts += 1
        file = InputFile("/secret/place/tiny.safetensors", "0" * 16)
        for source in self._task.models:
            report = ModelLoaded(source.name, tiny.config(), file, None, True, "float32", (), 0.1)
            self._receive(self, report)
        self.ready = True
        self._receive(self, WorkerReady())

    def render(self, batch: RenderBatch) -> None:
        self.batch = batch
        self.batches.append([item.id for item in batch.items])

    def cancel(self) -> None:
        self.cancels += 1

    def kill(self) -> None:
        self.killed = True

    def stop(self, seconds: float = 5.0) -> None:
        self.ready = False

    def step(self, number: int, steps: int) -> None:
        assert self.batch is not None
        self._receive(self, BatchStep(self.batch.number, number, steps))

    def finish(self) -> list[str]:
        """Render the batch: a sound whose samples are the seed of the clip over 1000."""
        assert self.batch is not None
        batch = self.batch
        for item in batch.items:
            sound = self._files.scratch(batch.number) / f"{item.id}.wav"
            save_audio(sound, torch.full((1, 100), item.line["seed"] / 1000), 1000, subtype="float")
            output = {"sample_rate": 1000, "channels": 1, "samples": 100, "peak": 0.1}
            sound.with_suffix(".json").write_text(json.dumps({"output": output}))
            self._files.adopt(sound, item.id)
            result = {**self._files.figures(item.id), "real_time_factor": 2.0}
            self._receive(self, ClipDone(batch.number, item.id, result))
        return self.end()

    def fail(self, reason: str, status: int = 422) -> None:
        assert self.batch is not None
        for item in self.batch.items:
            self._receive(self, ClipFailed(self.batch.number, item.id, reason, status))
        self.end()

    def end(self) -> list[str]:
        assert self.batch is not None
        batch = self.batch
        self._receive(self, BatchSampled(batch.number, {"resident": 1}))
        self._receive(self, BatchDone(batch.number))
        return [item.id for item in batch.items]

    def die(self) -> None:
        self._lost(self, "was ended by SIGKILL")


class ScriptedService:
    """A service, its processes, and a client of it."""

    def __init__(self, service: Service, app: Any) -> None:
        self.service, self.app = service, app

    @property
    def process(self) -> ScriptedProcess:
        return self.service.pool.processes[0]  # type: ignore[return-value]

    def client(self, token: str | None = None) -> httpx.AsyncClient:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app), base_url=URL, headers=headers, timeout=10
        )


@asynccontextmanager
async def scripted(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *,
    access: Access | None = None,
    devices: int = 1,
    drain_seconds: float = 0.2,
    **limits: Any,
) -> AsyncIterator[ScriptedService]:
    """A service that is ready."""
    monkeypatch.setattr(pool, "RenderProcess", ScriptedProcess)
    monkeypatch.setattr(SoundDecoder, "start", lambda self: None)
    settings = ServiceSettings(
        models=[ModelSource(name="tiny", checkpoint="tiny.safetensors")],
        folder=folder,
        devices=["cpu"] * devices,
        limits=Limits(**{"batch_wait": 0.0, **limits}),
        access=access or Access(),
        drain_seconds=drain_seconds,
    )
    app = create_app(Service(settings))
    async with app.router.lifespan_context(app):
        service: Service = app.state.service
        while not service.ready:
            await pause()
        yield ScriptedService(service, app)


async def pause() -> None:
    """Let others work for a moment."""
    await asyncio.sleep(0.005)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something is so."""

    async def wait() -> None:
        while not condition():
            await pause()

    await asyncio.wait_for(wait(), seconds)


def clip(**values: Any) -> Mapping[str, Any]:
    """A request."""
    return {"prompt": "bell", "seconds": 0.1, "steps": 2, "seed": 7, **values}
