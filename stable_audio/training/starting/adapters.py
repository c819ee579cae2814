"""The model that a run trains an adapter of, the adapter that it starts from, and what files say of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from stable_audio import __version__
from stable_audio.adapters import Adapter, AdapterError, BaseModel, Passport, base_hash
from stable_audio.adapters.base import base_tensors, check_hash
from stable_audio.adapters.files import trained_layers
from stable_audio.adapters.passport import config_hash
from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.difference import keys_of
from stable_audio.checkpoints.run_adapters import read_newest_adapter
from stable_audio.config import ModelConfig
from stable_audio.stored.hub_names import parse
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.transforms.adapters import Adapters
from stable_audio.wording import names, plural

LOADED_FROM = "$.training.lora_ckpt_path"


def adapted_model(model: nn.Module, from_base: Sequence[Tensor], base: BaseFile | None) -> BaseModel:
    """What files of an adapter say of its model, which is still as it was loaded.

    Args:
        from_base: parameters and buffers that have their values from `base`.
        base: the file of the model.

    Raises:
        TrainingError: that file has not all weights of backbone and conditioner.
    """
    assert base is not None
    missing = sorted(base_tensors(model).keys() - keys_of(model, from_base))
    if missing:
        raise TrainingError(
            f"{base.path}: an adapter is for a whole model, but this file has not all weights of it "
            f"(missing: {names(missing, 3)}); train these first, with all weights"
        )
    path = Path(base.path)
    name = base.path if parse(base.path) is not None else "/".join(path.parts[-2:])
    return BaseModel(name=name, path=base.path, hash=base_hash(model))


def passport_of(config: ModelConfig, options: RunOptions, adapted: BaseModel | None) -> Passport:
    """What files of an adapter say of its run, without the clips and the step."""
    if adapted is None:
        return Passport()
    return Passport(
        base=adapted,
        config_hash=config_hash(config.as_dict()),
        seed=options.seed,
        software=f"stable-audio {__version__}",
    )


def start_from_adapter(
    config: ModelConfig, model: nn.Module, adapted: BaseModel | None, *, any_base: bool
) -> None:
    """Give the adapter that a run trains the values in `lora_ckpt_path`, if the config has it.

    Args:
        model: with the adapter.
        adapted: the model without it.
        any_base: whether the values may have been trained on another model.

    Raises:
        TrainingError: the file has another adapter.
    """
    path = getattr(config.training, "lora_ckpt_path", None)
    if path is None or adapted is None:
        return
    try:
        adapter = read_newest_adapter(path)
        if not any_base:
            check_hash(adapted.hash, [adapter], name=adapted.name)
    except AdapterError as error:
        raise TrainingError(f"{LOADED_FROM}: {error}") from error
    settings = Adapters(**config.training.lora_config.model_dump(exclude_unset=True)).settings
    layers = trained_layers(model.state_dict(keep_vars=True))
    _check_settings(adapter, Adapter(settings, layers))
    with torch.no_grad():
        for name, tensors in layers.items():
            for key, tensor in tensors.items():
                tensor.copy_(adapter.layers[name][key])


def _check_settings(stored: Adapter, trained: Adapter) -> None:
    differing = [
        f"{key} {theirs} there, {ours} in lora_config"
        for key in ("adapter_type", "rank")
        if (theirs := getattr(stored.settings, key)) != (ours := getattr(trained.settings, key))
    ]
    shapes = [
        {name: {k: tuple(v.shape) for k, v in tensors.items()} for name, tensors in adapter.layers.items()}
        for adapter in (stored, trained)
    ]
    other = sorted(k for k in shapes[0].keys() | shapes[1].keys() if shapes[0].get(k) != shapes[1].get(k))
    if other and not differing:
        differing = [f"{plural(len(other), 'layer', 'differ')} ({names(other, 3)})"]
    if differing:
        raise TrainingError(
            f"{LOADED_FROM}: {stored.source} holds another adapter than this run trains: "
            f"{'; '.join(differing)}; set lora_config as it was"
        )
