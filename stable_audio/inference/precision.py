"""Data type and device of a loaded model."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch

from stable_audio.inference.offload import offload
from stable_audio.inference.quantize import hold_in_4_bits, quantized
from stable_audio.inference.rates import bfloat16_gain
from stable_audio.model import DiffusionModel
from stable_audio.nn.replay import replay

INT8, INT4 = "int8", "int4"
QUANTISED = (INT8, INT4)
DTYPES = ("float32", "float16", "bfloat16", INT8, INT4)
"""Names of the types that a backbone's weights can have."""

AUTO = "auto"
"""Stands for the type that a device computes fastest in without loss to the ear."""

WORTH_ROUNDING = 1.6
"""How many times faster than float32 bfloat16 must be on a CPU: a smaller gain is not worth its rounding.

CPUs with AMX gain more in a training step (1.8 to 2.5 times, as other programs leave them) and others less
(1.4 times), so that another measurement seldom decides otherwise."""

MANY_CLIPS = 100
"""Clips for which compiling pays by itself: it takes as long as some hundred steps of a large model."""


def dtype_for(name: str, device: torch.device | str) -> str:
    """The type that a name stands for: "auto" is half precision on a CUDA device, float32 elsewhere; on a CPU
    bfloat16 if a short measurement finds it at least 1.6 times as fast."""
    if name != AUTO:
        return name
    if torch.device(device).type == "cpu":
        gain = bfloat16_gain(torch.device(device), training=False)
        return "bfloat16" if gain >= WORTH_ROUNDING else "float32"
    return _half_on_cuda(device)


def _half_on_cuda(device: torch.device | str) -> str:
    if torch.device(device).type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def compiling_pays(device: torch.device | str, *, clips: int, dtype: str) -> bool:
    """Whether so many clips are rendered sooner by a backbone that is compiled first."""
    if torch.device(device).type != "cuda" or dtype == INT8 or clips < MANY_CLIPS:
        return False
    # Triton makes its kernels' launchers with a C compiler.
    compilers = (os.environ.get("CC"), "gcc", "clang", "cc")
    has_compiler = any(name and shutil.which(name) for name in compilers)
    return has_compiler and importlib.util.find_spec("triton") is not None


def place(
    model: DiffusionModel,
    *,
    dtype: str,
    device: torch.device | str,
    in_turn: bool = False,
    compiled: bool = False,
) -> DiffusionModel:
    """Move `model` to `device`, in eval mode, and convert its backbone's weights to `dtype`, no others.

    Args:
        dtype: name of a torch type; `auto`, see `dtype_for`; `int8`: large linear and convolution layers in
            8 bits, the others in float32; or `int4`: large linear layers in 4 bits, the others in half
            precision on a CUDA device, else in float32 (see `stable_audio.inference.quantize`). Such models
            can only generate.
        in_turn: move its parts to `device` one after the other, each for as long as it computes; see
            `stable_audio.inference.offload`.
        compiled: let `torch.compile` make kernels for the backbone. The first call takes minutes for a large
            model, and calls of other shapes (batch, length) take long once more; results differ by rounding.
            On a CUDA device calls are recorded and replayed, too, unless the parts take turns there.

    Raises:
        ImportError: int4 without torchao, which rounds the weights.
        ValueError: int8 on a device other than the CPU or compiled, or `in_turn` on the CPU.
    """
    device = torch.device(device)
    if compiled and dtype == INT8:
        raise ValueError("int8 weights have kernels of their own; leave out int8, or compiling (--compile)")
    dtype = dtype_for(dtype, device)
    if compiled:
        model.backbone.compile()
        if device.type == "cuda" and not in_turn:
            replay(model.backbone)
    if dtype != INT8:
        if dtype == INT4:
            hold_in_4_bits(model.backbone)
        # Nothing is measured beside int4: recipes say no more than that, and must give the same sound again.
        model.backbone.to(getattr(torch, _half_on_cuda(device) if dtype == INT4 else dtype))
        if in_turn:
            return offload(model, device).eval()
        return model.to(device).eval()
    if device.type != "cpu":
        raise ValueError(
            f"int8 weights run on the CPU, but the device is {device}: use the device cpu (--device cpu)"
        )
    if in_turn:
        raise ValueError("int8 weights run on the CPU, whose memory they are in; leave --offload out")
    model.to(device).eval()
    model.backbone = quantized(model.backbone)  # type: ignore[assignment]
    return model
