"""Write weights: the inference file beside each checkpoint, and exports to other layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stable_audio.audio.atomic import atomic_write
from stable_audio.characters import refuse_name
from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.checksums import save_torch_file, verify_safetensors, with_checksums
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.format import BASE_KEY, FORMAT, FORMAT_VERSION, TRANSFORMS_KEY, WHOLE_VERSION
from stable_audio.checkpoints.keys import to_sat
from stable_audio.checkpoints.parts import Part, part_of
from stable_audio.stored.safetensors_files import write_safetensors
from stable_audio.transforms.recorded import needed

WeightsLayout = Literal["ours", "sat"]


def save_inference_file(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    weights: str = "online",
    info: Mapping[str, Any] | None = None,
    transforms: Sequence[Mapping[str, Any]] = (),
    base: BaseFile | None = None,
) -> Path:
    """Write a safetensors file: weights, config and format version. It needs nothing else, but for its base.

    Args:
        tensors: weights by their key in this package.
        weights: "ema" or "online"; recorded in the metadata.
        info: further facts for the metadata, such as the step.
        transforms: records of what was done to the model before these weights were trained.
        base: the file that has the weights which are not among `tensors`.
    """
    further: dict[str, Any] = {TRANSFORMS_KEY: list(transforms), BASE_KEY: base and asdict(base)}
    further = {key: json.dumps(value) for key, value in further.items() if value}
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION if further else WHOLE_VERSION),
        "weights": weights,
        "config": json.dumps(config),
        **further,
        **{k: str(v) for k, v in (info or {}).items()},
    }
    return _save_safetensors(Path(path), tensors, metadata)


def check_target(path: str | Path, layout: WeightsLayout) -> Path:
    """The path at which `export` can write a layout, as far as its name says.

    Raises:
        CheckpointError: unknown layout or suffix.
        ValueError: a name that is not UTF-8.
    """
    path = Path(path)
    refuse_name(path)
    if layout not in ("ours", "sat"):
        raise CheckpointError(f"layout '{layout}' is unknown; use 'ours' or 'sat'")
    if path.suffix not in (".safetensors", ".ckpt"):
        raise CheckpointError(f"{path}: the name must end in .safetensors or .ckpt, not '{path.suffix}'")
    return path


def export(
    model: nn.Module,
    path: str | Path,
    *,
    config: Mapping[str, Any],
    layout: WeightsLayout = "ours",
    dtype: torch.dtype | None = None,
    part: Part = "model",
    transforms: Sequence[Mapping[str, Any]] = (),
    weights: str = "online",
) -> Path:
    """Write the weights of a model, or of one part of it, in our layout or that of stable-audio-tools.

    Args:
        path: ends in `.safetensors` or `.ckpt`.
        config: the model config as a dictionary; it is embedded.
        dtype: cast floating weights, for example to float16.
        part: a pretransform becomes a file that loads as an autoencoder.
        transforms: records of what was done to the model; those that its weights cannot be loaded without
            are written, too.
        weights: "ema" or "online", as for `save_inference_file`.

    Raises:
        CheckpointError: unknown layout or suffix, no such part, or a file that cannot record `transforms`.
        OSError: the file cannot be written, for example because the disk is full.
        ValueError: a name that is not UTF-8.
    """
    path = check_target(path, layout)
    if layout != "ours" or path.suffix != ".safetensors" or part != "model":
        refuse_transforms(transforms)
    own, config = part_of(model, config, part)
    tensors = {k: _cast(v, dtype) for k, v in own.items()}
    if layout == "ours" and path.suffix == ".safetensors":
        return save_inference_file(path, tensors, config, weights=weights, transforms=needed(transforms))
    if layout == "sat":
        tensors = to_sat(tensors, config)
    if path.suffix == ".safetensors":
        return _save_safetensors(path, tensors, {"config": json.dumps(config)})
    try:
        with atomic_write(path) as temporary:
            save_torch_file({"state_dict": tensors, "model_config": dict(config)}, temporary)
    except RuntimeError as error:  # torch's error for a full disk
        reason = str(error).splitlines()[0]
        raise OSError(f"{path} was not written, probably since the disk is full ({reason})") from error
    return path


def refuse_transforms(transforms: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to write the weights of a model that was changed where nothing could say so.

    Raises:
        CheckpointError: the weights cannot be loaded without one of `transforms`.
    """
    if records := needed(transforms):
        kinds = ", ".join(f"'{record['type']}'" for record in records)
        raise CheckpointError(
            f"the model was changed before its training by {kinds} ($.training.transforms), which no other "
            "file can record than that of a whole model in our layout: use --layout ours, --part model and a "
            "name that ends in .safetensors"
        )


def _save_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Path:
    on_cpu = _storable(tensors)
    write_safetensors(path, on_cpu, with_checksums(on_cpu, metadata), verify=verify_safetensors)
    return path


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors without shared memory, which the format refuses."""
    pointers: set[int] = set()
    on_cpu: dict[str, Tensor] = {}
    for key, value in tensors.items():
        value = value.detach().to("cpu").contiguous()
        # The format refuses views of one storage as well as the same tensor twice.
        pointer = value.untyped_storage().data_ptr()
        if pointer in pointers or value.untyped_storage().nbytes() != value.numel() * value.element_size():
            value = value.clone()
        pointers.add(value.untyped_storage().data_ptr())
        on_cpu[key] = value
    return on_cpu
