"""Render with one process for each device: a process that dies takes no other clip with it than its own."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from stable_audio.data.world import ALONE, World
from stable_audio.inference.devices import best_device
from stable_audio.inference.rendering.render import OutputFiles, Rendered
from stable_audio.inference.rendering.request import RenderRequest
from stable_audio.inference.rendering.shards import split
from stable_audio.model import DiffusionModel

ALL = "all"
_SECONDS_TO_END = 5.0


class ProcessLost(ChildProcessError):
    """A process ended before its clips were rendered."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """How every process renders; see `render` and `load_render_model` for the first three.

    Attributes:
        matmul_precision: precision of float32 matrix products on a GPU.
        check: called with the model of each process; raises ValueError if it does not fit the request.
    """

    batch_size: int | None = None
    offload: bool = False
    world: World = ALONE
    matmul_precision: str = "high"
    check: Callable[[DiffusionModel], None] | None = None


DEFAULTS = DeviceOptions()


@dataclass(frozen=True)
class _Ready:
    """A process has loaded its model: the clips of its part, and warnings."""

    clips: int
    cautions: tuple[str, ...]


@dataclass
class _Worker:
    """A process, and what it has reported.

    Attributes:
        clips: of its part; None until its model is loaded.
        done: clips that it has finished or found finished.
        failure: why it stopped early.
    """

    device: torch.device
    process: BaseProcess
    connection: Connection
    clips: int | None = None
    done: int = 0
    failure: BaseException | None = None
    cautions: tuple[str, ...] = field(default=())


def devices_named(text: str) -> list[torch.device]:
    """The devices that a text names: `cuda:0,cuda:1`, the number of GPUs to use, or `all`.

    A name may occur several times (`cpu,cpu`): each is a process of its own.

    Raises:
        ValueError: this machine has no such device.
    """
    if text != ALL and not text.isdigit():
        return [best_device(name.strip()) for name in text.split(",")]
    present = torch.cuda.device_count()
    count = present if text == ALL else int(text)
    if not 1 <= count <= present:
        raise ValueError(
            f"--devices {text}: this machine has {present} GPUs; give a number of them, or names: cpu,cpu"
        )
    return [torch.device("cuda", index) for index in range(count)]


class DeviceRender:
    """The clips of a request, rendered by one process a device; iterate it once.

    Use it in a `with` block, which ends the processes that are still at work.

    Raises:
        ProcessLost: a process ended early; raised after the others have finished, and names what is missing.
        ValueError: what a process found wrong with the request; raised before the first clip if all found it.
    """

    def __init__(
        self,
        request: RenderRequest,
        output: OutputFiles,
        devices: Sequence[torch.device],
        options: DeviceOptions = DEFAULTS,
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a GPU does not survive a fork
        self._workers: list[_Worker] = []
        try:
            for rank, device in enumerate(devices):
                receiving, sending = context.Pipe(duplex=False)
                part = replace(options, world=split(options.world, rank, len(devices)))
                threads = max(1, torch.get_num_threads() // len(devices))
                level = logging.getLogger().getEffectiveLevel()
                arguments = (request, output, device, part, threads, level, sending)
                process = context.Process(target=_render_part, args=arguments, daemon=True)
                process.start()
                sending.close()
                self._workers.append(_Worker(device, process, receiving))
            while any(w.clips is None and w.failure is None for w in self._workers):
                for worker, _ in self._messages([w for w in self._workers if w.clips is None]):
                    assert worker.clips is not None
        except BaseException:
            self.close()
            raise
        if all(w.failure is not None for w in self._workers):
            self.close()
            raise self._error()

    @property
    def total(self) -> int:
        """Clips of all processes that have started."""
        return sum(w.clips or 0 for w in self._workers)

    @property
    def cautions(self) -> list[str]:
        """Warnings about the render, each once."""
        return list(dict.fromkeys(text for w in self._workers for text in w.cautions))

    def __iter__(self) -> Iterator[Rendered]:
        while busy := [w for w in self._workers if w.failure is None and not w.connection.closed]:
            for _, message in self._messages(busy):
                if isinstance(message, Rendered):
                    yield message
        if any(w.failure is not None for w in self._workers):
            raise self._error()

    def __enter__(self) -> DeviceRender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes that are still at work."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _messages(self, workers: Sequence[_Worker]) -> Iterator[tuple[_Worker, Any]]:
        """Messages that are there, at least one if the processes live; ends of processes are noted."""
        by_connection = {id(w.connection): w for w in workers if w.failure is None}
        for connection in wait([w.connection for w in workers if w.failure is None]):
            worker = by_connection[id(connection)]
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                self._ended(worker)
                continue
            if isinstance(message, _Ready):
                worker.clips, worker.cautions = message.clips, message.cautions
            elif isinstance(message, BaseException):
                worker.failure = message
                continue
            else:
                worker.done += 1
            yield worker, message

    @staticmethod
    def _ended(worker: _Worker) -> None:
        worker.process.join()
        worker.connection.close()
        if worker.clips is None or worker.done < worker.clips:
            worker.failure = ProcessLost(_ending(worker.process.exitcode))

    def _error(self) -> BaseException:
        """One error for those of all processes."""
        lost = [w for w in self._workers if w.failure is not None]
        reasons = list(dict.fromkeys(str(w.failure) for w in lost))
        first = lost[0].failure
        assert first is not None
        if len(lost) == len(self._workers) and len(reasons) == 1 and not isinstance(first, ProcessLost):
            return first
        told = "\n".join(f"{w.device} ({_progress(w)}): {w.failure}" for w in lost)
        return ProcessLost(f"{told}\nwhat is finished stays; the same command renders what is missing")


def _progress(worker: _Worker) -> str:
    if worker.clips is None:
        return "before its first clip"
    return f"{worker.done} of its {worker.clips} clips are there"


def _ending(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        memory = "; often because memory ran out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended with exit status {exit_code}"


def _render_part(
    request: RenderRequest,
    output: OutputFiles,
    device: torch.device,
    options: DeviceOptions,
    threads: int,
    level: int,
    results: Connection,
) -> None:
    """Render one part in a process of its own, and send what comes of it."""
    logging.basicConfig(level=level, format=f"%(levelname)s {device}: %(message)s")
    torch.set_num_threads(threads)
    try:
        render_model = request.load(device, offload=options.offload)
        if device.type == "cuda":
            torch.set_float32_matmul_precision(options.matmul_precision)
        if options.check is not None:
            options.check(render_model.model)
        task = request.task(render_model)
        own = replace(output, software={**output.software, "device": str(device)})
        clips = sum(1 for _ in options.world.share(task.plan.jobs))
        results.send(_Ready(clips, tuple(task.cautions())))
        for rendered in task.render(own, batch_size=options.batch_size, world=options.world):
            results.send(rendered)
    except (KeyboardInterrupt, BrokenPipeError):
        pass  # the process that started this one has stopped
    except (ValueError, OSError, ImportError, MemoryError, torch.OutOfMemoryError) as error:
        results.send(ValueError(str(error)))
    finally:
        results.close()
