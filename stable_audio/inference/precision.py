"""In which numbers, and where, a loaded model computes."""

from __future__ import annotations

import torch

from stable_audio.inference.quantize import quantized
from stable_audio.model import DiffusionModel

INT8 = "int8"
DTYPES = ("float32", "float16", "bfloat16", INT8)
"""Names of what a backbone's weights can be."""


def place(model: DiffusionModel, *, dtype: str, device: torch.device | str) -> DiffusionModel:
    """Move `model` to `device`, in eval mode, its backbone with weights of `dtype`; the rest keeps its own.

    Args:
        dtype: name of a torch type, or `int8`: large linear and convolution layers in 8 bits, the others in
            float32 (see `stable_audio.inference.quantize`). Such a model can only generate.

    Raises:
        ValueError: int8 anywhere else than on the CPU.
    """
    device = torch.device(device)
    if dtype != INT8:
        model.backbone.to(getattr(torch, dtype))
        return model.to(device).eval()
    if device.type != "cpu":
        raise ValueError(
            f"int8 weights run on the CPU, but the device is {device}: use the device cpu (--device cpu)"
        )
    model.to(device).eval()
    model.backbone = quantized(model.backbone)  # type: ignore[assignment]
    return model
