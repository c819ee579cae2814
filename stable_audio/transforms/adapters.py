"""Adapters to train instead of the weights of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from torch import nn

from stable_audio.adapters.layers import own_parameters
from stable_audio.adapters.settings import AdapterSettings
from stable_audio.adapters.stack import AdapterStack
from stable_audio.nn.held import Bits, can_hold, hold
from stable_audio.ranges import Positive
from stable_audio.transforms.base import Transform
from stable_audio.transforms.freezing import convertible_layers, hold_in

ADAPTERS = "adapters"
"""Name of the transform in records."""

AdapterTypeName = Literal[
    "lora", "dora-rows", "dora-cols", "bora", "lora-xs", "dora-rows-xs", "dora-cols-xs", "bora-xs", "dora"
]
BasePrecision = Literal["float32", "bf16", "bfloat16", "fp16", "float16", "int8", "int4"]
_DTYPES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
}
_BITS: dict[str, Bits] = {"int8": 8, "int4": 4}


class Adapters(Transform):
    """Freeze a model and train an adapter of its backbone and conditioner.

    Layers that are frozen before have no adapter. The trained tensors stay in 32 bits.

    Args:
        rank: rank of the updates.
        alpha: updates are multiplied by alpha / rank; default: the rank.
        adapter_type: what the updates are made of; `dora` is an old name of `dora-rows`.
        dropout: probability with which a step leaves out an input feature of `lora_A`.
        include: parts of the names of layers that get an adapter, in which `[0-3]` stands for every number
            from 0 to 3; default: all.
        exclude: parts of the names of layers that do not.
        base_precision: what the linear and convolutional layers of the base are held in; `int8` and `int4`
            are for large linear layers, the others are held in bfloat16 then.
    """

    names_weights = False  # files have the adapter apart, and loading merges it

    def __init__(
        self,
        *,
        rank: Positive = 8,
        alpha: float | None = None,
        adapter_type: AdapterTypeName = "lora",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        base_precision: BasePrecision = "float32",
    ) -> None:
        self.settings = AdapterSettings(
            rank=rank,
            alpha=alpha,
            adapter_type="dora-rows" if adapter_type == "dora" else adapter_type,
            dropout=dropout,
            include=include,
            exclude=exclude,
        )
        self.base_precision = base_precision

    def apply(self, model: nn.Module) -> None:
        backbone, conditioner = getattr(model, "backbone", None), getattr(model, "conditioner", None)
        if not isinstance(backbone, nn.Module) or not hasattr(model, "wiring"):
            raise ValueError(f"a {type(model).__name__} has no adapters: they are for diffusion models")
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        model.requires_grad_(False)
        stack = AdapterStack(backbone, conditioner)
        stack.layers = {
            name: layer
            for name, layer in stack.layers.items()
            if any(id(p) in trained for p in own_parameters(layer))
        }
        stack.add(self.settings, by_activations=True, change_base=lambda: self._hold(model))

    def rebuild(self, model: nn.Module) -> None:
        pass

    def _hold(self, model: nn.Module) -> None:
        if self.base_precision == "float32":
            return
        bits, dtype = _BITS.get(self.base_precision), _DTYPES.get(self.base_precision, torch.bfloat16)
        parts: list[Any] = [model.backbone, getattr(model, "conditioner", None)]
        for _, layer in (item for part in parts if part is not None for item in convertible_layers(part)):
            if bits is not None and can_hold(layer, bits):
                hold(layer, bits)
            else:
                hold_in(layer, dtype)
