"""Assembles and runs a training: config, dataset and options in, exit status out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from stable_audio.checkpoints import resolve
from stable_audio.checkpoints.files import TRAINING_ENTRY
from stable_audio.config import DatasetConfig, ModelConfig
from stable_audio.config.reading.sources import Source
from stable_audio.config.rules.datasets import packs
from stable_audio.data.loader import ResumableLoader
from stable_audio.data.world import World, launched_world
from stable_audio.factory.datasets import create_loader, dataset_config
from stable_audio.factory.pairing import pairing_problems
from stable_audio.pretransforms.conv import has_folded
from stable_audio.pretransforms.fingerprint import pretransform_hash
from stable_audio.training.base import TrainingModule
from stable_audio.training.build import build_demos, build_training
from stable_audio.training.callbacks.base import Bookkeeping
from stable_audio.training.callbacks.checkpoints import Checkpoints
from stable_audio.training.callbacks.demos import RenderDemos
from stable_audio.training.callbacks.estimate import EstimateTime
from stable_audio.training.callbacks.progress import ProgressLine
from stable_audio.training.callbacks.scalars import LogScalars, ResumeClock
from stable_audio.training.callbacks.stop import StopOnSignal
from stable_audio.training.callbacks.validation import Validate
from stable_audio.training.checkpoint_io import AtomicCheckpointIO
from stable_audio.training.cluster import Layout, keep_signals, layout, meet, on_gpu
from stable_audio.training.compiling import compile_networks
from stable_audio.training.continuing import check_changes
from stable_audio.training.errors import TrainingError
from stable_audio.training.feed import RunData
from stable_audio.training.folder import claim
from stable_audio.training.hardware import check_hardware
from stable_audio.training.loggers import RunLogger, check_loggers, create_logger
from stable_audio.training.options import RunOptions
from stable_audio.training.record import EarlyLog, logged_to, record_run
from stable_audio.training.recovery import load_training_file, newest_whole
from stable_audio.training.requeue import refuse_no_job, requeue
from stable_audio.training.schedules import within_schedules
from stable_audio.training.start import continuing_model, match_training, starting_model, with_hash
from stable_audio.training.stopping import SAVE, StopRequest
from stable_audio.training.summary import Summary, end_lines
from stable_audio.training.writer import BackgroundWriter

log = logging.getLogger(__name__)

STRATEGIES = {"deepspeed": "deepspeed_stage_2"}


@dataclass
class Run:
    """The parts of one training, put together; `start` runs it."""

    config: ModelConfig
    options: RunOptions
    module: TrainingModule
    data: RunData
    trainer: pl.Trainer
    scalars: LogScalars
    checkpoints: Checkpoints
    demos: RenderDemos | None
    logger: RunLogger
    io: AtomicCheckpointIO
    stop: StopRequest
    resume: Path | None
    record: Callable[[], None] | None = None
    meet: Callable[[], object] | None = None
    early: EarlyLog | None = None

    def start(self) -> int:
        """Train until the last step or until asked to stop; returns the exit status.

        Raises:
            TrainingError: the run could not go on, or its last checkpoint could not be written.
        """
        with logged_to(self.options.folder, self.trainer.global_rank, self.early):
            return self._start()

    def _start(self) -> int:
        self.stop.install()
        if self.trainer.is_global_zero and self.record is not None:
            self.record()
        if self.trainer.strategy.root_device.type == "cuda":
            torch.set_float32_matmul_precision(self.options.matmul_precision)
        try:
            place = self.meet() if self.meet is not None else None  # noqa: F841  # open while they meet
            with _quiet_lightning():
                self.trainer.fit(
                    self.module,
                    datamodule=self.data,
                    ckpt_path=str(self.resume) if self.resume is not None else None,
                )
        except (torch.distributed.DistNetworkError, torch.distributed.DistStoreError) as error:
            raise TrainingError(
                f"the {self.trainer.world_size} processes of this run did not meet, or lost each other "
                f"({str(error).splitlines()[0]}); start each of them with one launcher (torchrun; srun in a "
                "batch script), with the same MASTER_ADDR and a free MASTER_PORT"
            ) from error
        finally:
            try:
                self.io.writer.wait()
            finally:
                self.logger.close()
                self.stop.restore()
        if self.trainer.is_global_zero:
            for line in self._end_lines():
                log.info("%s", line)
        if self.io.failure is not None:
            raise TrainingError(self.io.failure)
        if self.stop.signal == SAVE and self.trainer.is_global_zero:
            requeue()
        return self.stop.exit_status

    def _end_lines(self) -> Iterator[str]:
        conditioner: Any = getattr(self.module.model, "conditioner", None)
        return end_lines(
            self.options.folder,
            self.trainer.global_step,
            model_type=self.config.model_type,
            stopped=self.stop.signal is not None,
            prompts=conditioner is not None and "prompt" in conditioner.ids(),
        )


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
        early: what was logged while the files were read; it opens the log of the run.

    Raises:
        TrainingError, CheckpointError, DataError: what is wrong, in one sentence.
    """
    with early if early is not None else EarlyLog() as early:
        run = assemble(config, dataset, options, val_dataset=val_dataset, stop=stop)
        run.early = early
    return run.start()


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
    stop.save_ends = options.requeue
    check_hardware(options, averages=config.training is not None and config.training.use_ema)
    check_loggers(options.logger)
    dataset = dataset_config(dataset)
    val_dataset = dataset_config(val_dataset) if val_dataset is not None else None
    world = world if world is not None else launched_world()
    placed = layout(options, world)
    if world.size > 1:
        log.info("%s; they meet at %s:%s", world, world.address, world.port)
        if not world.certain:
            log.warning(
                "SLURM allots %d tasks, but does not say that it started this one; in a batch script put "
                "`srun` before the command, or ask for one task: this process waits for the others",
                world.size,
            )
    if options.requeue:
        refuse_no_job()
    _refuse_datasets(config, options, (dataset, val_dataset))
    resume, content = _resume(options)
    resumed_at = int(content[TRAINING_ENTRY]["step"]) if resume is not None else 0
    if resume is not None:
        check_changes(config, content.get("model_config"), resume)
    clear = claim(options.folder, overwrite=options.overwrite, continues=_continues(options, resume))
    if resume is None:
        model = starting_model(config, options)
        config = with_hash(config, model)
    else:
        model = continuing_model(config, options, resume, content["state_dict"])
    if options.compile:
        compile_networks(model)
    module = build_training(
        config,
        model,
        seed=options.seed,
        batch_size=options.batch_size,
        gradient_clip_val=options.gradient_clip_val,
    )
    if resume is not None:
        match_training(module, resume, content)
    options = within_schedules(module, options)
    module.run_steps = options.max_steps
    io = AtomicCheckpointIO(BackgroundWriter(background=options.background_checkpoints))
    data = RunData(_loader(config, module, dataset, options, training=True))
    if not module.automatic_optimization:
        module.accum_batches = options.accum_batches
    trainer = _trainer(options, placed, io, accumulate=module.automatic_optimization)
    keep_signals(trainer)
    if trainer.is_global_zero:
        clear()
    logger = _logger(config, options, trainer, resumed_at)
    scalars = LogScalars(
        logger,
        data,
        every=options.log_every,
        batch_seconds=_batch_seconds(config, module, dataset, trainer, options),
    )
    checkpoints = Checkpoints(
        options.folder,
        config.as_dict(),
        data,
        io,
        every=options.checkpoint_every,
        keep=options.keep,
        minutes=options.checkpoint_minutes,
    )
    demos = _demos(config, options, logger)
    validate = _validation(config, module, val_dataset, options, logger, io.writer)
    callbacks: list[pl.Callback | None] = [
        Bookkeeping(),
        scalars,
        validate,
        demos,
        checkpoints,
        StopOnSignal(stop, checkpoints),
        Summary(config, options, data, row=_row_samples(config, module, dataset)),
    ]
    if options.max_steps > 0:
        callbacks.append(EstimateTime(max_steps=options.max_steps))
    if options.progress:
        callbacks.append(ProgressLine(scalars, max_steps=options.max_steps))
    callbacks.append(ResumeClock(scalars))
    trainer.callbacks.extend(c for c in callbacks if c is not None)  # type: ignore[attr-defined]
    return Run(
        config=config,
        options=options,
        module=module,
        data=data,
        trainer=trainer,
        scalars=scalars,
        checkpoints=checkpoints,
        demos=demos,
        logger=logger,
        io=io,
        stop=stop,
        resume=resume,
        record=partial(
            record_run,
            options,
            {
                "model": config.as_dict(),
                "dataset": dataset.as_dict(),
                "val_dataset": val_dataset.as_dict() if val_dataset is not None else None,
            },
            processes=trainer.world_size,
            resumed_from=resume,
        ),
        meet=partial(meet, world),
    )


