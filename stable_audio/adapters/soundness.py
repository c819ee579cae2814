"""Whether the tensors of an adapter can be those of one: what damaged files have in their place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stable_audio.adapters.errors import DamagedAdapterError
from stable_audio.adapters.rescaling import Rescaling
from stable_audio.adapters.settings import SETTINGS, AdapterSettings
from stable_audio.adapters.updates import ADAPTER_TYPES
from stable_audio.wording import names

AGAIN = "copy the file again, or take an earlier one of its run"


def values_of(name: str, value: Tensor, source: str) -> Tensor:
    """A stored tensor in float32.

    Raises:
        DamagedAdapterError: it is empty, or has values that are no finite numbers.
    """
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise DamagedAdapterError(
            f"{source}: {name} has values of type {kind}, but floating point numbers are needed; {AGAIN}"
        )
    if not value.numel():
        raise DamagedAdapterError(
            f"{source}: {name} has no values, its shape is {tuple(value.shape)}; {AGAIN}"
        )
    value = value.float()
    # One of the two is not finite if any value is not; `isfinite` of all would take memory of its own.
    if not torch.isfinite(torch.stack(torch.aminmax(value))).all():
        count = int(torch.isfinite(value).logical_not().sum())
        raise DamagedAdapterError(
            f"{source}: {name} holds values that are not finite, {count} of {value.numel()}; {AGAIN}"
        )
    return value


def matrix_of(name: str, value: Tensor, source: str) -> Tensor:
    """A stored tensor as a matrix in float32, kernels flattened.

    Raises:
        DamagedAdapterError: as for `values_of`, or it has one axis.
    """
    if value.ndim < 2:
        raise DamagedAdapterError(
            f"{source}: {name} has the shape {tuple(value.shape)}, but a matrix is needed; {AGAIN}"
        )
    return values_of(name, value, source).flatten(1)


def check_layers(layers: Mapping[str, Mapping[str, Tensor]], settings: AdapterSettings, source: str) -> None:
    """Raise DamagedAdapterError unless each layer has the tensors of the type of the adapter, which agree.

    Args:
        layers: name of each layer -> its trained tensors by name.
    """
    kind = ADAPTER_TYPES[settings.adapter_type]
    for layer, tensors in layers.items():
        if {*tensors} != {*kind.parameters}:
            raise DamagedAdapterError(
                f"{source}: {layer} has the tensors {names(sorted(tensors))}, but the type "
                f"'{settings.adapter_type}' needs {names(sorted(kind.parameters))}; the file is incomplete "
                f"or its {SETTINGS} belongs to another one"
            )
        for name, value in tensors.items():
            if value.ndim != 2 and not name.startswith("magnitude"):
                raise DamagedAdapterError(
                    f"{source}: {layer} has a {name} of the shape {tuple(value.shape)}, but such tensors are "
                    f"matrices; {AGAIN}"
                )
        check_shapes(layer, tensors, kind.rescaling, source)


def check_shapes(layer: str, tensors: Mapping[str, Tensor], rescaling: type[Rescaling], source: str) -> None:
    """Raise DamagedAdapterError unless the tensors of a layer are of one rank and of one weight (out, in).

    Args:
        tensors: by their names in files; those of low-rank terms are matrices.
        rescaling: of the type of the adapter, which tells what its norms are of.
    """
    if "M_xs" in tensors:
        if len({*tensors["M_xs"].shape}) != 1:
            raise DamagedAdapterError(
                f"{source}: {layer} has an M_xs of the shape {tuple(tensors['M_xs'].shape)}, but it is "
                f"square; {AGAIN}"
            )
        return
    (rank, inputs), (outputs, other) = tensors["lora_A"].shape, tensors["lora_B"].shape
    if rank != other:
        raise DamagedAdapterError(
            f"{source}: {layer} has lora_A of rank {rank}, but lora_B of rank {other}; {AGAIN}"
        )
    for name, axis in rescaling.axes.items():
        length, of = (outputs, "rows of lora_B") if axis == 1 else (inputs, "columns of lora_A")
        if tensors[name].numel() != length:
            raise DamagedAdapterError(
                f"{source}: {layer} has a {name} of {tensors[name].numel()} values for {length} {of}; {AGAIN}"
            )
