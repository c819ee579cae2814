"""The callbacks of a run, from its options."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning.pytorch as pl

from stable_audio.config import DatasetConfig, ModelConfig
from stable_audio.training.base import TrainingModule
from stable_audio.training.batches.feed import RunData
from stable_audio.training.batches.loaders import (
    Datasets,
    batch_seconds,
    frame_samples,
    loader_maker,
    row_samples,
)
from stable_audio.training.build import build_demos
from stable_audio.training.callbacks.alive import StayAlive
from stable_audio.training.callbacks.base import Bookkeeping
from stable_audio.training.callbacks.checkpoints import Checkpoints
from stable_audio.training.callbacks.demos import RenderDemos
from stable_audio.training.callbacks.estimate import EstimateTime
from stable_audio.training.callbacks.going_back import GoBack
from stable_audio.training.callbacks.profile import Profile
from stable_audio.training.callbacks.progress import ProgressLine
from stable_audio.training.callbacks.recording import RecordData
from stable_audio.training.callbacks.scalars import LogScalars, ResumeClock
from stable_audio.training.callbacks.shard_checkpoints import ShardCheckpoints
from stable_audio.training.callbacks.stop import StopOnSignal
from stable_audio.training.callbacks.summary import Summary
from stable_audio.training.callbacks.timing import TimeParts
from stable_audio.training.callbacks.unwritten_line import UnwrittenLine
from stable_audio.training.callbacks.validation import Validate
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.stopping import StopRequest
from stable_audio.training.record.ending_demos import ending_demos
from stable_audio.training.record.loggers.base import RunLogger
from stable_audio.training.record.run_record import RunRecord
from stable_audio.training.saving.checkpoint_io import AtomicCheckpointIO


@dataclass(frozen=True)
class RunCallbacks:
    """The callbacks of a run.

    Attributes:
        scalars: logs scalars.
        checkpoints: writes checkpoints.
        going_back: chooses checkpoints to go back to.
        demos: renders demos; None without them.
        all: these and the others, in the order in which they act.
    """

    scalars: LogScalars
    checkpoints: Checkpoints
    going_back: GoBack
    demos: RenderDemos | None
    all: tuple[pl.Callback, ...]

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        module: TrainingModule,
        files: Datasets,
        options: RunOptions,
        trainer: pl.Trainer,
        *,
        data: RunData,
        io: AtomicCheckpointIO,
        logger: RunLogger,
        stop: StopRequest,
        record: RunRecord,
        alive: StayAlive,
        resumed: tuple[int, Path] | None = None,
    ) -> RunCallbacks:
        """Build them.

        Args:
            resumed: (step, file) of the checkpoint that the run continues from, or None.
        """
        seconds = batch_seconds(config, module, files.training, trainer, options)
        row = row_samples(config, module, files.training)
        scalars = LogScalars(
            logger,
            data,
            module.clock,
            every=options.log_every,
            batch_seconds=seconds,
            items=options.batch_size,
            row=row // (frame_samples(module) if getattr(module, "pre_encoded", False) else 1),
        )
        kind = ShardCheckpoints if options.checkpoint_format == "shards" else Checkpoints
        checkpoints = kind(
            options.folder,
            config.as_dict(),
            data,
            io,
            every=options.checkpoint_every,
            keep=options.keep,
            minutes=options.checkpoint_minutes,
        )
        going_back = GoBack(checkpoints, data, resumed=resumed)
        demos = build_demo_callback(config, data, options, logger, stop, record)
        validation = build_validation(config, module, files.validation, options, logger, checkpoints, stop)
        members: list[pl.Callback | None] = [
            Bookkeeping(),
            alive,
            TimeParts(),
            scalars,
            UnwrittenLine(scalars),
            going_back,
            validation,
            demos,
            checkpoints,
            StopOnSignal(stop, checkpoints, pauses=[p.every for p in (validation, demos) if p is not None]),
            RecordData(record, data),
            Summary(config, options, data, scalars, row=row),
            EstimateTime(max_steps=options.max_steps) if options.max_steps > 0 else None,
            ProgressLine(scalars, max_steps=options.max_steps) if options.progress else None,
            Profile(scalars, options, steps=options.profile) if options.profile > 0 else None,
            ResumeClock(scalars),
        ]
        return cls(scalars, checkpoints, going_back, demos, tuple(m for m in members if m is not None))


def build_demo_callback(
    config: ModelConfig,
    data: RunData,
    options: RunOptions,
    logger: RunLogger,
    stop: StopRequest,
    record: RunRecord,
) -> RenderDemos | None:
    """The callback that renders demos; None if the config or the options have none."""
    parts = build_demos(config) if options.demos else None
    if parts is None:
        return None
    renderer, every = parts
    return RenderDemos(
        renderer,
        data,
        logger,
        options.folder,
        every=every,
        first_minutes=options.first_demo_minutes,
        stop=stop,
        ended_by=partial(ending_demos, record),
    )


def build_validation(
    config: ModelConfig,
    module: TrainingModule,
    dataset: DatasetConfig | None,
    options: RunOptions,
    logger: RunLogger,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> Validate | None:
    """The callback that validates; None without a validation dataset."""
    if dataset is None:
        return None
    make = loader_maker(config, module, dataset, options, training=False)
    every = options.val_every if options.val_every > 0 else options.checkpoint_every
    if every < 1:
        raise TrainingError("--val-every must be at least 1 when --checkpoint-every is 0")
    return Validate(make, logger, checkpoints, every=every, stop=stop)
