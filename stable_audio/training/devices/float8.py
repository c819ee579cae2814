"""Training with products in floats of 8 bits: which precisions do it, where they run, what they change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from stable_audio.backbones.base import Backbone
from stable_audio.nn.float8 import MULTIPLE, Scaling, compute_in_float8, float8_layers, load_torchao
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.cluster import on_gpu
from stable_audio.training.processes.splitting import SPLITTING
from stable_audio.transforms.recorded import Record
from stable_audio.wording import plural

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Float8:
    """How a run computes in 8 bits.

    Attributes:
        scaling: what shares a scale.
        emulated: values are rounded to 8 bits, and multiplied in float32.
    """

    scaling: Scaling
    emulated: bool = False


FLOAT8: Mapping[str, Float8] = MappingProxyType(
    {
        "fp8-mixed": Float8(scaling="tensorwise"),
        "fp8-rowwise-mixed": Float8(scaling="rowwise"),
        "fp8-mixed-emulated": Float8(scaling="tensorwise", emulated=True),
        "fp8-rowwise-mixed-emulated": Float8(scaling="rowwise", emulated=True),
    }
)
"""Precisions, by their names for `--precision`."""

OF_THE_REST = "bf16-mixed"
"""Lightning's name for what all else is computed in."""

OLDEST = (8, 9)
"""Compute capability of the oldest NVIDIA GPUs that multiply floats of 8 bits."""

OLDEST_ROCM = (9, 4)
"""What torch gives for the oldest AMD GPUs that do, those with gfx94."""

STRATEGIES = ("auto", "", "ddp", *SPLITTING)
"""Strategies that leave the precision to the run."""


def without_float8(precision: str) -> str:
    """What a run computes in outside of the layers that compute in 8 bits."""
    return OF_THE_REST if precision in FLOAT8 else precision


def check_float8(options: RunOptions) -> None:
    """Refuse runs in 8 bits that this machine cannot do; others pass.

    Raises:
        TrainingError: the device, or the strategy.
        ImportError: torchao is not installed.
    """
    if options.precision not in FLOAT8:
        return
    flag = f"--precision {options.precision}"
    load_torchao()
    if options.strategy not in STRATEGIES:
        raise TrainingError(
            f"{flag} works with --strategy {', '.join(filter(None, STRATEGIES))}, and "
            f"--strategy {options.strategy} sets a precision of its own; use one of these, or --precision "
            f"{OF_THE_REST}"
        )
    emulated = FLOAT8[options.precision].emulated
    if emulated and options.accelerator == "mps":
        raise TrainingError(f"{flag} needs a CPU or a CUDA device, found --accelerator mps; use another one")
    if not emulated and (found := _obstacle(options)):
        other = next(n for n, how in FLOAT8.items() if how.emulated and n.startswith(options.precision))
        raise TrainingError(
            f"{flag} multiplies floats of 8 bits, as GPUs from compute capability "
            f"{'.'.join(map(str, _oldest()))} on do, and {found}; use --precision {OF_THE_REST}, or {other} "
            "to see, slowly, what the rounding does to a run"
        )


def _oldest() -> tuple[int, int]:
    return OLDEST if torch.version.hip is None else OLDEST_ROCM


def _obstacle(options: RunOptions) -> str | None:
    """Why the devices of a run do not multiply floats of 8 bits; None if they do."""
    if not on_gpu(options):
        return "this run has no such GPU"
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        if capability < _oldest():
            return f"{torch.cuda.get_device_name(index)} has {'.'.join(map(str, capability))}"
    return None


def layers_of(model: nn.Module, precision: str) -> list[nn.Linear]:
    """The layers of the backbones of a model that compute in 8 bits with a precision of `FLOAT8`.

    Raises:
        TrainingError: there are none.
    """
    backbones = [part for part in model.modules() if isinstance(part, Backbone)]
    found = [float8_layers(backbone.units, backbone.hidden_matrices()) for backbone in backbones]
    layers = list({id(layer): layer for each in found for layer in each}.values())
    if not layers:
        raise TrainingError(
            f"--precision {precision} is for trained linear layers in the blocks of a backbone, with widths "
            f"that are multiples of {MULTIPLE}, and this model has none (convolutions, frozen weights and "
            f"adapters do not count); use --precision {OF_THE_REST}"
        )
    return layers


def use_float8(model: nn.Module, precision: str, *, compiled: bool) -> list[Record]:
    """Let the layers of a model compute in 8 bits in training, if its precision says so.

    Args:
        compiled: the run compiles its networks.

    Returns:
        records of what was done, for `run.json`.

    Raises:
        TrainingError: the model has no such layers.
    """
    if precision not in FLOAT8:
        return []
    how, layers = FLOAT8[precision], layers_of(model, precision)
    compute_in_float8(model, layers, scaling=how.scaling, emulated=how.emulated)
    weights = sum(layer.weight.numel() for layer in layers)
    share = weights / sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.info(
        "--precision %s: %s in 8 bits, with %.0f%% of the trained weights",
        precision,
        plural(len(layers), "linear layer", "compute"),
        100 * share,
    )
    if not (compiled or how.emulated):
        log.info("without --compile, rounding to 8 bits takes steps of its own, which may cost the gain")
    return [{"type": "float8", "config": {**vars(how), "layers": len(layers)}}]
