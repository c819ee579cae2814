"""A run: the parts of a training, ready to start."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from stable_audio.config import ModelConfig
from stable_audio.inference.memory.errors import OutOfMemory, is_out_of_memory
from stable_audio.training.base import TrainingModule
from stable_audio.training.batches.feed import RunData
from stable_audio.training.callbacks.alive import StayAlive
from stable_audio.training.callbacks.checkpoints import Checkpoints
from stable_audio.training.callbacks.demos import RenderDemos
from stable_audio.training.callbacks.going_back import GoBack
from stable_audio.training.callbacks.scalars import LogScalars
from stable_audio.training.errors import TrainingError
from stable_audio.training.lightning_trainer import quiet_lightning
from stable_audio.training.memory_plan.answer import out_of_memory
from stable_audio.training.memory_plan.processes import sharing_in
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.gathering import of_all
from stable_audio.training.processes.meeting import Meeting
from stable_audio.training.processes.requeue import requeue, taken_away
from stable_audio.training.processes.stopping import SAVE, StopRequest
from stable_audio.training.record.lines import end_lines
from stable_audio.training.record.loggers.base import RunLogger
from stable_audio.training.record.page import write_page
from stable_audio.training.record.run_record import RunRecord
from stable_audio.training.record.start_files import EarlyLog, logged_to
from stable_audio.training.saving.checkpoint_io import AtomicCheckpointIO
from stable_audio.training.saving.lock import RunLock
from stable_audio.wording import plural

log = logging.getLogger(__name__)

LAST_SECONDS = 60.0
"""How long a checkpoint may still be written before a process is ended because another one has died."""


@dataclass
class Run:
    """The parts of one training; `start` runs it."""

    config: ModelConfig
    options: RunOptions
    module: TrainingModule
    data: RunData
    trainer: pl.Trainer
    scalars: LogScalars
    checkpoints: Checkpoints
    going_back: GoBack
    alive: StayAlive
    demos: RenderDemos | None
    logger: RunLogger
    io: AtomicCheckpointIO
    stop: StopRequest
    resume: Path | None
    record: RunRecord
    started: Callable[[], None] | None = None
    meeting: Meeting | None = None
    early: EarlyLog | None = None
    lock: RunLock | None = None

    def start(self) -> int:
        """Train until the last step or until asked to stop; returns the exit status.

        No process returns before all of them have written what they write.

        Raises:
            TrainingError: the run could not continue, or its last checkpoint could not be written.
            OutOfMemory: its device has too little memory; the message says what fits.
        """
        early = self.early.records if self.early is not None else ()
        with (
            logged_to(self.options.folder, self.trainer.global_rank, self.early),
            self.record.listening(early),
        ):
            self.alive.last_words = self._last_words
            try:
                status = self._start()
                if (failure := self.io.failure) is not None:
                    self._end(kind="error", error=f"{TrainingError.__name__}: {failure}")
                else:
                    self._end(kind="stopped" if self.stop.asked else "finished", status=status)
                self._wait_for_the_others()
            except BaseException as error:
                told = f"{type(error).__name__}: {error}"
                self.alive.stop(told)
                self._end(kind=_kind(error), error=told)
                raise
            else:
                self.alive.stop()
                if failure is not None:
                    raise TrainingError(failure)
                return status
            finally:
                self.stop.restore()  # now that no other process waits for this one
                if self.lock is not None:
                    self.lock.release()

    def _wait_for_the_others(self) -> None:
        """All processes end when each has done what it does: `srun --kill-on-bad-exit` kills the others of
        one that a signal ends, also the one that still writes the last checkpoint or asks for the queue."""
        if self.trainer.world_size > 1 and torch.distributed.is_initialized():
            with self.alive.blaming():
                of_all(None)
            if self.record.gather():  # what they have told since this one has ended
                write_page(self.options.folder)

    def _end(self, **outcome: Any) -> None:
        """Record how the run has ended, and write its page."""
        stopped = self.stop.asked
        self.record.ended({"step": self.trainer.global_step, "stopped": stopped, **outcome})
        if self.trainer.is_global_zero:
            write_page(self.options.folder)

    def _start(self) -> int:
        self.stop.install()
        if self.trainer.is_global_zero and self.started is not None:
            self.started()
        if self.trainer.strategy.root_device.type == "cuda":
            torch.set_float32_matmul_precision(self.options.matmul_precision)
        try:
            with quiet_lightning(), self.alive.blaming():
                with self._all_on_disk():
                    self._fit(self.resume)
                    while (checkpoint := self.going_back.path) is not None:
                        self._fit(checkpoint)
                self.io.failure = self._failure_of_any()
        except (torch.distributed.DistNetworkError, torch.distributed.DistStoreError) as error:
            raise TrainingError(
                f"the {plural(self.trainer.world_size, 'process')} of this run did not meet, or lost each "
                f"other ({str(error).splitlines()[0]}); start each of them with one launcher (torchrun; "
                "srun in a batch script), with the same MASTER_ADDR and a free MASTER_PORT"
            ) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory(error) from None
        finally:
            self.logger.close()
        if self.trainer.is_global_zero:
            for line in self._end_lines():
                log.info("%s", line)
        if self.io.failure is None and self.trainer.is_global_zero and self._is_to_start_again():
            requeue()
        return self.stop.exit_status

    @contextmanager
    def _all_on_disk(self) -> Iterator[None]:
        """Context that ends when everything is on disk. Why training has ended comes before what has become
        of a checkpoint, which a process that is gone leaves incomplete, too."""
        try:
            yield
        except BaseException:
            try:
                self.io.writer.wait()
            except Exception as error:
                log.debug("the last checkpoint is not complete", exc_info=error)
            raise
        self.io.writer.wait()

    def _failure_of_any(self) -> str | None:
        """Why the last save has failed on this process or another one. The first one writes for all of them,
        and the others would end as if their weights were on disk."""
        if self.trainer.world_size == 1 or not torch.distributed.is_initialized():
            return self.io.failure
        return next((told for told in of_all(self.io.failure) if told is not None), None)

    def _is_to_start_again(self) -> bool:
        """Whether the job goes back into the queue. SIGTERM comes with pre-emption and when the job's time is
        up, but with scancel, too."""
        if self.stop.number == SAVE:
            return True
        return self.options.requeue and self.stop.number == signal.SIGTERM and taken_away()

    def _last_words(self, sentence: str) -> None:
        """Write what can still be written, before this process is ended because another one has died."""
        writing = threading.Thread(target=self.io.writer.wait, daemon=True)
        writing.start()
        writing.join(LAST_SECONDS)
        self._end(kind="dead process", error=sentence)

    def _fit(self, checkpoint: Path | None) -> None:
        """Train from a checkpoint, or from the start, until the last step, a stop, or going back."""
        if self.going_back.path is not None:
            self.logger.rewind(self.going_back.step)
        path = None if checkpoint is None else str(checkpoint)
        self.trainer.fit(self.module, datamodule=self.data, ckpt_path=path)

    def _out_of_memory(self, error: BaseException) -> OutOfMemory:
        return out_of_memory(
            error,
            self.config,
            self.options,
            precision=str(self.trainer.precision),
            device=self.trainer.strategy.root_device.type,
            step=self.trainer.global_step,
            shape=self.module.batch_shape,
            sharing=sharing_in(self.trainer.strategy, self.trainer.world_size),
        )

    def _end_lines(self) -> Iterator[str]:
        conditioner: Any = getattr(self.module.model, "conditioner", None)
        return end_lines(
            self.options.folder,
            self.trainer.global_step,
            model_type=self.config.model_type,
            stopped=self.stop.asked,
            prompts=conditioner is not None and "prompt" in conditioner.ids(),
        )


def _kind(error: BaseException) -> str:
    """How a run has ended, in a few words."""
    if isinstance(error, OutOfMemory):
        return "out of memory"
    return "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "error"