def _resume(options: RunOptions) -> tuple[Path | None, Mapping[str, Any]]:
    """The training checkpoint to continue, and its content."""
    if options.ckpt_path:
        given = Path(options.ckpt_path).expanduser()
        newest = newest_whole(given) if given.is_dir() else None
        return newest if newest is not None else _named(given)
    newest = newest_whole(options.folder) if options.recover or options.requeue else None
    return newest if newest is not None else (None, {})


def _continues(options: RunOptions, resume: Path | None) -> bool:
    """Whether the run goes on in the folder where it began."""
    inside = resume is not None and resume.resolve().is_relative_to(options.folder.resolve())
    return options.recover or options.requeue or inside


def _named(given: Path) -> tuple[Path, Mapping[str, Any]]:
    path = resolve(given)
    return path, load_training_file(path)


def _trainer(options: RunOptions, placed: Layout, io: AtomicCheckpointIO, *, accumulate: bool) -> pl.Trainer:
    try:
        with _quiet_lightning():
            return _new_trainer(options, placed, io, accumulate=accumulate)
    except MisconfigurationException as error:
        raise TrainingError(f"Lightning refuses these options: {' '.join(str(error).split())}") from error


def _new_trainer(
    options: RunOptions, placed: Layout, io: AtomicCheckpointIO, *, accumulate: bool
) -> pl.Trainer:
    return pl.Trainer(
        accelerator=options.accelerator,
        devices=placed.devices,
        num_nodes=placed.nodes,
        strategy=_strategy(options, placed),
        precision=_precision(options),  # type: ignore[arg-type]
        # Modules that optimise by hand accumulate by hand.
        accumulate_grad_batches=options.accum_batches if accumulate else 1,
        max_steps=options.max_steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=options.folder,
        plugins=[io, placed.environment],
    )


