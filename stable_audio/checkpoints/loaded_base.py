"""The model that adapters are for, loaded from its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.layers import own_weight
from stable_audio.adapters.stack import AdapterStack
from stable_audio.checkpoints.files import resolve
from stable_audio.checkpoints.loading import load_reported
from stable_audio.model import DiffusionModel


@dataclass(frozen=True)
class LoadedBase:
    """A model that adapters are for.

    Attributes:
        name: of its file.
        transforms: what was done to it before it was trained, as records.
        averaged: "ema" where its file says that its weights are an average, else "online".
    """

    model: DiffusionModel
    config: dict[str, Any]
    name: str
    transforms: Sequence[Any] = ()
    averaged: str = "online"

    @property
    def stack(self) -> AdapterStack:
        """A new stack of its layers."""
        return AdapterStack(self.model.backbone, self.model.conditioner)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weight of each layer that adapters change, as a matrix."""
        return {name: own_weight(layer).detach() for name, layer in self.stack.layers.items()}


def load_base(path: str | Path, *, config: Any = None, use_ema: bool = True) -> LoadedBase:
    """Load the model that an adapter is for.

    Args:
        path: as for `load_model`, as are the others.

    Raises:
        CheckpointError: see `load_model`.
        AdapterError: it is no diffusion model.
    """
    file = resolve(path, use_ema=use_ema)
    model, model_config, report = load_reported(file, config=config, use_ema=use_ema)
    if not isinstance(model, DiffusionModel):
        raise AdapterError(
            f"{path}: holds a model of type {model_config.model_type}; adapters are for diffusion models"
        )
    return LoadedBase(model, model_config.as_dict(), file.name, report.transforms, report.weights)
