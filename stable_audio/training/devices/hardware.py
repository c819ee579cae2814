"""Check that this machine has the hardware that the options of a run name, before any file is read."""

from __future__ import annotations

import importlib.util

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from stable_audio.training.devices.precisions import check_precision
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.cluster import on_gpu, parse_devices
from stable_audio.training.processes.splitting import FSDP, HSDP, SPLITTING

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")

CONTINUING = ("--recover", "--requeue")
"""Flags by which a run continues the one in its folder."""

SHARDING = ("deepspeed", "fsdp", "model_parallel")
"""Prefixes of the names of strategies that split the weights over devices."""


def check_hardware(options: RunOptions, *, averages: bool) -> None:
    """Raise for options that cannot work on this machine.

    Args:
        options: options of the run.
        averages: the run keeps an average of the weights.

    Raises:
        TrainingError: an accelerator, device, strategy or precision is absent or unknown.
        ImportError: a package that a strategy or a precision needs is not installed.
    """
    _check_accelerator(options.accelerator)
    _check_devices(options)
    _check_strategy(options.strategy)
    shards = options.strategy.startswith(SHARDING) and options.strategy not in SPLITTING
    if averages and shards:
        raise TrainingError(
            f"--strategy {options.strategy} flattens the weights that it splits over devices, and their "
            f"average cannot be kept then; use --strategy {FSDP}, which splits and averages, or --strategy "
            "ddp, or set use_ema to false in the config's training section"
        )
    _check_splitting(options)
    _check_deepspeed(options)
    if shards and not on_gpu(options):
        raise TrainingError(f"--strategy {options.strategy} needs GPUs, and this run has none; leave it out")
    check_precision(options)


def _check_splitting(options: RunOptions) -> None:
    if options.shard_size is not None and options.strategy != HSDP:
        raise TrainingError(
            f"--shard-size is for --strategy {HSDP}, and this run has --strategy {options.strategy}; leave "
            f"it out, or use --strategy {HSDP}"
        )
    if options.cpu_offload and options.strategy not in SPLITTING:
        raise TrainingError(
            f"--cpu-offload is for --strategy {' and '.join(SPLITTING)}, which gather the weights of a block "
            f"for its computation; this run has --strategy {options.strategy}; leave it out"
        )
    if options.cpu_offload and not on_gpu(options):
        raise TrainingError(
            "--cpu-offload keeps weights in host memory instead of a GPU's, and this run has no GPU; leave "
            "it out"
        )


def _check_deepspeed(options: RunOptions) -> None:
    """Refuse what needs checkpoints or weights that are not DeepSpeed's own."""
    if not options.strategy.startswith("deepspeed"):
        return
    if options.strategy.startswith("deepspeed_stage_3"):
        raise TrainingError(
            f"--strategy {options.strategy} splits weights that cannot be gathered for the files of a run; "
            f"use --strategy {FSDP}, which splits and gathers them"
        )
    for flag, asked in (
        ("--recover", options.recover),
        ("--requeue", options.requeue),
        ("--ckpt-path", bool(options.ckpt_path)),
        ("--checkpoint-format shards", options.checkpoint_format == "shards"),
    ):
        if asked:
            # Without them, a folder that holds a run is refused.
            instead = ", with --overwrite where a run has this --name" if flag in CONTINUING else ""
            raise TrainingError(
                f"{flag} cannot be used with --strategy {options.strategy}, whose checkpoints are folders of "
                f"DeepSpeed's own that no run can be continued from here; leave it out{instead}, or use "
                f"--strategy {FSDP}"
            )


def _check_accelerator(name: str) -> None:
    if name in ("auto", "cpu"):
        return
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name in AcceleratorRegistry.available_accelerators() and name not in there:
        there[name] = AcceleratorRegistry.get(name).is_available()
    if name not in there and name != "gpu":
        raise TrainingError(f"--accelerator {name!r} is unknown; allowed: {', '.join(ACCELERATORS)}")
    if not (any(there.values()) if name == "gpu" else there[name]):
        usable = next((k for k, usable in there.items() if usable), "cpu")
        raise TrainingError(
            f"--accelerator {name}: torch {torch.__version__} finds none on this machine; leave the flag out "
            f"or give --accelerator {usable}"
        )


def _check_devices(options: RunOptions) -> None:
    devices = parse_devices(options.devices)
    if not on_gpu(options):
        if isinstance(devices, list) and options.accelerator != "mps":
            raise TrainingError(
                f"--devices {options.devices} chooses GPUs by number, but there is no GPU that "
                "torch can use; give a count of processes, or leave the flag out"
            )
        return
    count = torch.cuda.device_count()
    required = max(devices) + 1 if isinstance(devices, list) else devices if isinstance(devices, int) else 1
    if required > count:
        raise TrainingError(
            f"--devices {options.devices}, but torch sees {count} GPUs here, with numbers 0 to {count - 1}"
        )


def _check_strategy(name: str) -> None:
    if name in ("auto", ""):
        return
    if name.startswith("deepspeed") and importlib.util.find_spec("deepspeed") is None:
        raise ImportError(
            f"--strategy {name} needs: pip install deepspeed, which the extra brings: "
            'pip install "stable-audio[deepspeed]"; --strategy fsdp splits weights without it'
        )
    strategies = StrategyRegistry.available_strategies()
    if name not in strategies and name not in (*SPLITTING, "deepspeed"):
        short = ("auto", "ddp", "ddp_find_unused_parameters_true", *SPLITTING, "deepspeed")
        raise TrainingError(f"--strategy {name!r} is unknown; usual ones are {', '.join(short)}")