def _strategy(options: RunOptions, placed: Layout) -> str:
    if options.strategy not in ("auto", ""):
        return STRATEGIES.get(options.strategy, options.strategy)
    # Parts of a model may be idle in a step (dropped conditioning), which plain DDP does not forgive.
    return "ddp_find_unused_parameters_true" if placed.processes > 1 else "auto"


def _precision(options: RunOptions) -> str:
    if options.precision != "auto":
        return options.precision
    if not on_gpu(options):
        return "32-true"  # bfloat16 is slower than float32 on many CPUs
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _refuse_datasets(
    config: ModelConfig, options: RunOptions, datasets: Sequence[DatasetConfig | None]
) -> None:
    problems = [p for dataset in datasets for p in pairing_problems(config, dataset)]
    if problems:
        raise TrainingError("; ".join(dict.fromkeys(map(str, problems))))
    if options.compile and any(map(packs, datasets)):
        raise TrainingError(
            "--compile does not work with pack_length: rows are made anew in every step, and each would be "
            "compiled; leave one of them out"
        )


def _loader(
    config: ModelConfig,
    module: TrainingModule,
    dataset: DatasetConfig,
    options: RunOptions,
    *,
    training: bool,
) -> Callable[[int, int], ResumableLoader]:
    conditioner = getattr(module.model, "conditioner", None)

    def make(rank: int, world_size: int) -> ResumableLoader:
        return create_loader(
            dataset,
            sample_rate=config.sample_rate,
            sample_size=config.sample_size,
            audio_channels=getattr(module.model, "audio_channels", config.audio_channels),
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            seed=options.seed,
            rank=rank,
            world_size=world_size,
            shuffle=training,
            endless=training,
            repeat=not training,
            augment=training,
            pin_memory=module.device.type == "cuda",
            downsampling_ratio=getattr(module.model, "downsampling_ratio", 1),
            autoencoder_hash=_latents_hash(config, module, options),
            check=conditioner.value_check().refusal if conditioner is not None else None,
        )

    return make


def _latents_hash(config: ModelConfig, module: TrainingModule, options: RunOptions) -> str | None:
    """Which pretransform the stored latents must come from; None where that does not matter."""
    pretransform = getattr(module.model, "pretransform", None)
    stored = getattr(module, "pre_encoded", False)
    if pretransform is None or not stored or options.allow_untrained_pretransform:
        return None
    if has_folded(pretransform):  # the run's config has the hash of the weights before
        return config.model.pretransform.hash
    return pretransform_hash(pretransform)


def _logger(config: ModelConfig, options: RunOptions, trainer: pl.Trainer, resumed_at: int) -> RunLogger:
    names = options.logger if trainer.is_global_zero else "none"
    return create_logger(
        names,
        folder=options.folder,
        name=options.name,
        project=options.project,
        config=config.as_dict(),
        resumed_at=resumed_at,
    )


def _batch_seconds(
    config: ModelConfig,
    module: TrainingModule,
    dataset: DatasetConfig,
    trainer: pl.Trainer,
    options: RunOptions,
) -> float:
    clips = options.batch_size * options.accum_batches * trainer.world_size
    return clips * _row_samples(config, module, dataset) / config.sample_rate


def _row_samples(config: ModelConfig, module: TrainingModule, dataset: DatasetConfig) -> int:
    """Samples per item of a batch."""
    row = getattr(dataset, "pack_length", None)
    return row * getattr(module.model, "downsampling_ratio", 1) if row else config.sample_size


def _demos(config: ModelConfig, options: RunOptions, logger: RunLogger) -> RenderDemos | None:
    built = build_demos(config) if options.demos else None
    if built is None:
        return None
    renderer, every = built
    return RenderDemos(
        renderer, logger, options.folder, every=every, first_minutes=options.first_demo_minutes
    )


def _validation(
    config: ModelConfig,
    module: TrainingModule,
    dataset: DatasetConfig | None,
    options: RunOptions,
    logger: RunLogger,
    writer: BackgroundWriter,
) -> Validate | None:
    if dataset is None:
        return None
    make = _loader(config, module, dataset, options, training=False)
    every = options.val_every if options.val_every > 0 else options.checkpoint_every
    if every < 1:
        raise TrainingError("--val-every must be at least 1 when --checkpoint-every is 0")
    return Validate(make, logger, options.folder, config.as_dict(), writer, every=every)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without hints that do not apply: batches are endless, logging and checkpoints are ours."""
    talker = logging.getLogger("lightning.pytorch")
    level = talker.level
    talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        talker.setLevel(level)
