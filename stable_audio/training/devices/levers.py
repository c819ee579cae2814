"""Check that what saves memory in a run fits the rest of its settings, before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_audio.nn.checkpointing import ELEMENTWISE
from stable_audio.optim import OPTIMIZERS
from stable_audio.optim.low_bit import LowBitAdam
from stable_audio.optim.torchao_classes import require_torchao
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.cluster import on_gpu
from stable_audio.training.processes.splitting import SPLITTING

WHOLE_WEIGHTS_ONLY = ("Adafactor", "Rprop")
"""Optimizers of torch whose operations do not take parts of weights."""


def check_levers(section: Any, options: RunOptions, *, processes: int) -> None:
    """Refuse settings that do not work together.

    Args:
        section: the `training` section of the model file.
        processes: of the run, on all machines.

    Raises:
        TrainingError: with every reason.
        ImportError: an optimizer needs a package that is not installed.
    """
    for kind in _low_bit_optimizers(section):
        require_torchao(kind)
    obstacles = [
        *_of_gradient_release(section, options, processes),
        *_of_blocks(section, options, processes),
        *_of_optimizers(section, options, processes),
    ]
    if obstacles:
        raise TrainingError("; ".join(obstacles))


def _of_gradient_release(section: Any, options: RunOptions, processes: int) -> Iterator[str]:
    if not getattr(section, "gradient_release", False):
        return
    key = "$.training.gradient_release"
    if options.gradient_clip_val > 0:
        yield (
            f"{key}: weights step before the norm of the whole gradient is known, so it cannot be clipped to "
            f"{options.gradient_clip_val:g}; set gradient_clip_val to 0, or leave gradient_release out"
        )
    if options.accum_batches > 1:
        yield (
            f"{key}: weights step in every backward pass, so gradients of {options.accum_batches} batches "
            "cannot be accumulated; set --accum-batches to 1, or leave gradient_release out"
        )
    if processes > 1 or options.strategy in SPLITTING:
        yield (
            f"{key}: weights step before the gradients of several processes are averaged; train with one "
            "process, or leave gradient_release out"
        )
    if options.precision == "16-mixed":
        yield (
            f"{key}: weights step before float16 gradients are known to be in range; use --precision "
            "bf16-mixed or 32, or leave gradient_release out"
        )


def _of_optimizers(section: Any, options: RunOptions, processes: int) -> Iterator[str]:
    if processes == 1 or options.strategy not in SPLITTING:
        return
    for name, config in getattr(section, "optimizer_configs", None) or ():
        kind = config.optimizer.type if config is not None else None
        if kind in WHOLE_WEIGHTS_ONLY:
            yield (
                f"$.training.optimizer_configs.{name}.optimizer.type: {kind} steps with whole weights only, "
                f"and --strategy {options.strategy} splits them; take AdamW, Muon, or --strategy ddp"
            )


def _low_bit_optimizers(section: Any) -> Iterator[type[LowBitAdam]]:
    for _, config in getattr(section, "optimizer_configs", None) or ():
        kind = OPTIMIZERS.get(config.optimizer.type) if config is not None else None
        if kind is not None and issubclass(kind, LowBitAdam):
            yield kind


def _of_blocks(section: Any, options: RunOptions, processes: int) -> Iterator[str]:
    if not getattr(section, "offload_blocks", False):
        return
    key = "$.training.offload_blocks"
    if not on_gpu(options):
        yield f"{key}: this run is on the CPU, in whose memory the weights are anyway; leave the key out"
    if section.gradient_checkpointing not in (True, 1, ELEMENTWISE):
        yield (
            f"{key}: blocks that keep their activations keep the weights on the GPU, too; set "
            f'gradient_checkpointing to true or "{ELEMENTWISE}"'
        )
    if processes > 1 or options.strategy in SPLITTING or options.compile:
        yield (
            f"{key}: weights come and go while blocks compute, which neither several processes nor --compile "
            "allow; train with one process and without --compile, or leave the key out"
        )
