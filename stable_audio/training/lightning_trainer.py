"""The Lightning trainer of a run: devices, strategy, precision, no logging of its own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn

from stable_audio.training.devices.float8 import FLOAT8, OF_THE_REST
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.cluster import ProcessLayout, on_gpu
from stable_audio.training.processes.splitting import FSDP, HSDP, SPLITTING, SplitWeights, group_advice
from stable_audio.training.saving.checkpoint_io import AtomicCheckpointIO

STRATEGIES = {"deepspeed": "deepspeed_stage_2"}
DDP = "ddp"


def build_trainer(
    options: RunOptions,
    placed: ProcessLayout,
    io: AtomicCheckpointIO,
    *,
    accumulate: bool,
    alike: bool = False,
) -> pl.Trainer:
    """Build the trainer of a run.

    Args:
        options: options of the run, with a precision other than "auto".
        placed: devices and nodes of the run.
        io: object that writes checkpoints.
        accumulate: whether Lightning accumulates the gradients of several batches; otherwise the module does.
        alike: whether every step has a gradient for the same weights.

    Raises:
        TrainingError: Lightning refuses the options.
    """
    try:
        with quiet_lightning():
            return _new_trainer(options, placed, io, accumulate=accumulate, alike=alike)
    except MisconfigurationException as error:
        raise TrainingError(f"Lightning refuses these options: {' '.join(str(error).split())}") from error


def _new_trainer(
    options: RunOptions, placed: ProcessLayout, io: AtomicCheckpointIO, *, accumulate: bool, alike: bool
) -> pl.Trainer:
    strategy = _strategy(options, placed, alike)
    precision = _own_precision(options, strategy)
    return pl.Trainer(
        accelerator=options.accelerator,
        devices=placed.devices,
        num_nodes=placed.nodes,
        strategy=strategy,
        precision=None if precision is not None else options.precision,  # type: ignore[arg-type]
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
        plugins=[io, placed.environment, *([] if precision is None else [precision])],
    )


def _own_precision(options: RunOptions, strategy: str | Strategy) -> Precision | None:
    """The precision of a run where it is none that Lightning has under this name."""
    name = options.precision
    if name in FLOAT8:
        return Float8Mixed(name, device="cuda" if on_gpu(options) else "cpu")
    # Strategies that split weights have a precision of their own.
    whole = strategy == "auto" or isinstance(strategy, DDPStrategy)
    return LowPrecision(name) if name == "bf16-true" and whole else None  # type: ignore[arg-type]


class Float8Mixed(MixedPrecision):
    """Autocast to bfloat16, under the name of a precision some of whose layers compute in 8 bits."""

    def __init__(self, name: str, *, device: str) -> None:
        super().__init__(OF_THE_REST, device)  # type: ignore[arg-type]
        self.precision = name  # type: ignore[assignment]

    def autocast_context_manager(self) -> torch.autocast:
        """As of the precision of the rest, which Lightning knows by its name."""
        return torch.autocast(self.device, dtype=torch.bfloat16, cache_enabled=False)


class LowPrecision(HalfPrecision):
    """Weights in 16 bits, as Lightning has them, and so batches, unless a frozen autoencoder encodes these in
    the loop: sound in 16 bits has audible noise, which would be in all latents."""

    _keeps_input = False

    def convert_module(self, module: nn.Module) -> nn.Module:
        self._keeps_input = bool(getattr(module, "encodes_sound", False))
        return super().convert_module(module)

    def convert_input(self, data: Any) -> Any:
        return data if self._keeps_input else super().convert_input(data)


def _strategy(options: RunOptions, placed: ProcessLayout, alike: bool) -> str | Strategy:
    alone = placed.processes == 1
    if options.strategy in SPLITTING and not (alone and not options.cpu_offload):
        _check_torch(options)
        size = None if options.strategy == FSDP or alone else shard_size(options, placed)
        gathers = options.checkpoint_format == "file"
        return SplitWeights(gathers=gathers, shard_size=size, cpu_offload=options.cpu_offload)
    if options.strategy not in ("auto", "", DDP, *SPLITTING):
        return STRATEGIES.get(options.strategy, options.strategy)
    # What is known after the first batch is exchanged with it, which the first of several batches is not.
    return "auto" if alone else _ddp(alike and options.accum_batches == 1, on_gpu(options))


def _check_torch(options: RunOptions) -> None:
    """Raise TrainingError where torch splits weights on GPUs alone, as 2.6 does."""
    if not on_gpu(options) and not hasattr(torch.cpu.Stream, "record_event"):
        raise TrainingError(
            f"--strategy {options.strategy} on CPUs needs a newer torch than {torch.__version__}, which "
            "splits weights on GPUs alone; update torch, or use --strategy ddp"
        )


def _ddp(alike: bool, gpu: bool) -> DDPStrategy:
    """A whole copy of the model for each process.

    Weights without a part in any step, such as a conditioner that nothing reads, are known after the first
    one (`static_graph`). Where steps differ, each of them is searched for weights that it leaves out. On GPUs
    gradients lie in the memory that is sent; on a CPU that was slower.
    """
    return DDPStrategy(static_graph=alike, find_unused_parameters=not alike, gradient_as_bucket_view=gpu)


def shard_size(options: RunOptions, placed: ProcessLayout) -> int:
    """Processes that share one copy of the model with `--strategy hsdp`; default: those of one machine.

    Raises:
        TrainingError: the processes do not divide into several groups of that size.
    """
    size = options.shard_size if options.shard_size is not None else placed.local
    if size < 2 or placed.processes % size or placed.processes == size:
        origin = "--shard-size says" if options.shard_size is not None else "one machine has"
        raise TrainingError(
            f"--strategy {HSDP} splits the model over groups of {size} processes, as {origin}, and this run "
            f"has {placed.processes}, which must be several whole groups of at least 2; "
            f"{group_advice(placed.processes)}"
        )
    return size


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's hints, which do not apply: batches never end, logs and checkpoints are ours, and
    every process has said which one it is."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            # Nothing here writes into what a network returns.
            warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
