"""The precisions that a run may have, and what each of them cannot be combined with."""

from __future__ import annotations

import torch

from stable_audio.training.devices.float8 import FLOAT8, check_float8
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.precision_names import SHORT
from stable_audio.training.processes.splitting import SPLITTING

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true", *FLOAT8)
"""Their names, beside the short ones."""

_REFUSED = {
    "16-true": "keeps weights and optimizer in float16 and does not scale the loss, so that small gradients "
    "become 0 and weights soon are no numbers; use --precision bf16-true, or 16-mixed on a GPU",
    "transformer-engine": "puts layers of another package in place of the model's, whose weights no "
    "checkpoint here has; use --precision fp8-mixed, which computes in 8 bits and keeps them",
}
"""Names of Lightning's that are none here, and why."""


def check_precision(options: RunOptions) -> None:
    """Raise for a precision that this run cannot have.

    Raises:
        TrainingError: it is unknown, or not for this strategy or device.
        ImportError: a package that it needs is not installed.
    """
    name = options.precision
    if (why := _REFUSED.get(name.removesuffix("-float16"))) is not None:
        raise TrainingError(f"--precision {name} {why}")
    if name not in PRECISIONS:
        allowed = ", ".join((*PRECISIONS, *SHORT))
        raise TrainingError(f"--precision {name!r} is unknown; allowed: {allowed}")
    if options.strategy in SPLITTING and name == "16-mixed":
        raise TrainingError(
            f"--strategy {options.strategy} does not scale gradients of float16; use --precision bf16-mixed "
            "or 32"
        )
    if options.strategy in SPLITTING and name == "64-true":
        raise TrainingError(
            f"--strategy {options.strategy} does not split weights in float64; use --precision 32, or "
            "--strategy ddp"
        )
    if name == "16-mixed" and not _has_gpu(options):
        raise TrainingError(
            "--precision 16-mixed scales gradients of float16, which is for GPUs, and this run has none; use "
            "--precision bf16-mixed or 32"
        )
    check_float8(options)


def _has_gpu(options: RunOptions) -> bool:
    return options.accelerator != "cpu" and (torch.cuda.is_available() or torch.backends.mps.is_available())
