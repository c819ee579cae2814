"""Assemble and run a training from config, dataset and options."""

from __future__ import annotations

import logging
import signal
from functools import partial

import lightning.pytorch as pl
from torch import nn

from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.config import DatasetConfig, ModelConfig
from stable_audio.config.reading.sources import Source
from stable_audio.config.reporting.problems import in_file
from stable_audio.data.world import World, launched_world
from stable_audio.training.base import TrainingModule
from stable_audio.training.batches.feed import RunData
from stable_audio.training.batches.loaders import Datasets, loader_maker, refuse_datasets
from stable_audio.training.build import build_training, step_limits
from stable_audio.training.callbacks.alive import StayAlive
from stable_audio.training.callbacks.build import RunCallbacks
from stable_audio.training.devices.compiling import compile_networks
from stable_audio.training.devices.float8 import use_float8
from stable_audio.training.devices.halved_encoder import choose_encoding
from stable_audio.training.devices.hardware import check_hardware
from stable_audio.training.devices.levers import check_levers
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.lightning_trainer import build_trainer
from stable_audio.training.optimisation.trainable import check_included, rate_factors
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.cluster import ProcessLayout, disable_signal_handlers, layout, log_world
from stable_audio.training.processes.meeting import Meeting
from stable_audio.training.processes.rendezvous import meet
from stable_audio.training.processes.requeue import refuse_no_job, requeue_if_taken_away
from stable_audio.training.processes.stopping import Interrupted, StopRequest
from stable_audio.training.record.loggers import check_loggers, create_logger
from stable_audio.training.record.loggers.base import RunLogger
from stable_audio.training.record.machines import machines_of
from stable_audio.training.record.run_record import RECORD, RunRecord
from stable_audio.training.record.start_files import EarlyLog, record_run
from stable_audio.training.run import Run
from stable_audio.training.saving.checkpoint_io import AtomicCheckpointIO
from stable_audio.training.saving.folder import claim, refuse_changed, refuse_unwritable, training_files
from stable_audio.training.saving.lock import RunLock
from stable_audio.training.saving.resuming import Resumed, continues, resumed_checkpoint
from stable_audio.training.saving.room import clear_at_start
from stable_audio.training.saving.saved import copy_base, saved_weights
from stable_audio.training.saving.writer import BackgroundWriter
from stable_audio.training.starting.adapters import passport_of, start_from_adapter
from stable_audio.training.starting.agreement import resumed_facts, start_facts
from stable_audio.training.starting.continued import continuing_model, match_training
from stable_audio.training.starting.precision import decided, device_type
from stable_audio.training.starting.schedules import within_schedules
from stable_audio.training.starting.start import starting_model, with_hash
from stable_audio.training.transforms import (
    COMPILE,
    frozen_as_built,
    trained_adapter,
    transform,
    transforms_for,
)
from stable_audio.transforms.freezing import frozen_parts

log = logging.getLogger(__name__)


def train(
    config: ModelConfig,
    dataset: DatasetConfig | Source,
    options: RunOptions,
    *,
    val_dataset: DatasetConfig | Source | None = None,
    stop: StopRequest | None = None,
    early: EarlyLog | None = None,
) -> int:
    """Train as `config` says on `dataset`; returns 0, or 130 / 143 after Ctrl-C / SIGTERM.

    SIGUSR1 saves, and with `options.requeue` puts the SLURM job back into the queue (138).

    Args:
        early: log records from reading the files, which the log of the run begins with.

    Raises:
        TrainingError, CheckpointError, DataError: the run cannot start or continue.
    """
    try:
        with early if early is not None else EarlyLog() as early:
            run = assemble(config, dataset, options, val_dataset=val_dataset, stop=stop)
            run.early = early
        return run.start()
    except Interrupted as interrupted:
        if options.requeue and interrupted.number == signal.SIGTERM and launched_world().rank == 0:
            requeue_if_taken_away()  # as in processes that wait for each other, before there is a run
        raise


def assemble(
    config: ModelConfig,
    dataset: DatasetConfig | Source,
    options: RunOptions,
    *,
    val_dataset: DatasetConfig | Source | None = None,
    stop: StopRequest | None = None,
    world: World | None = None,
) -> Run:
    """Build everything that a run needs, without starting it.

    Args:
        world: the processes that train together; default: those that the launcher started.
    """
    stop = stop if stop is not None else StopRequest()
    stop.decide(save_ends=options.requeue)
    check_hardware(options, averages=config.training is not None and config.training.use_ema)
    check_loggers(options.logger)
    if options.requeue:
        refuse_no_job()
    files = Datasets.of(dataset, val_dataset)
    world = world if world is not None else launched_world()
    placed = layout(options, world)
    options = options.shared_by(placed.processes)
    log_world(world)
    meeting, alive = meet(world, stop=stop), StayAlive(seconds=options.dead_after)
    if meeting is None:
        return _assemble(config, files, options, placed, stop=stop, alive=alive, meeting=None)
    alive.begin(meeting)
    with alive.telling():
        placed = layout(options, meeting.world)
        facts = {"the number of processes": str(world.size), **start_facts(config, files, options)}
        meeting.agree("the start", facts)
        return _assemble(config, files, options, placed, stop=stop, alive=alive, meeting=meeting)


