"""The precision that `--precision auto` stands for, which a run keeps from its first start on."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.inference.precision import WORTH_ROUNDING
from stable_audio.inference.rates import bfloat16_gain
from stable_audio.training.devices.float8 import check_float8
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.cluster import on_gpu
from stable_audio.training.record.run_record import RECORD, last_start, read_record
from stable_audio.training.saving.resuming import Resumed

log = logging.getLogger(__name__)

AUTO, FLOAT32, MIXED = "auto", "32-true", "bf16-mixed"

PRECISION_KEY = "precision"
"""Key of a training checkpoint's entry: (type of device, precision) of its run."""


def decided(options: RunOptions, *, processes: int, resumed: Resumed | None) -> RunOptions:
    """Options with a precision that has a name of its own.

    A run that continues keeps the precision that it had on this type of device, so that it goes on with the
    same bits. A new one takes bfloat16 on GPUs that compute it, else float16; on a CPU bfloat16 if a short
    measurement finds it at least 1.6 times as fast as float32, or what a start took that has left no
    checkpoint. Several processes on CPUs, each of which would measure something else, take float32.

    Args:
        processes: of the run, on all machines.
        resumed: the checkpoint that it continues from, or None.

    Raises:
        TrainingError: this machine cannot go on in that precision.
    """
    if options.precision != AUTO:
        return options
    device = device_type(options)
    stored = None if resumed is None else resumed.content[TRAINING_ENTRY].get(PRECISION_KEY)
    if stored is not None and stored[0] == device:
        kept = replace(options, precision=stored[1])
        check_float8(kept)
        return kept
    if device == "cuda":
        whole = torch.cuda.is_bf16_supported(including_emulation=False)
        return replace(options, precision=MIXED if whole else "16-mixed")
    if device != "cpu" or processes > 1 or resumed is not None:  # checkpoints without the key are older
        return replace(options, precision=FLOAT32)
    if (options.recover or options.requeue) and (earlier := _of_earlier_start(options)) is not None:
        return replace(options, precision=earlier)
    gain = bfloat16_gain(torch.device("cpu"), training=True)
    chosen = MIXED if gain >= WORTH_ROUNDING else FLOAT32
    log.info("--precision auto: bfloat16 would train about %.2g times as fast here, so %s", gain, chosen)
    return replace(options, precision=chosen)


def _of_earlier_start(options: RunOptions) -> str | None:
    """The precision of the last start in the folder, if that may have been taken by a measurement."""
    last = last_start(read_record(options.folder / RECORD)["starts"])
    if last is None or last.get("gpus"):
        return None
    precision = last["options"].get(PRECISION_KEY)
    return precision if precision in (FLOAT32, MIXED) else None


def device_type(options: RunOptions) -> str:
    """Type of the device of a run."""
    if on_gpu(options):
        return "cuda"
    if options.accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"
