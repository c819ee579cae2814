"""The transforms of a model between loading its weights and training, applied in order and recorded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from stable_audio.adapters.settings import AdapterSettings
from stable_audio.config import ModelConfig
from stable_audio.config.schemas.leaf import arguments
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.transforms.adapters import ADAPTERS, Adapters
from stable_audio.transforms.freezing import frozen_parts, literal
from stable_audio.transforms.recorded import Record, apply_transforms

log = logging.getLogger(__name__)

FOLD: Record = {"type": "fold_pretransform_norms"}
LISTED = "$.training.transforms"
_ORIGINS = {ADAPTERS: "$.training.lora_config"}

COMPILE: Record = {"type": "compile"}
"""The record of `--compile` in `run.json`. It depends on the machine, so a run may continue without it."""


def frozen_as_built(model: nn.Module) -> list[Record]:
    """The record of what a new model's config keeps from training by other keys than its list of transforms.

    A run records it before all others, and a run that goes on applies it again.
    """
    parts = [literal(part) for part in frozen_parts(model)]
    return [{"type": "freeze", "config": {"frozen": parts}}] if parts else []


def transforms_for(config: ModelConfig, options: RunOptions) -> list[Record]:
    """Records of the transforms that a new run applies once its weights are loaded, in their order."""
    folds = options.remove_pretransform_weight_norm == "post_load"
    listed = config.training.transforms if config.training is not None else []
    others = [*_parts(config), *_adapters(config)]
    return [*([FOLD] if folds else []), *(_record(entry) for entry in listed), *others]


def _parts(config: ModelConfig) -> list[Record]:
    section = getattr(config.training, "trainable", None)
    if section is None or (section.include is None and not section.exclude):
        return []
    return [{"type": "freeze", "config": {"frozen": section.exclude, "trained": section.include}}]


def _adapters(config: ModelConfig) -> list[Record]:
    section = getattr(config.training, "lora_config", None)
    if section is None:
        return []
    precision = config.training.base_precision
    held = {} if precision is None else {"base_precision": precision}
    return [{"type": ADAPTERS, "config": {**arguments(section), **held}}]


def trained_adapter(records: Sequence[Record]) -> AdapterSettings | None:
    """The settings of the adapter that a run trains instead of the weights, if it does.

    Raises:
        TrainingError: the run would train several.
    """
    configs = [record.get("config") or {} for record in records if record["type"] == ADAPTERS]
    if len(configs) > 1:
        raise TrainingError("$.training.transforms: a run trains one adapter, but several are listed")
    return Adapters(**configs[0]).settings if configs else None


def _record(entry: Any) -> Record:
    return {"type": entry.type, "config": arguments(entry.config)}


def transform(model: nn.Module, records: Sequence[Record]) -> None:
    """Apply what `records` describe to a model with its weights.

    Raises:
        TrainingError: the model has nothing that one of them changes.
    """
    for record in records:
        folds = record is FOLD
        origin = "--remove-pretransform-weight-norm" if folds else _ORIGINS.get(record["type"], LISTED)
        try:
            apply_transforms(model, [record])
        except ValueError as error:
            raise TrainingError(f"{origin}: {error}") from error
        log.info("the model is changed before training: %s", record["type"])