def _assemble(
    config: ModelConfig,
    files: Datasets,
    options: RunOptions,
    placed: ProcessLayout,
    *,
    stop: StopRequest,
    alive: StayAlive,
    meeting: Meeting | None,
) -> Run:
    """Build the parts of a run whose processes have met."""
    refuse_unwritable(options.folder)
    with in_file(config.source):
        refuse_datasets(config, files)

        check_levers(config.training, options, processes=placed.processes)

        before = training_files(options.folder)
        resumed = resumed_checkpoint(options, config)
        options = decided(options, processes=placed.processes, resumed=resumed)
        # Once more, since "auto" may stand for float16.
        check_hardware(options, averages=config.training is not None and config.training.use_ema)
        check_levers(config.training, options, processes=placed.processes)
        if meeting is not None:
            meeting.agree("the checkpoint", resumed_facts(resumed, options))
        clear = claim(options.folder, overwrite=options.overwrite, continues=continues(options, resumed))
        if resumed is None:
            listed = transforms_for(config, options)
            start = starting_model(config, options, adapter=trained_adapter(listed) is not None)
            transforms = [*frozen_as_built(start.model), *listed]
            transform(start.model, transforms)
            start_from_adapter(config, start.model, start.adapted, any_base=options.any_base)
            config = with_hash(config, start.model)
        else:
            start = continuing_model(config, options, resumed.path, resumed.content)
            transforms = resumed.transforms
        float8 = use_float8(start.model, options.precision, compiled=options.compile)
        if options.compile:
            compile_networks(start.model)
        module, options = _module(config, start.model, options, resumed)
    module.saved = saved_weights(
        start.model,
        options,
        transforms=transforms,
        inherited=start.inherited,
        base=start.base,
        from_base=start.from_base,
        passport=passport_of(config, options, start.adapted),
    )

    io = AtomicCheckpointIO(BackgroundWriter(background=options.background_checkpoints))
    trainer = build_trainer(
        options, placed, io, accumulate=module.automatic_optimization, alike=module.trains_the_same
    )
    disable_signal_handlers(trainer)
    lock = None
    if trainer.is_global_zero:
        lock = RunLock(options.folder)
        refuse_changed(options.folder, before)  # by a run that ended before there was the lock
        clear()
        if resumed is not None and continues(options, resumed):
            clear_at_start(options.folder, resumed, module.guard.limits, keep=options.keep)
        if start.to_copy is not None:
            copy_base(start.to_copy, options.folder)
    data = RunData(loader_maker(config, module, files.training, options, training=True), module.clock)
    if isinstance(module, DiffusionTraining):
        module.encode_ahead(lambda: data.upcoming)
    logger = _logger(config, options, trainer, resumed)
    record = RunRecord(options.folder / RECORD, rank=trainer.global_rank)
    parts = RunCallbacks.of(
        config,
        module,
        files,
        options,
        trainer,
        data=data,
        io=io,
        logger=logger,
        stop=stop,
        record=record,
        alive=alive,
        resumed=None if resumed is None else (resumed.step, resumed.path),
    )
    trainer.callbacks.extend(parts.all)  # type: ignore[attr-defined]
    resume = resumed.path if resumed is not None else None
    machines = machines_of(meeting)
    if meeting is not None:  # Lightning lets them meet again, and waits long for one that has failed by now
        meeting.agree("what was built", {})
    configs = {"model": config.as_dict(), **files.as_dicts()}
    return Run(
        config=config,
        options=options,
        module=module,
        data=data,
        trainer=trainer,
        scalars=parts.scalars,
        checkpoints=parts.checkpoints,
        going_back=parts.going_back,
        alive=alive,
        demos=parts.demos,
        logger=logger,
        io=io,
        stop=stop,
        resume=resume,
        record=record,
        started=partial(
            record_run,
            record,
            options,
            configs,
            processes=trainer.world_size,
            resumed_from=resume,
            machines=machines,
            transforms=[*transforms, *float8, *([COMPILE] if options.compile else [])],
            frozen=frozen_parts(start.model),
        ),
        meeting=meeting,
        lock=lock,
    )


def _module(
    config: ModelConfig, model: nn.Module, options: RunOptions, resumed: Resumed | None
) -> tuple[TrainingModule, RunOptions]:
    """The module that trains the model, and the options, whose max_steps follows its LR schedules."""
    module = build_training(
        config,
        model,
        seed=options.seed,
        batch_size=options.batch_size,
        gradient_clip_val=options.gradient_clip_val,
        gradient_release=config.training is not None and config.training.gradient_release,
        limits=step_limits(config),
    )
    if isinstance(module, DiffusionTraining):
        entry = None if resumed is None else resumed.content[TRAINING_ENTRY]
        choose_encoding(module, device=device_type(options), entry=entry)
    if resumed is not None:
        match_training(module, resumed.path, resumed.content)
    options = within_schedules(module, options)
    if resumed is not None and 0 < options.max_steps <= resumed.step:
        log.warning(
            "nothing is left to train: %s is of step %d, and the run ends with step %d (--max-steps)",
            resumed.path,
            resumed.step,
            options.max_steps,
        )
    module.run_steps, module.accum_batches = options.max_steps, options.accum_batches
    check_included(config, model)
    module.rate_factors = rate_factors(config, model)
    return module, options


def _logger(
    config: ModelConfig, options: RunOptions, trainer: pl.Trainer, resumed: Resumed | None
) -> RunLogger:
    names = options.logger if trainer.is_global_zero else "none"
    return create_logger(
        names,
        folder=options.folder,
        name=options.name,
        project=options.project,
        config=config.as_dict(),
        resumed_at=resumed.step if resumed is not None else 0,
    )
